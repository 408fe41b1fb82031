"""What sensors said over time: rows of channels, as they come out of a store or a file."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError
from models.parameters import FloatArray, IntArray

LARGEST_TIME = 1e11
"""Seconds from 1970, either way: some 3,000 years. Steps of a grid can be counted exactly within it."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Rows in the order of time; checked once, when it is made (``DataError`` names what is wrong).

    Values and labels that are not finite are missing: a sensor that was not heard, a label that has not come yet.
    """

    times: NDArray[np.float64]
    """``(n,)``, seconds since 1970 UTC; never decreasing, within ``LARGEST_TIME``. Rows may share a moment."""
    values: FloatArray
    """``(n, channels)``; NaN = missing."""
    labels: NDArray[np.float64]
    """``(n,)``; NaN = not labelled (yet)."""
    channels: tuple[str, ...]
    """Names of the columns of ``values``."""
    ids: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    """``(n,)``, numbers of the rows, growing. Windows of rows are placed by them, so a row must keep its number when
    older ones are evicted. Best without holes: a store of several sources counts the rows of each by itself. Left
    out: 0, 1, 2, ..., which is right for rows that are never evicted."""

    def __post_init__(self) -> None:
        rows = len(self.times)
        if not len(self.ids):
            object.__setattr__(self, "ids", np.arange(rows, dtype=np.int64))
        _check("times", self.times, np.float64, (rows,))
        _check("values", self.values, np.float32, (rows, len(self.channels)))
        _check("labels", self.labels, np.float64, (rows,))
        _check("ids", self.ids, np.int64, (rows,))
        if len(set(self.channels)) != len(self.channels):
            raise DataError(f"series: channels are {self.channels}: a name occurs twice")
        if not (np.diff(self.times) >= 0.0).all():
            raise DataError("series: times decrease or are no numbers; sort the rows by time")
        # They do not decrease, so the ends speak for all; NaN fails the comparison.
        if rows and not (self.times[0] >= -LARGEST_TIME and self.times[-1] <= LARGEST_TIME):
            raise DataError(f"series: times go from {self.times[0]} to {self.times[-1]}, allowed is +-{LARGEST_TIME:g}")
        if not (np.diff(self.ids) > 0).all():
            raise DataError("series: ids do not grow from row to row")

    def __len__(self) -> int:
        return len(self.times)

    def tail(self, first: int) -> Series:
        """Return the rows from position ``first`` on (views)."""
        return Series(self.times[first:], self.values[first:], self.labels[first:], self.channels, self.ids[first:])


def _check(name: str, array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(f"series: {name} is {found}, allowed is {np.dtype(dtype)} of shape {shape}")
