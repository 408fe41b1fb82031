"""What devices measured on their own held-out data, over a version's updates: the mean, the lowest tenth, the worst."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from aggregator.buffer import Contribution

MEASURES = (("accuracy", True), ("loss", False))
"""By what a model is judged, and whether more is better; the first that devices report."""

MODELS = {"global": ("_global", "_before"), "personal": ("_personal",), "local": ("_local",)}
"""Whose parameters were measured, and how their metrics end. Where nothing is personal, what a training begins with is
the version as it came."""

TENTH = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measure of one model, over devices."""

    measure: str
    devices: int
    mean: float
    """Each device counts once, whatever it has of examples."""
    tenth: float
    """A tenth of the devices are worse, nine tenths better; between two of them by linear interpolation."""
    worst: float
    worst_device: str


def measured(contributions: Iterable[Contribution]) -> dict[str, Measured]:
    """Return what there is of ``global``, ``personal`` and ``local``; of a device with several updates the last."""
    last = {contribution.device_id: contribution.metrics for contribution in contributions}
    for measure, more_is_better in MEASURES:
        found = {whose: _over(last, measure, ends, more_is_better) for whose, ends in MODELS.items()}
        if any(found.values()):
            return {whose: values for whose, values in found.items() if values}
    return {}


def _over(
    metrics: dict[str, dict[str, float]], measure: str, ends: tuple[str, ...], more_is_better: bool
) -> Measured | None:
    by_device: dict[str, float] = {}
    for device, figures in metrics.items():
        names = [f"holdout_{measure}{end}" for end in ends]
        value = next((figures[name] for name in names if name in figures), None)
        if value is not None:
            by_device[device] = value
    if not by_device:
        return None
    sign = 1.0 if more_is_better else -1.0
    worst_first = sorted(by_device.items(), key=lambda found: (sign * found[1], found[0]))
    return Measured(
        measure=measure,
        devices=len(by_device),
        mean=math.fsum(by_device.values()) / len(by_device),
        tenth=_quantile([value for _, value in worst_first], TENTH),
        worst=worst_first[0][1],
        worst_device=worst_first[0][0],
    )


def _quantile(ordered: list[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
