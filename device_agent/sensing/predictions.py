"""What a model says of a window, as the JSON that the board's other programs read. Pure; no NumPy here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from device_agent.sensing.sources import Topic
from protocol.link import BrokerSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from protocol.thresholds import Threshold

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
    threshold: Annotated[float, Meta(ge=0, le=1e18)] = 0.0
    """Of an autoencoder: a window with a larger error is an anomaly. 0: the federation's threshold."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """From which error on a window is an anomaly."""

    error: float
    version: int | None = None
    """On which it was measured; None: somebody set it on this device."""


def limit_of(settings: PredictionSettings, announced: Threshold | None) -> Limit | None:
    """Return what holds on this device: what is set there, or the federation's, if there is one."""
    if settings.threshold:
        return Limit(error=settings.threshold)
    return None if announced is None else Limit(error=announced.error, version=announced.version)


def prediction(
    output: Sequence[float],
    *,
    what: What,
    time: float,
    device_id: str,
    version: int,
    by: str,
    names: Mapping[int, str] | None = None,
    limit: Limit | None = None,
) -> bytes:
    """Return the message about one window that ended at ``time`` (seconds since 1970 UTC).

    ``output``: probabilities of the classes, values, or one error; only of that ``limit`` says whether it is too large.
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
        said |= _judged(output[0], limit)
    elif len(output) == 1:
        said["value"] = _number(output[0])
    else:
        said["values"] = [_number(value) for value in output]
    said["by"] = by
    return msgspec.json.encode(said)


def _judged(error: float, limit: Limit | None) -> dict[str, Any]:
    if limit is None:
        return {}
    # An error that is no number is one, too.
    said: dict[str, Any] = {"anomaly": not error <= limit.error, "threshold": _number(limit.error)}
    return said if limit.version is None else said | {"threshold_version": limit.version}


def _number(value: float) -> float | None:
    # JSON knows no NaN: a model that diverged says nothing.
    return float(f"{value:.6g}") if math.isfinite(value) else None
