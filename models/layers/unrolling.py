"""Windows that slide over an input, unrolled into the columns of a matrix, some output rows at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from models.layers.base import Shape
from models.parameters import FloatArray

_IMAGE = 2


def out_positions(size: int, kernel: int, stride: int, padding: str) -> int:
    """Return how many positions a window has along an axis; not above 0 where it does not fit."""
    return -(-size // stride) if padding == "same" else (size - kernel) // stride + 1


@dataclass(frozen=True, slots=True)
class Geometry:
    """A sliding window, along two axes: steps are rows of an image of width one."""

    channels: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    """Zeros that padding puts in front."""
    padded: tuple[int, int]
    out: tuple[int, int]

    @classmethod
    def of(cls, shape: Shape, kernel: tuple[int, ...], stride: tuple[int, ...], padding: str) -> Geometry:
        """Return the window's way over an input of this shape, channels last."""
        size, k, s = _two(shape[:-1]), _two(kernel), _two(stride)
        out = _pair([out_positions(*axis, padding) for axis in zip(size, k, s, strict=True)])
        # As TFLite pads: as much as the last window needs, the odd zero behind.
        needed = [(o - 1) * step + width for o, step, width in zip(out, s, k, strict=True)]
        missing = [max(need - have, 0) if padding == "same" else 0 for need, have in zip(needed, size, strict=True)]
        return cls(
            channels=shape[-1],
            size=size,
            kernel=k,
            stride=s,
            before=_pair([zeros // 2 for zeros in missing]),
            padded=_pair([have + zeros for have, zeros in zip(size, missing, strict=True)]),
            out=out,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of the output."""

    first: int
    last: int
    """One behind the last one."""
    columns: Shape
    """``(kernel height, kernel width, channels, output rows, output width, batch rows)``."""
    positions: int
    """Product of the last three."""
    adds: tuple[tuple[tuple[int, int], tuple[slice, ...], tuple[slice, ...]], ...]
    """For every tap: which it is, where its values lie in the input, and which of them do (the rest is padding)."""


class Unrolled:
    """The columns of one input, for batches of one size."""

    def __init__(self, geometry: Geometry, rows: int, out_rows: int, step: int, most_floats: int) -> None:
        """Unroll the first ``out_rows`` output rows in chunks of a multiple of ``step`` rows."""
        self._geometry = geometry
        self._rows = rows
        taps = geometry.kernel[0] * geometry.kernel[1] * geometry.channels
        per_row = taps * geometry.out[1] * rows
        height = max(1, most_floats // (per_row * step)) * step
        starts = range(0, out_rows, height)
        self.chunks = tuple(self._chunk(first, min(first + height, out_rows)) for first in starts)
        self.longest = max(chunk.positions for chunk in self.chunks)
        """Positions of the longest chunk."""
        self._source: FloatArray | None = None
        self._padded = self._inside = np.empty(0, np.float32)
        self._has_padding = geometry.padded != geometry.size
        if self._has_padding:
            self._padded = np.zeros((geometry.channels, *geometry.padded, rows), np.float32)
            top, left = geometry.before
            self._inside = self._padded[:, top : top + geometry.size[0], left : left + geometry.size[1]]
        self._windows = self._padded

    def load(self, x: FloatArray) -> None:
        """Take the input, channels first and rows last, that the columns are made of until the next call."""
        x = x.reshape(self._geometry.channels, *self._geometry.size, self._rows)
        if self._has_padding:
            np.copyto(self._inside, x)
        if self._source is None or (not self._has_padding and self._source is not x):
            self._source = self._padded if self._has_padding else x
            self._windows = self._over(self._source)

    def copy(self, chunk: Chunk, columns: FloatArray) -> None:
        """Write the windows of the chunk into ``columns``."""
        np.copyto(columns, self._windows[:, :, :, chunk.first : chunk.last])

    @staticmethod
    def add(chunk: Chunk, columns: FloatArray, total: FloatArray) -> None:
        """Add every value of ``columns`` to the value of the input that it was copied from; padding is dropped."""
        for (i, j), where, which in chunk.adds:
            part = total[where]
            np.add(part, columns[i, j][which], out=part)

    def _over(self, source: FloatArray) -> FloatArray:
        geometry = self._geometry
        channel, row, column, one = source.strides
        down, right = geometry.stride
        shape = (*geometry.kernel, geometry.channels, *geometry.out, self._rows)
        strides = (row, column, channel, row * down, column * right, one)
        return as_strided(source, shape, strides, writeable=False)

    def _chunk(self, first: int, last: int) -> Chunk:
        geometry = self._geometry
        shape = (*geometry.kernel, geometry.channels, last - first, geometry.out[1], self._rows)
        adds = []
        for i in range(geometry.kernel[0]):
            for j in range(geometry.kernel[1]):
                (up, left), (high, wide) = geometry.before, geometry.size
                down = overlap(i - up, first, last, geometry.stride[0], high)
                right = overlap(j - left, 0, geometry.out[1], geometry.stride[1], wide)
                if down and right:
                    everything = slice(None)
                    where, which = (everything, down[0], right[0]), (everything, down[1], right[1])
                    adds.append(((i, j), where, which))
        return Chunk(first, last, shape, (last - first) * geometry.out[1] * self._rows, tuple(adds))


def overlap(offset: int, first: int, last: int, stride: int, size: int) -> tuple[slice, slice] | None:
    """Return which of ``size`` inputs the outputs from ``first`` to before ``last`` meet, and which of them those are.

    Output ``o`` meets input ``o * stride + offset``; None where no output meets any.
    """
    low = max(first, -(offset // stride))  # the first output whose input is not in front of the data
    high = min(last - 1, (size - 1 - offset) // stride)
    if low > high:
        return None
    begin = low * stride + offset
    return slice(begin, high * stride + offset + 1, stride), slice(low - first, high - first + 1)


def _two(sizes: tuple[int, ...]) -> tuple[int, int]:
    return (sizes[0], sizes[1]) if len(sizes) == _IMAGE else (sizes[0], 1)


def _pair(sizes: list[int]) -> tuple[int, int]:
    return sizes[0], sizes[1]
