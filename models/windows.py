"""From a series to examples: the windows that a pipeline declares, cut, filled, described and labelled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError
from models.features import Block, Doubles, correlations
from models.filling import filled, too_many
from models.labelling import labels_of
from models.parameters import FloatArray, IntArray
from models.pieces import Between, chosen, go_on
from models.placing import Frame, Placement, place_rows, place_steps
from models.series import Series

if TYPE_CHECKING:
    from models.pipeline import Pipeline

BLOCK_VALUES = 2**16
"""Windows are worked on in blocks of so many values (half a megabyte), which stay in the cache."""

MAX_VALUES = 2**26
"""Of ``x``, unless the caller says otherwise: 256 MB."""

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the windows that a series has room for, and what their values were like; ``+`` adds them up."""

    kept: int = 0
    gap: int = 0
    """Not there because of a gap in time."""
    missing: int = 0
    """Dropped: a channel of which too many values are missing."""
    constant: int = 0
    """Dropped: a channel that did not move, where the pipeline says so."""
    no_target: int = 0
    """Dropped: a value that is to be forecast is missing."""
    older: int = 0
    """Left out: older than the newest ones that there was room for."""
    unlabelled: int = 0
    """Kept, without a label."""
    filled: int = 0
    """Values in kept windows that were missing and were filled."""
    still: int = 0
    """Kept windows with a channel that did not move: a sensor that froze, or a quiet room."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    def to_data(self) -> dict[str, int]:
        """Return the counts by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """Examples of a series, in the order of time."""

    x: FloatArray
    """``(m, inputs)``, finite."""
    y: NDArray[Any]
    """Labels: float64 ``(m,)``, NaN where there is none (yet). Targets of the series itself: float32 ``(m, outputs)``;
    of target ``self`` it is ``x`` itself, so what is done to ``x`` in place is done to ``y``."""
    starts: Doubles
    """``(m,)``, time of the first row or step of each window."""
    ends: Doubles
    """``(m,)``, time of the last."""
    counts: Counts

    def __len__(self) -> int:
        return len(self.x)

    def labelled(self, between: Between = go_on) -> Windows:
        """Return the windows that can be learned from: all but those without a label (copies, where some have none)."""
        if self.y.ndim > 1:
            return self
        known = np.isfinite(self.y)
        if known.all():
            return self
        return Windows(
            x=chosen(self.x, known, between),
            y=self.y[known],
            starts=self.starts[known],
            ends=self.ends[known],
            counts=self.counts,
        )


def windows_of(
    pipeline: Pipeline, series: Series, *, most: int | None, until: float, ahead: int, between: Between = go_on
) -> Windows:
    """Return the newest windows; ``ahead`` rows or steps behind each have to be there as well."""
    columns = _columns(pipeline, series)
    frame = Frame(width=pipeline.window, stride=pipeline.stride, ahead=ahead, max_gap_s=pipeline.max_gap_s)
    room = max(1, MAX_VALUES // pipeline.inputs) if most is None else most
    cutter = _Cutter(pipeline, series, columns, frame.length, between)
    placement = cutter.place(frame, room, until)
    count = len(placement.first)
    x = np.empty((count, pipeline.inputs), np.float32)
    values = np.empty((count, ahead * len(pipeline.forecast_channels)), np.float32)
    kept = np.empty(count, np.int64)
    counts = Counts(gap=placement.gap, older=placement.older)
    size = 0
    for first in cutter.blocks(placement):
        between()
        part = _Part(pipeline, cutter.cut(first), ahead)
        behind = size + len(part.rows)
        part.describe(x[size:behind])
        values[size:behind] = part.targets
        kept[size:behind] = first[part.rows]
        size = behind
        counts += part.counts
    x, values, kept = _cut_to(size, x), _cut_to(size, values), _cut_to(size, kept)
    y = _targets(pipeline, cutter, x, values, kept)
    unlabelled = int(np.count_nonzero(np.isnan(y))) if pipeline.target == "label" else 0
    starts, ends = cutter.times(kept)
    return Windows(x=x, y=y, starts=starts, ends=ends, counts=counts + Counts(unlabelled=unlabelled))


def _cut_to(size: int, array: NDArray[Any]) -> NDArray[Any]:
    """Return the first rows; as a copy when they are few, so that the room of the others is given back."""
    return array[:size].copy() if size < len(array) / 2 else array[:size]


def _columns(pipeline: Pipeline, series: Series) -> list[int]:
    lacking = [name for name in pipeline.channels if name not in series.channels]
    if lacking:
        raise DataError(
            f"no channel {', '.join(map(repr, lacking))}: there are {', '.join(map(repr, series.channels))}"
        )
    return [series.channels.index(name) for name in pipeline.channels]


def _targets(pipeline: Pipeline, cutter: _Cutter, x: FloatArray, values: FloatArray, kept: IntArray) -> NDArray[Any]:
    if pipeline.target == "self":
        return x
    if pipeline.target == "next":
        return values
    first, behind = cutter.spans(kept)
    return labels_of(pipeline.label, pipeline.label_share, cutter.series.labels, first, behind, cutter.between)


class _Cutter:
    """Cuts windows out of one series."""

    def __init__(self, pipeline: Pipeline, series: Series, columns: list[int], length: int, between: Between) -> None:
        self._pipeline = pipeline
        self.between = between
        self.series = series
        self._columns = np.array(columns)
        self._lines = np.arange(len(columns))[:, None]
        self._places = np.arange(length)
        self._newest: NDArray[np.int32] | None = None

    def place(self, frame: Frame, most: int, until: float) -> Placement:
        """Return where the windows lie."""
        pipeline = self._pipeline
        if not pipeline.every_s:
            return place_rows(self.series, frame, most)
        hold = pipeline.max_hold_s
        return place_steps(self.series, frame, most, every_s=pipeline.every_s, max_hold_s=hold, until=until)

    def blocks(self, placement: Placement) -> Iterator[IntArray]:
        """Return the windows' beginnings, block by block."""
        size = max(1, BLOCK_VALUES // (len(self._places) * len(self._columns)))
        for begin in range(0, len(placement.first), size):
            yield placement.first[begin : begin + size]

    def cut(self, first: IntArray) -> FloatArray:
        """Return the values of the windows ``(windows, channels, rows or steps)``; not finite where missing."""
        places = first[:, None] + self._places
        if self._pipeline.every_s:
            return self._held(places)
        return np.ascontiguousarray(self.series.values[places[:, None, :], self._columns[:, None]])

    def _held(self, steps: IntArray) -> FloatArray:
        """Return for each step the newest value of each channel, if it is no older than ``max_hold_s``."""
        if self._newest is None:
            self._newest = self._newest_rows()
        moments = steps * self._pipeline.every_s
        row = np.searchsorted(self.series.times, moments, side="right") - 1
        source = np.where(row[:, None, :] >= 0, self._newest[self._lines, row[:, None, :]], -1)
        age = moments[:, None, :] - self.series.times[source]
        values = self.series.values[source, self._columns[:, None]]
        return np.where((source >= 0) & (age <= self._pipeline.max_hold_s), values, np.float32(np.nan))

    def _newest_rows(self) -> NDArray[np.int32]:
        """Return for each channel and row the newest row up to it that has a value, -1 where none has."""
        newest = np.empty((len(self._columns), len(self.series)), np.int32)
        rows = np.arange(len(self.series), dtype=np.int32)
        for line, column in zip(newest, self._columns, strict=True):
            self.between()
            np.maximum.accumulate(np.where(np.isfinite(self.series.values[:, column]), rows, -1), out=line)
        return newest

    def times(self, first: IntArray) -> tuple[Doubles, Doubles]:
        """Return the times of the windows' first and last rows or steps."""
        last = first + (self._pipeline.window - 1)
        if self._pipeline.every_s:
            every_s = np.float64(self._pipeline.every_s)
            return np.multiply(first, every_s), np.multiply(last, every_s)
        return self.series.times[first], self.series.times[last]

    def spans(self, first: IntArray) -> tuple[IntArray, IntArray]:
        """Return the rows of each window: from, and up to but without. A step has those since the step before."""
        if not self._pipeline.every_s:
            return first, first + self._pipeline.window
        every_s, times = self._pipeline.every_s, self.series.times
        return (
            np.searchsorted(times, (first - 1) * every_s, side="right"),
            np.searchsorted(times, (first + (self._pipeline.window - 1)) * every_s, side="right"),
        )


class _Part:
    """The windows of one block that are kept, filled."""

    def __init__(self, pipeline: Pipeline, values: FloatArray, ahead: int) -> None:
        self._pipeline = pipeline
        width = pipeline.window
        present = np.isfinite(values)
        missing = too_many(present[:, :, :width], math.floor(pipeline.max_missing * width + 1e-9), pipeline.fill)
        pick = [pipeline.channels.index(name) for name in pipeline.forecast_channels]
        no_target = np.asarray(~present[:, pick, width:].all(axis=(1, 2)) & ~missing)
        self.rows = np.flatnonzero(~missing & ~no_target)
        """Of the block, those that are kept."""
        block, gaps = self._filled(values[self.rows, :, :width], present[self.rows, :, :width])
        still = np.asarray(block.constant[:, : len(pipeline.channels)].any(axis=1))
        dropped = 0
        if pipeline.drop_constant and still.any():
            dropped = int(np.count_nonzero(still))
            self.rows, gaps = self.rows[~still], gaps[~still]
            block, still = Block(np.ascontiguousarray(block.values[~still]), block.rate), still[~still]
        self._block = block
        self.targets = values[self.rows][:, pick, width:].transpose(0, 2, 1).reshape(len(self.rows), ahead * len(pick))
        self.counts = Counts(
            kept=len(self.rows),
            missing=int(np.count_nonzero(missing)),
            no_target=int(np.count_nonzero(no_target)),
            constant=dropped,
            filled=int(gaps.sum()),
            still=int(np.count_nonzero(still)),
        )

    def _filled(self, values: FloatArray, present: NDArray[np.bool_]) -> tuple[Block, IntArray]:
        pipeline = self._pipeline
        doubles = values.astype(np.float64)
        gaps = np.count_nonzero(~present, axis=(1, 2))
        holed = np.flatnonzero(gaps)
        if len(holed):
            doubles[holed] = filled(doubles[holed], present[holed], pipeline.fill, pipeline.fill_value)
        parts = [doubles]
        for names in pipeline.magnitudes.values():
            chosen = doubles[:, [pipeline.channels.index(name) for name in names]]
            parts.append(np.sqrt(np.add.reduce(chosen * chosen, axis=1))[:, None, :])
        joined = np.concatenate(parts, axis=1) if len(parts) > 1 else doubles
        return Block(np.ascontiguousarray(joined), pipeline.rate or 1.0), gaps

    def describe(self, out: FloatArray) -> None:
        """Write what the pipeline computes of each window to ``out``; what float32 cannot hold becomes its largest."""
        pipeline, block = self._pipeline, self._block
        if pipeline.raw:
            out.reshape(len(out), *pipeline.input_shape)[...] = _bounded(block.values.transpose(0, 2, 1))
            return
        for found, channels, columns in pipeline.plan:
            out[:, columns] = _bounded(found.kernel(block)[:, channels])
        if pipeline.correlation:
            out[:, pipeline.single :] = correlations(block)


def _bounded(values: Doubles) -> Doubles:
    return np.clip(values, -_LARGEST, _LARGEST)
