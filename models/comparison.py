"""Two models on the same examples of many devices: how much worse one is, and how sure that is. Sums, joined by ``+``.

Each device measures both, so that what differs between devices falls out: the difference on one device is one value,
and its weighted mean over devices has the standard error of a weighted mean (Cochran, "Sampling Techniques", 1977).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from models.answering import NO_METRICS, metrics_from_data, metrics_to_data
from models.errors import DataError
from models.metrics import Metrics
from models.spec import Task

MEASURES: Final[Mapping[Task, tuple[str, ...]]] = {
    "classification": ("accuracy", "loss"),
    "regression": ("mse", "mae", "loss"),
    "reconstruction": ("error", "loss"),
}
"""What two models are compared by; the first one is what counts unless another one is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Sums over devices of one measure.

    Each device has a weight ``w``, the first model's value, and says how much worse (``d``) the second one is.
    """

    devices: int = 0
    weight: float = 0.0
    base: float = 0.0
    """``sum w value``."""
    worse: float = 0.0
    """``sum w d``; an accuracy that falls is worse, as is an error that rises."""
    squared_weight: float = 0.0
    squared_worse: float = 0.0
    """``sum w^2 d``."""
    squared_squares: float = 0.0
    """``sum w^2 d^2``."""

    @classmethod
    def of(cls, weight: float, value: float, worse: float) -> Differences:
        """Return the sums of one device."""
        return cls(
            devices=1,
            weight=weight,
            base=weight * value,
            worse=weight * worse,
            squared_weight=weight**2,
            squared_worse=weight**2 * worse,
            squared_squares=(weight * worse) ** 2,
        )

    def __add__(self, other: Differences) -> Differences:
        return Differences(**{name: getattr(self, name) + getattr(other, name) for name in _SUMS})

    @property
    def mean(self) -> float:
        """How much worse, on the weighted mean of the devices; 0 without any."""
        return self.worse / self.weight if self.weight else 0.0

    @property
    def mean_base(self) -> float:
        """The first model's value, on the same mean."""
        return self.base / self.weight if self.weight else 0.0

    @property
    def error(self) -> float:
        """Standard error of ``mean``; infinite for fewer than two devices, of which nothing can be known."""
        if self.devices < 2:  # noqa: PLR2004 - see above
            return math.inf
        mean = self.mean
        squares = self.squared_squares - 2.0 * mean * self.squared_worse + mean**2 * self.squared_weight
        return math.sqrt(max(0.0, squares) * self.devices / (self.devices - 1)) / self.weight


_SUMS = tuple(Differences.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What devices found of two models."""

    task: Task
    first: Metrics
    second: Metrics
    by: Mapping[str, Differences] = field(default_factory=dict)
    """The differences by measure."""

    @classmethod
    def none(cls, task: Task) -> Comparison:
        """Return the comparison by nobody: the neutral element of ``+``."""
        by = {name: Differences() for name in MEASURES[task]}
        return cls(task=task, first=NO_METRICS[task], second=NO_METRICS[task], by=by)

    @classmethod
    def of(cls, task: Task, first: Metrics, second: Metrics, max_weight: float) -> Comparison:
        """Return one device's; it weighs as many as its examples, at most ``max_weight``. None weigh nothing."""
        if first.count != second.count:
            raise DataError(f"one model on {first.count} examples, the other on {second.count}")
        if not first.count:
            return cls.none(task)
        weight = float(min(first.count, max_weight))
        one, two = first.summary(), second.summary()
        by = {
            name: Differences.of(
                weight, one[name], (one[name] - two[name]) if is_good(name) else (two[name] - one[name])
            )
            for name in MEASURES[task]
        }
        return cls(task=task, first=first, second=second, by=by)

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            task=self.task,
            # Both are of the same task.
            first=self.first + other.first,  # type: ignore[operator] # no union of them says so
            second=self.second + other.second,  # type: ignore[operator] # as above
            by={name: found + other.by[name] for name, found in self.by.items()},
        )

    @property
    def devices(self) -> int:
        """How many had examples."""
        return self.by[MEASURES[self.task][0]].devices

    def to_data(self) -> dict[str, Any]:
        """Return the sums as plain data."""
        by = {name: [getattr(found, each) for each in _SUMS] for name, found in self.by.items()}
        return {"first": metrics_to_data(self.first), "second": metrics_to_data(self.second), "by": by}

    @classmethod
    def from_data(cls, task: Task, data: object) -> Comparison:
        """Return the sums in data of our own; raise ``DataError`` when they are of another task, or none."""
        if not isinstance(data, Mapping) or data.keys() != {"first", "second", "by"}:
            raise DataError("a comparison is no map of first, second and by")
        by = data["by"]
        if not isinstance(by, Mapping) or set(by) != set(MEASURES[task]):
            raise DataError("a comparison is by other measures than the task has")
        if any(not isinstance(sums, list | tuple) or len(sums) != len(_SUMS) for sums in by.values()):
            raise DataError(f"a comparison's measures are not {len(_SUMS)} sums each")
        return cls(
            task=task,
            first=metrics_from_data(task, data["first"]),
            second=metrics_from_data(task, data["second"]),
            by={name: Differences(**dict(zip(_SUMS, by[name], strict=True))) for name in MEASURES[task]},
        )


def is_good(name: str) -> bool:
    """Return whether more of a measure is better."""
    return name == "accuracy"
