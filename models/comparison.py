"""Two models on the same examples of many devices: how much worse one is, and how sure that is.

Each device measures both, so that what differs between devices falls out: the difference on one device is one value.
They are merged by a mean without the outermost (``models.trimming``): a device may say what it likes of either model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from models.answering import NO_METRICS, metrics_from_data, metrics_to_data
from models.errors import DataError
from models.metrics import Metrics
from models.spec import Task
from models.trimming import bounded_weights, trimmed_mean

MEASURES: Final[Mapping[Task, tuple[str, ...]]] = {
    "classification": ("accuracy", "loss"),
    "regression": ("mse", "mae", "loss"),
    "reconstruction": ("error", "loss"),
}
"""What two models are compared by; the first one is what counts unless another one is named."""

MAX_TOLD = 10_000
"""So many devices' own figures are kept for the means; those of more would change nothing that can be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merging:
    """How what devices say becomes one figure."""

    max_weight: float
    """A device weighs as many as its examples, at most so many, and at most twice as many as the median device."""
    trim: float
    """Share of the devices that is left out at each end; at least one of three or more, unless it is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """One measure over devices: means, the outermost left out."""

    devices: int = 0
    mean: float = 0.0
    """How much worse the second model is; an accuracy that falls is worse, as is an error that rises."""
    error: float = float("inf")
    """Standard error of ``mean``; infinite for one device, of which nothing can be known."""
    first: float = 0.0
    """The first model's value, of which devices are left out by that value."""
    second: float = 0.0
    trimmed: int = 0
    """So many devices were left out at each end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one device found: of each of its task's measures the first model's value, and the second's."""

    examples: int
    first: tuple[float, ...]
    second: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What devices found of two models; parts are joined by ``+``."""

    task: Task
    first: Metrics
    second: Metrics
    told: tuple[Told, ...] = ()
    """By device, of those with examples, ``MAX_TOLD`` at most."""
    devices: int = 0
    """How many had examples."""

    @classmethod
    def none(cls, task: Task) -> Comparison:
        """Return the comparison by nobody: the neutral element of ``+``."""
        return cls(task=task, first=NO_METRICS[task], second=NO_METRICS[task])

    @classmethod
    def of(cls, task: Task, first: Metrics, second: Metrics) -> Comparison:
        """Return one device's; without examples it is nobody's."""
        if first.count != second.count:
            raise DataError(f"one model on {first.count} examples, the other on {second.count}")
        if not first.count:
            return cls.none(task)
        one, two = first.summary(), second.summary()
        names = MEASURES[task]
        told = Told(
            examples=first.count, first=tuple(one[name] for name in names), second=tuple(two[name] for name in names)
        )
        return cls(task=task, first=first, second=second, told=(told,), devices=1)

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            task=self.task,
            # Both are of the same task.
            first=self.first + other.first,  # type: ignore[operator] # no union of them says so
            second=self.second + other.second,  # type: ignore[operator] # as above
            told=(*self.told, *other.told)[:MAX_TOLD],
            devices=self.devices + other.devices,
        )

    def by(self, name: str, merging: Merging) -> Differences:
        """Return what devices found by this measure; it does not depend on the order in which they said it."""
        if not self.told:
            return Differences()
        index = MEASURES[self.task].index(name)
        sign = -1.0 if is_good(name) else 1.0
        weights = bounded_weights([told.examples for told in self.told], merging.max_weight)
        first = [told.first[index] for told in self.told]
        second = [told.second[index] for told in self.told]
        worse = trimmed_mean([sign * (b - a) for a, b in zip(first, second, strict=True)], weights, merging.trim)
        return Differences(
            devices=self.devices,
            mean=worse.mean,
            error=worse.error,
            first=trimmed_mean(first, weights, merging.trim).mean,
            second=trimmed_mean(second, weights, merging.trim).mean,
            trimmed=worse.trimmed,
        )

    def to_data(self) -> dict[str, Any]:
        """Return the sums as plain data; what each device found is kept with its answer."""
        return {"first": metrics_to_data(self.first), "second": metrics_to_data(self.second)}

    @classmethod
    def from_data(cls, task: Task, data: object, answers: Iterable[tuple[int, Mapping[str, float]]] = ()) -> Comparison:
        """Return the comparison of sums and answers of our own; raise ``DataError`` when they are of another task.

        An answer is a number of examples, and figures as ``figures`` names them.
        """
        # Older versions kept sums of differences as well, ``by``.
        if not isinstance(data, Mapping) or not {"first", "second"} <= data.keys() <= {"first", "second", "by"}:
            raise DataError("a comparison is no map of first and second")
        found = tuple(_told(task, examples, figures) for examples, figures in answers if examples)
        return cls(
            task=task,
            first=metrics_from_data(task, data["first"]),
            second=metrics_from_data(task, data["second"]),
            told=found[:MAX_TOLD],
            devices=len(found),
        )

    def figures(self) -> dict[str, float]:
        """Return the means over all examples, those of the first model under names that end in ``_before``."""
        before = {f"{name}_before": value for name, value in self.first.summary().items()}
        return {**self.second.summary(), **before}


def _told(task: Task, examples: int, figures: Mapping[str, float]) -> Told:
    try:
        first = tuple(float(figures[f"{name}_before"]) for name in MEASURES[task])
        second = tuple(float(figures[name]) for name in MEASURES[task])
    except KeyError as exc:
        raise DataError(f"a device's answer has no {exc.args[0]}") from exc
    return Told(examples=examples, first=first, second=second)


def is_good(name: str) -> bool:
    """Return whether more of a measure is better."""
    return name == "accuracy"
