"""How a figure is spread over devices: each counts once, and a fleet is as good as its worst."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from msgspec import Struct

from aggregator.buffer import Contribution
from aggregator.measured import MODELS

MEASURES = ("accuracy", "loss", "mse", "mae", "error")
"""What devices measure on what they hold out."""

_QUANTILES = {"p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9}


class Spread(Struct, frozen=True, kw_only=True):
    """One figure over devices, from the worst to the best: more accuracy is better, less of everything else."""

    whose: str
    """``global``: the version as it came; ``personal``: with the device's own parameters; ``local``: a model of the
    device's data alone."""
    measure: str
    devices: int
    mean: float
    """Each device counts once."""
    worst: float
    worst_device: str
    p10: float
    """One device in ten is worse; between two devices by linear interpolation."""
    p25: float
    p50: float
    p75: float
    p90: float
    best: float


def spread(whose: str, measure: str, by_device: Mapping[str, float]) -> Spread:
    """Return how the values of one device or more are spread."""
    sign = -1.0 if is_good(measure) else 1.0
    ordered = sorted(by_device.items(), key=lambda item: (-sign * item[1], item[0]))
    values = [value for _, value in ordered]
    return Spread(
        whose=whose,
        measure=measure,
        devices=len(values),
        mean=math.fsum(values) / len(values),
        worst=values[0],
        worst_device=ordered[0][0],
        best=values[-1],
        **{name: _quantile(values, share) for name, share in _QUANTILES.items()},
    )


def is_good(measure: str) -> bool:
    """Return whether more of it is better."""
    return measure == "accuracy"


def held_out(contributions: Iterable[Contribution]) -> list[Spread]:
    """Return what the devices of these updates measured of the version they began with; of each the last word."""
    last = {contribution.device_id: contribution.metrics for contribution in contributions}
    found = []
    for whose, ends in MODELS.items():
        for measure in MEASURES:
            names = [f"holdout_{measure}{end}" for end in ends]
            by_device = {
                device: next(figures[name] for name in names if name in figures)
                for device, figures in last.items()
                if any(name in figures for name in names)
            }
            if by_device:
                found.append(spread(whose, measure, by_device))
    return found


def _quantile(ordered: list[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
