"""From what a payload holds to a number that may be believed: words, units, limits, error codes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

Sent: TypeAlias = Any
"""What came from outside: of any type that JSON knows, or that somebody else's code makes."""

MISSING = math.nan

LARGEST = 3.4028234663852886e38
"""Of float32."""

WORDS = {"on": 1.0, "true": 1.0, "open": 1.0, "yes": 1.0, "off": 0.0, "false": 0.0, "closed": 0.0, "no": 0.0}
NO_VALUES = frozenset({"", "null", "none", "unknown", "unavailable", "nan"})
"""What is sent in place of a value: that it is missing is no fault."""

MAX_WORD = 64


class ValueFault(ValueError):  # noqa: N818 - a fault of what was sent
    """A value that is refused; the text is short, and the same for the same kind of fault."""


def number_of(value: Sent) -> float:
    """Return the number; NaN for what says that there is none. Raise ``ValueFault`` for what is no number.

    Booleans, and words such as ``ON`` and ``closed``, are 1 and 0; texts may hold a number.
    """
    if value is None:
        return MISSING
    if isinstance(value, str):
        return _of_word(value)
    if not isinstance(value, int | float):
        raise ValueFault("no number")
    try:
        number = float(value)
    except OverflowError:
        raise ValueFault("not finite") from None
    return _finite(number)


def _of_word(text: str) -> float:
    word = text.strip().lower() if len(text) <= MAX_WORD else text
    if word in NO_VALUES:
        return MISSING
    if word in WORDS:
        return WORDS[word]
    try:
        # Not what Python alone takes for numbers: 1_000 is somebody's code, and no thousand.
        number = float(word) if "_" not in word and len(word) <= MAX_WORD else None
    except ValueError:
        number = None
    if number is None:
        raise ValueFault("no number")
    return _finite(number)


def _finite(number: float) -> float:
    if not abs(number) <= LARGEST:
        raise ValueFault("not finite")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One channel's unit and limits: ``value = raw * scale + offset``."""

    scale: float = 1.0
    offset: float = 0.0
    low: float = -LARGEST
    high: float = LARGEST
    error_values: frozenset[float] = frozenset()
    """Raw values by which the sensor says that it has none."""

    def __call__(self, raw: float) -> float:
        """Return the value in the channel's unit; NaN stays NaN. Raise ``ValueFault`` for what cannot be."""
        if raw != raw:  # noqa: PLR0124 - NaN
            return raw
        if raw in self.error_values:
            raise ValueFault("error value")
        value = raw * self.scale + self.offset
        if not self.low <= value <= self.high:
            raise ValueFault("outside its limits")
        return value
