"""What a federation's features look like, without a sample leaving its device: sums that devices make and anybody adds.

Counts, means and squared deviations, extremes, what is missing, quantiles (``sketch``) and classes. Mean and deviation
are merged as Chan, Golub and LeVeque (1979) do it: a plain sum of squares loses everything where a feature is large and
hardly varies, as air pressure in Pascal does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError
from models.pieces import Between, go_on
from models.sketch import MAX_COUNT, Grid, pack, unpack

MAX_COLUMNS = 4096
"""A report of so many has about half a megabyte."""
MAX_CLASSES = 2**16

GRID: Final = Grid(0.05)
_BLOCK_ROWS = 4096
_BLOCK_VALUES = 2**18
"""Some hundredths of a second's worth; with fewer rows more time goes into adding up than into counting."""
_LARGEST = float(np.finfo(np.float32).max)
"""Features are float32; and sums of squares of these stay finite, however many there are."""
_NUMBERS = ("mean", "squares", "minimum", "maximum")
_COUNTS = ("present", "classes")
_KEYS = frozenset({"rows", *_COUNTS, *_NUMBERS, "buckets"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureStatistics:
    """Figures about ``rows`` examples of some columns; ``none`` gives the neutral element of ``+``."""

    rows: int
    present: NDArray[np.int64]
    """``(columns,)``: values that are there."""
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    """``(columns,)``: sum of the squared distances from the mean."""
    minimum: NDArray[np.float64]
    """``(columns,)``: infinite where nothing is there."""
    maximum: NDArray[np.float64]
    buckets: NDArray[np.int64]
    """``(columns, GRID.size)``: how many values are in each bucket."""
    classes: NDArray[np.int64]
    """``(classes,)``: examples of each class; empty where there are no classes."""

    @classmethod
    def none(cls, columns: int, classes: int = 0) -> FeatureStatistics:
        """Return the figures about no examples."""
        return cls(
            rows=0,
            present=np.zeros(columns, np.int64),
            mean=np.zeros(columns),
            squares=np.zeros(columns),
            minimum=np.full(columns, np.inf),
            maximum=np.full(columns, -np.inf),
            buckets=np.zeros((columns, GRID.size), np.int64),
            classes=np.zeros(classes, np.int64),
        )

    @classmethod
    def of(
        cls,
        x: NDArray[np.floating[Any]],
        labels: NDArray[np.int64] | None = None,
        classes: int = 0,
        between: Between = go_on,
    ) -> FeatureStatistics:
        """Return the figures about ``x`` ``(n, columns)``, where NaN (or an infinity) is missing.

        ``labels`` ``(n,)`` are from 0 to ``classes - 1``. ``between`` is called between bounded pieces.
        """
        total = cls.none(x.shape[1], classes)
        size = min(_BLOCK_ROWS, max(64, _BLOCK_VALUES // max(1, x.shape[1])))
        for first in range(0, len(x), size):
            between()
            part = slice(first, first + size)
            total += _of_block(x[part], None if labels is None else labels[part], classes)
        return total

    def __add__(self, other: FeatureStatistics) -> FeatureStatistics:
        present = self.present + other.present
        share = np.divide(other.present, present, out=np.zeros(len(present)), where=present > 0)
        # An empty side has mean 0, which is nobody's: its share, or the other's, is 0 as well.
        apart = np.where((self.present > 0) & (other.present > 0), other.mean - self.mean, 0.0)
        return FeatureStatistics(
            rows=self.rows + other.rows,
            present=present,
            mean=np.where(self.present > 0, self.mean, other.mean) + apart * share,
            squares=self.squares + other.squares + apart**2 * self.present * share,
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
            buckets=self.buckets + other.buckets,
            classes=self.classes + other.classes,
        )

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Standard deviation of each column (of the population); 0 where nothing is there."""
        mean_square = np.divide(self.squares, self.present, out=np.zeros(len(self.present)), where=self.present > 0)
        return np.sqrt(mean_square)

    def scale(self) -> NDArray[np.float64]:
        """Return what each column is to be divided by: its deviation; 1 for one that never changes."""
        deviation = self.deviation
        # What is left of a constant after rounding is no scale.
        flat = deviation <= 1e-6 * np.maximum(np.abs(self.mean), 1e-30)
        return np.where(flat, 1.0, deviation)

    def quantiles(self, column: int, shares: Sequence[float]) -> list[float]:
        """Return quantiles of a column, within ``GRID.accuracy``; NaN where nothing is there."""
        if not self.present[column]:
            return [float("nan")] * len(shares)
        found = GRID.quantiles(self.buckets[column], shares)
        inside: list[float] = np.clip(found, self.minimum[column], self.maximum[column]).tolist()
        return inside

    def to_data(self) -> dict[str, Any]:
        """Return the figures as data for msgpack; ``from_data`` gives them again."""
        return {
            "rows": self.rows,
            **{name: getattr(self, name).tolist() for name in _COUNTS},
            **{name: getattr(self, name).astype("<f8").tobytes() for name in _NUMBERS},
            "buckets": [pack(counts) for counts in self.buckets],
        }

    @classmethod
    def from_data(cls, data: object, columns: int, classes: int) -> FeatureStatistics:
        """Return the figures in data from outside, checked against each other; raise ``DataError``."""
        if not isinstance(data, Mapping) or data.keys() != _KEYS:
            raise DataError("statistics are no map of " + ", ".join(sorted(_KEYS)))
        rows = data["rows"]
        if type(rows) is not int or not 0 <= rows <= MAX_COUNT:
            raise DataError(f"rows is no whole number from 0 to {MAX_COUNT}")
        buckets = data["buckets"]
        if not isinstance(buckets, list) or len(buckets) != columns:
            raise DataError(f"buckets are no list of {columns}")
        found = cls(
            rows=rows,
            present=_counts("present", data["present"], columns, rows),
            classes=_counts("classes", data["classes"], classes, rows),
            buckets=np.stack([unpack(each, GRID.size) for each in buckets]) if columns else _no_buckets(),
            **{name: _numbers(name, data[name], columns) for name in _NUMBERS},
        )
        found._check()
        return found

    def _check(self) -> None:
        there = self.present > 0
        if (self.buckets.sum(axis=1) != self.present).any():
            raise DataError("buckets hold another number of values than are present")
        if self.classes.sum() > self.rows:
            raise DataError("classes hold more examples than there are rows")
        inside = (self.minimum <= self.mean) & (self.mean <= self.maximum)
        with np.errstate(invalid="ignore", over="ignore"):  # of nothing, or of nonsense
            room = (self.maximum - self.minimum) ** 2 * self.present
        sound = (np.abs(self.minimum) <= _LARGEST) & (np.abs(self.maximum) <= _LARGEST) & inside & (self.squares >= 0)
        # Popoviciu: n values between two bounds differ from their mean by no more than a quarter of that, squared.
        sound &= self.squares <= 0.25 * room * (1 + 1e-6) + 1e-300
        nothing = (self.mean == 0) & (self.squares == 0) & np.isposinf(self.minimum) & np.isneginf(self.maximum)
        wrong = np.flatnonzero(~np.where(there, sound, nothing))
        if wrong.size:
            raise DataError(f"the figures of column {wrong[0]} contradict each other")


def _of_block(x: NDArray[np.floating[Any]], labels: NDArray[np.int64] | None, classes: int) -> FeatureStatistics:
    values = x.astype(np.float64)
    there = np.isfinite(values)
    present = there.sum(axis=0)
    filled = np.where(there, values, 0.0)
    mean = np.divide(filled.sum(axis=0), present, out=np.zeros(x.shape[1]), where=present > 0)
    lowest = np.where(there, values, np.inf).min(axis=0, initial=np.inf)
    highest = np.where(there, values, -np.inf).max(axis=0, initial=-np.inf)
    return FeatureStatistics(
        rows=len(x),
        present=present,
        # Rounding may carry the mean of equal values just beyond them.
        mean=np.where(present > 0, np.clip(mean, lowest, highest), 0.0),
        squares=(np.where(there, values - mean, 0.0) ** 2).sum(axis=0),
        minimum=lowest,
        maximum=highest,
        buckets=GRID.count(values),
        classes=_per_class(labels, classes),
    )


def _per_class(labels: NDArray[np.int64] | None, classes: int) -> NDArray[np.int64]:
    if labels is None:
        return np.zeros(classes, np.int64)
    return np.bincount(labels.astype(np.intp, copy=False), minlength=classes).astype(np.int64, copy=False)


def _counts(name: str, found: object, size: int, most: int) -> NDArray[np.int64]:
    if not isinstance(found, list) or len(found) != size:
        raise DataError(f"{name} is no list of {size}")
    if not all(type(count) is int and 0 <= count <= most for count in found):
        raise DataError(f"{name} holds what is no whole number from 0 to {most}")
    return np.array(found, np.int64)


def _numbers(name: str, found: object, size: int) -> NDArray[np.float64]:
    if not isinstance(found, bytes) or len(found) != 8 * size:
        raise DataError(f"{name} is no {8 * size} bytes of float64")
    return np.frombuffer(found, "<f8").astype(np.float64)


def _no_buckets() -> NDArray[np.int64]:
    return np.zeros((0, GRID.size), np.int64)
