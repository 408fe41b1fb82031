"""Quantiles of values that lie on many devices: counts in buckets whose bounds grow geometrically.

DDSketch (Masson, Rim and Lee 2019) with a fixed grid: every device has the same buckets, so the counts of two parts of
the data add up to those of the whole, exactly and in any order, and nobody sends a value. A quantile comes out within
``accuracy`` of a value of that rank, relatively; what is smaller than ``SMALLEST`` counts as 0, what is larger than
``LARGEST`` as that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError

SMALLEST = 1e-6
LARGEST = 1e9

MAX_COUNT = 2**48
"""Of one bucket: sums of a whole fleet stay far below what int64 and float64 hold exactly."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The buckets: large negative values first, 0 in the middle, large positive ones last."""

    accuracy: float
    """Relative; 0.05 takes 691 buckets."""

    @property
    def growth(self) -> float:
        """Return how much larger the bounds of the next bucket are."""
        return (1.0 + self.accuracy) / (1.0 - self.accuracy)

    @property
    def a_side(self) -> int:
        """Return the number of buckets for the positive values; there are as many for the negative ones."""
        return math.ceil(math.log(LARGEST / SMALLEST) / math.log(self.growth))

    @property
    def size(self) -> int:
        """Return the number of all buckets."""
        return 2 * self.a_side + 1

    def count(self, values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return how many of the values ``(n, columns)`` are in each bucket, ``(columns, size)``; NaN is in none."""
        rows, columns = values.shape
        there = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            places = self._places(values.astype(np.float64, copy=False))
        places += np.arange(columns, dtype=np.int64) * self.size
        taken = places[there].astype(np.intp, copy=False)
        found = np.bincount(taken, minlength=columns * self.size) if rows else np.zeros(columns * self.size)
        return found.astype(np.int64, copy=False).reshape(columns, self.size)

    def quantiles(self, counts: NDArray[np.int64], shares: Sequence[float]) -> list[float]:
        """Return the values below which such shares (0 to 1) of what was counted ``(size,)`` lie; NaN of nothing."""
        total = int(counts.sum())
        if not total:
            return [math.nan] * len(shares)
        ranks = np.asarray(shares, np.float64) * (total - 1)
        found = np.searchsorted(np.cumsum(counts), ranks, side="right")
        return [self._middle(int(place)) for place in np.minimum(found, self.size - 1)]

    def _places(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        size = np.abs(values)
        steps = np.ceil(np.log(np.clip(size, SMALLEST, LARGEST) / SMALLEST) / math.log(self.growth))
        steps = np.where(size < SMALLEST, 0.0, np.clip(steps, 1.0, self.a_side))
        signed: NDArray[np.int64] = (np.sign(np.nan_to_num(values)) * np.nan_to_num(steps)).astype(np.int64)
        return signed + self.a_side

    def _middle(self, place: int) -> float:
        # The value whose relative distance to both bounds of the bucket is the same.
        steps = place - self.a_side
        if not steps:
            return 0.0
        return math.copysign(2.0 * SMALLEST * self.growth ** abs(steps) / (1.0 + self.growth), steps)


def pack(counts: NDArray[np.int64]) -> list[Any]:
    """Return counts ``(size,)`` as data: where the first one stands, then all to the last that is not 0."""
    found = np.flatnonzero(counts)
    if not found.size:
        return [0, []]
    first, last = int(found[0]), int(found[-1])
    return [first, counts[first : last + 1].tolist()]


def unpack(data: object, size: int) -> NDArray[np.int64]:
    """Return the counts ``(size,)`` that ``pack`` made data of, or raise ``DataError``."""
    match data:
        case [int() as first, list() as counts] if type(first) is int and first >= 0 and first + len(counts) <= size:
            pass
        case _:
            raise DataError(f"counts of buckets are no pair of a place below {size} and a list that fits behind it")
    if not all(type(count) is int and 0 <= count <= MAX_COUNT for count in counts):
        raise DataError(f"a count is no whole number from 0 to {MAX_COUNT}")
    found = np.zeros(size, np.int64)
    found[first : first + len(counts)] = counts
    return found
