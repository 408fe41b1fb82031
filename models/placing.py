"""Where windows lie in a series: by the numbers of rows, or by steps of a grid in absolute time.

Neither depends on what was evicted before the first row or is appended after the last, so a window that is found once
is found again, with the same content.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.parameters import IntArray
from models.series import Series

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The size of windows, in rows or steps."""

    width: int
    stride: int
    ahead: int
    """Rows or steps behind a window that have to be there too: those that are to be forecast."""
    max_gap_s: float
    """A window holds no two rows in a row that are further apart."""

    @property
    def length(self) -> int:
        """Rows or steps that have to hang together."""
        return self.width + self.ahead


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """Where the windows begin, in the order of time."""

    first: IntArray
    """Positions of rows, or numbers of steps: step ``k`` is at ``k * every_s`` seconds since 1970."""
    gap: int
    """Windows that would be there if there were no gap in time."""
    older: int
    """Windows before these, left out because there may be only so many."""


def place_rows(series: Series, frame: Frame, most: int) -> Placement:
    """Return the newest windows of rows, at most ``most``: one begins with the first row of each ``stride`` numbers.

    The first row of the series begins one only when its number is a multiple of the stride: otherwise rows that are no
    longer there may have been the first of these numbers.
    """
    block = series.ids // frame.stride
    begins = np.empty(len(series), np.bool_)
    begins[:1] = series.ids[:1] % frame.stride == 0
    np.not_equal(block[1:], block[:-1], out=begins[1:])
    first = np.flatnonzero(begins[: max(0, len(series) - frame.length + 1)])
    breaks = np.zeros(len(series), np.int64)
    np.cumsum(np.diff(series.times) > frame.max_gap_s, out=breaks[1:])
    whole = breaks[first + frame.length - 1] == breaks[first]
    older = max(0, int(np.count_nonzero(whole)) - most)
    return Placement(first=first[whole][older:], gap=int(np.count_nonzero(~whole)), older=older)


def place_steps(
    series: Series, frame: Frame, most: int, *, every_s: float, max_hold_s: float, until: float
) -> Placement:
    """Return the newest windows of steps, at most ``most``: one begins with each multiple of the stride.

    A stretch of rows without a gap has the steps from its first row to ``max_gap_s`` behind its last. A step is there
    once a row after it is, or ``until`` is behind it: until then another row may come for it. At the beginning of the
    series there are none for ``max_hold_s``: a row that is no longer there may be what they held.
    """
    if not len(series):
        return Placement(first=np.empty(0, np.int64), gap=0, older=0)
    times = series.times
    gaps = np.flatnonzero(np.diff(times) > frame.max_gap_s)
    begin = times[np.concatenate([[0], gaps + 1])]
    end = times[np.concatenate([gaps, [len(times) - 1]])]
    low = _first_step(begin, every_s)
    while low[0] * every_s - begin[0] <= max_hold_s:
        low[0] += max(1, int((max_hold_s - (low[0] * every_s - begin[0])) / every_s))
    high = _last_step(end + frame.max_gap_s, every_s)
    high[:-1] = np.minimum(high[:-1], low[1:] - 1)
    now = max(until, float(times[-1]))
    high[-1] = min(high[-1], _last_step(np.array([now]), every_s)[0])
    if high[-1] * every_s >= now:
        high[-1] -= 1
    lowest = -(-low // frame.stride)
    wanted = np.maximum(high // frame.stride - lowest + 1, 0)
    there = np.maximum((high - frame.length + 1) // frame.stride - lowest + 1, 0)
    gap = int((wanted - there)[:-1].sum())
    # The oldest go before any is written down: a grid has as many steps as a plan from outside says.
    older = max(0, int(there.sum()) - most)
    cut = np.clip(older - (np.cumsum(there) - there), 0, there)
    lowest, there = lowest + cut, there - cut
    each = there.astype(np.intp, copy=False)
    offsets = np.arange(int(there.sum())) - np.repeat(np.cumsum(there) - there, each)
    return Placement(first=(np.repeat(lowest, each) + offsets) * frame.stride, gap=gap, older=older)


def _first_step(times: Doubles, every_s: float) -> IntArray:
    """Return the number of the first step not before each time."""
    step = np.ceil(times / every_s).astype(np.int64)
    step -= (step - 1) * every_s >= times
    return np.asarray(step + (step * every_s < times))


def _last_step(times: Doubles, every_s: float) -> IntArray:
    """Return the number of the last step not after each time."""
    step = np.floor(times / every_s).astype(np.int64)
    step += (step + 1) * every_s <= times
    return np.asarray(step - (step * every_s > times))
