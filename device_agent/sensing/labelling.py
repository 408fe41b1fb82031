"""Labels: as numbers, from words; and as states that hold until the next one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from device_agent.sensing.values import MISSING, NO_VALUES, Sent, ValueFault, number_of

EVERYBODY = "*"
"""No source can have this name."""


def label_of(value: Sent, labels: Mapping[str, float]) -> float:
    """Return the label as a number: by the table ``labels`` if it is there, else as any value.

    NaN for what says that there is none. Raise ``ValueFault`` for a text that stands for nothing.
    """
    word = _word_of(value)
    if word is not None and word in labels:
        return labels[word]
    if isinstance(value, str) and value.strip().lower() in NO_VALUES:
        return MISSING
    try:
        return number_of(value)
    except ValueFault:
        raise ValueFault("unknown label") from None


def _word_of(value: Sent) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() < 64:  # noqa: PLR2004 - printing longer ones takes quadratic time
        return str(value)
    return value.strip() if isinstance(value, str) else None


class LabelBoard:
    """What holds now. A source's own label goes before one that is for everybody. May be used by several threads."""

    def __init__(self) -> None:
        # Replaced as a whole, never changed: who reads it in another thread sees the one or the other.
        self._holds: dict[str, tuple[tuple[str, float], ...]] = {}

    def put(self, origin: str, scope: str, label: float) -> None:
        """From now on this label holds for ``scope`` (a source, or ``EVERYBODY``), says ``origin``; NaN: none does."""
        others = tuple(said for said in self._holds.get(scope, ()) if said[0] != origin)
        # At the end: of several, the latest to speak is heard.
        self._holds = {**self._holds, scope: others if math.isnan(label) else (*others, (origin, label))}

    def forget(self, origin: str) -> None:
        """Take back what ``origin`` said: it may have changed unnoticed."""
        for scope in self._holds:
            self.put(origin, scope, MISSING)

    def holding(self, source: str) -> float:
        """Return the label for a row of this source; NaN: none."""
        for scope in (source, EVERYBODY):
            if said := self._holds.get(scope):
                return said[-1][1]
        return MISSING
