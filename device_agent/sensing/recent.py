"""The newest rows, as many as a window needs, and the moment at which a window is complete. No NumPy here."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from device_agent.sensing.rows import Row

MOST_ROWS = 20_000
"""A window that spans more rows than that is predicted from those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What of a pipeline decides when a window is complete."""

    channels: tuple[str, ...]
    window: int
    """Rows, or steps of the grid."""
    stride: int
    every_s: float
    """Step of the grid; 0: windows of rows."""
    rows_needed: int
    span_s: float
    """Rows, or with a grid seconds, that hold the newest window."""


class Recent:
    """Rows in the order of time. One from before the newest is left out, as the sample store's reader does."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self._places = {name: place for place, name in enumerate(cut.channels)}
        self._rows: deque[tuple[float, tuple[float, ...]]] = deque(maxlen=max(2, min(MOST_ROWS, self._enough())))
        self._count = 0
        self._windows = -1

    def add(self, row: Row) -> bool:
        """Take in a row; return whether one more window may be complete with it."""
        known = [self._places.get(name) for name in row.channels]
        if not any(place is not None for place in known) or (self._rows and row.time < self._rows[-1][0]):
            return False
        values = [math.nan] * len(self.cut.channels)
        for place, value in zip(known, row.values, strict=True):
            if place is not None:
                values[place] = value
        self._rows.append((row.time, tuple(values)))
        self._count += 1
        self._forget(row.time)
        windows = self._complete(row.time)
        more = windows > self._windows
        # The first rows on a grid are no window, and a clock that was set back begins anew.
        first = self._windows < 0 and self.cut.every_s > 0.0
        self._windows = windows
        return more and not first

    @property
    def times(self) -> list[float]:
        """Seconds since 1970 UTC, never decreasing."""
        return [time for time, _ in self._rows]

    @property
    def values(self) -> list[tuple[float, ...]]:
        """Of each row, a value for each channel of the pipeline; NaN: missing."""
        return [values for _, values in self._rows]

    @property
    def first_id(self) -> int:
        """How many rows came before the oldest that is kept: rows are numbered in the order in which they came."""
        return self._count - len(self._rows)

    def _enough(self) -> int:
        return MOST_ROWS if self.cut.every_s else self.cut.rows_needed + 1

    def _forget(self, now: float) -> None:
        if self.cut.every_s:
            # One row more: it is what the first step holds.
            while len(self._rows) > 2 and self._rows[1][0] < now - self.cut.span_s:  # noqa: PLR2004 - see above
                self._rows.popleft()

    def _complete(self, now: float) -> int:
        """Return how many windows are complete: of all rows that ever came, or of all steps since 1970."""
        cut = self.cut
        # A step is there when a row behind it is.
        there = math.ceil(now / cut.every_s) if cut.every_s else self._count
        return (there - cut.window) // cut.stride + 1 if there >= cut.window else 0
