"""What a model says of a window, as the JSON that the board's other programs read. Pure; no NumPy here."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from device_agent.sensing.sources import Topic
from protocol.link import BrokerSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Name: TypeAlias = Annotated[str, Meta(max_length=64)]
What: TypeAlias = Literal["class", "values", "error"]
"""A class of several; values (a regression, a forecast); or how badly a window was reconstructed."""


class PredictionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[predictions]``: what the newest model says of new samples, on a topic of a broker on this board."""

    topic: Topic = ""
    """Empty: no predictions, and no NumPy in memory for them."""
    broker: BrokerSettings = BrokerSettings()
    qos: Literal[0, 1] = 0
    retain: bool = False
    """For those who come later; off: a prediction is for whoever listens."""
    interval_s: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    """No sooner than this after the last; 0: for each window."""
    names: Annotated[list[Name], Meta(max_length=65536)] = []
    """Of the classes, in order; empty: those that the sources' ``labels`` have."""
    tflite: bool = True
    """By a TFLite runtime, where one is installed."""

    def __post_init__(self) -> None:
        if any(letter in self.topic for letter in "#+\0"):
            raise ValueError(f"topic {self.topic!r} has a wildcard: predictions go to one topic")


def names_of(settings: PredictionSettings, labels: Sequence[Mapping[str, float]]) -> dict[int, str]:
    """Return the name of each class: as they are set, or the texts that stand for their numbers in the sources."""
    if settings.names:
        return dict(enumerate(settings.names))
    found: dict[int, str] = {}
    for table in labels:
        for name, number in table.items():
            if number == int(number):
                found.setdefault(int(number), name)
    return found


def prediction(
    output: Sequence[float],
    *,
    what: What,
    time: float,
    device_id: str,
    version: int,
    by: str,
    names: Mapping[int, str] | None = None,
) -> bytes:
    """Return the message about one window that ended at ``time`` (seconds since 1970 UTC).

    ``output``: probabilities of the classes, values, or one error.
    """
    said: dict[str, Any] = {"time": round(time, 6), "device": device_id, "version": version}
    if what == "class":
        best = max(range(len(output)), key=output.__getitem__)
        said["class"] = best
        if names and best in names:
            said["name"] = names[best]
        said["confidence"] = _number(output[best])
    elif what == "error":
        said["error"] = _number(output[0])
    elif len(output) == 1:
        said["value"] = _number(output[0])
    else:
        said["values"] = [_number(value) for value in output]
    said["by"] = by
    return json.dumps(said).encode()


def _number(value: float) -> float | None:
    # JSON knows no NaN: a model that diverged says nothing.
    return float(f"{value:.6g}") if math.isfinite(value) else None
