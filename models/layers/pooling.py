"""Pooling: windows side by side, of which the largest value or the mean is left."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.layers.base import BoundLayer, Plain, Shape, Tie, lying
from models.parameters import FloatArray

_IMAGE = 3


class Winners:
    """Which value of each pooling window is the largest: the gradient goes there alone.

    First the lines of a window are compared, all along, then what is left of its columns: long runs in memory, and
    half of the comparisons. Where a value is greater than the ones before it is remembered, a byte for each; so of
    equal values the first one of the first column wins. Backwards, the last one that was greater takes the gradient,
    and leaves zero for the ones before it.
    """

    def __init__(self, pooled: Shape, pool: tuple[int, int], width: int) -> None:
        """``pooled`` is ``(channels, height, width, rows)``; ``width`` is that of the values to be pooled."""
        channels, height, small, rows = pooled
        self._down, self._right = pool
        self._width = small
        self._lower = [np.empty((channels, height, width, rows), np.bool_) for _ in range(1, pool[0])]
        self._later = [np.empty(pooled, np.bool_) for _ in range(1, pool[1])]

    def find(self, x: FloatArray, rows: slice, work: FloatArray, largest: FloatArray) -> None:
        """Write the largest values of ``x``, whose pooled rows are ``rows``, into ``largest``.

        ``work`` has the shape of one line of each window.
        """
        height = largest.shape[1]
        lines = [x[:, i : height * self._down : self._down] for i in range(self._down)]
        between = largest if self._right == 1 and self._width == x.shape[2] else work
        _largest(lines, [lower[:, rows] for lower in self._lower], between)
        if between is work:
            _largest(self._columns(work), [later[:, rows] for later in self._later], largest)

    def spread(self, upstream: FloatArray, rows: slice, work: FloatArray, x: FloatArray) -> None:
        """Write the loss by what ``find`` was given into ``x``; ``upstream`` is overwritten."""
        height = upstream.shape[1]
        if x.shape[1] != height * self._down:
            x[:, height * self._down :] = 0.0  # an incomplete window at the end has no part in the loss
        lines = [x[:, i : height * self._down : self._down] for i in range(self._down)]
        if self._right > 1 or self._width != x.shape[2]:
            work[:, :, self._width * self._right :] = 0.0
            _spread(upstream, [later[:, rows] for later in self._later], self._columns(work))
            upstream = work
        _spread(upstream, [lower[:, rows] for lower in self._lower], lines)

    def _columns(self, work: FloatArray) -> list[FloatArray]:
        return [work[:, :, j : self._width * self._right : self._right] for j in range(self._right)]


def _largest(values: list[FloatArray], greater: list[NDArray[np.bool_]], largest: FloatArray) -> None:
    if len(values) == 1:
        np.copyto(largest, values[0])
        return
    np.greater(values[1], values[0], out=greater[0])
    np.maximum(values[0], values[1], out=largest)
    for mark, value in zip(greater[1:], values[2:], strict=True):
        np.greater(value, largest, out=mark)
        np.maximum(largest, value, out=largest)


def _spread(upstream: FloatArray, greater: list[NDArray[np.bool_]], parts: list[FloatArray]) -> None:
    for part, mark in zip(reversed(parts), reversed(greater), strict=False):
        np.multiply(upstream, mark, out=part)
        np.subtract(upstream, part, out=upstream)
    np.copyto(parts[0], upstream)


@dataclass(frozen=True, slots=True)
class Pooling(Plain):
    """Windows of ``size`` side by side; an incomplete one at the end is dropped."""

    input_shape: Shape
    size: tuple[int, ...]
    """One for each of the shape's axes but the last."""
    largest: bool
    """Whether the largest value of a window is left, or the mean."""

    @property
    def kind(self) -> str:
        """After what is left."""
        return "max_pool" if self.largest else "average_pool"

    @property
    def output_shape(self) -> Shape:
        """Windows along each axis."""
        return (
            *(have // size for have, size in zip(self.input_shape[:-1], self.size, strict=True)),
            self.input_shape[-1],
        )

    @property
    def kept(self) -> int:
        """The output, a byte for each value, and the lines that are compared first."""
        return math.prod(self.output_shape) + 2 * math.prod(self.input_shape)

    @property
    def work(self) -> int:
        """Every value is looked at."""
        return math.prod(self.input_shape)

    def to_data(self) -> dict[str, Any]:
        """Return the layer as a table of a spec."""
        size: int | list[int] = self.size[0] if len(set(self.size)) == 1 else list(self.size)
        return {"kind": self.kind, "size": size}

    def bind(self, tie: Tie) -> BoundLayer:
        """Return the layer for batches of ``tie.rows``."""
        return _BoundMax(self, tie) if self.largest else _BoundAverage(self, tie)


class _BoundPooling:
    def __init__(self, layer: Pooling, tie: Tie) -> None:
        self._output = np.empty(lying(layer.output_shape, tie.rows), np.float32)
        image = len(layer.input_shape) == _IMAGE
        self._pool = (layer.size[0], layer.size[1] if image else 1)
        inner = layer.input_shape[:-1] if image else (layer.input_shape[0], 1)
        self._large = (layer.input_shape[-1], *inner, tie.rows)
        self._small = self._output.reshape(self._large[0], inner[0] // self._pool[0], inner[1] // self._pool[1], -1)
        self._shape = lying(layer.input_shape, tie.rows)
        self._buffers = tie.buffers
        self._downstream = "" if tie.first else tie.buffers.reserve_downstream(math.prod(self._large))


class _BoundMax(_BoundPooling):
    def __init__(self, layer: Pooling, tie: Tie) -> None:
        super().__init__(layer, tie)
        self._winners = Winners(self._small.shape, self._pool, self._large[2])
        self._lines = (*self._small.shape[:2], *self._large[2:])
        tie.buffers.reserve("lines", math.prod(self._lines))

    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        del rng
        work = self._buffers.view("lines", self._lines)
        self._winners.find(x.reshape(self._large), slice(None), work, self._small)
        return self._output

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        if not self._downstream:
            return None
        downstream = self._buffers.view(self._downstream, self._shape)
        work = self._buffers.view("lines", self._lines)
        self._winners.spread(upstream.reshape(self._small.shape), slice(None), work, downstream.reshape(self._large))
        return downstream


class _BoundAverage(_BoundPooling):
    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        del rng
        parts = self._parts(x.reshape(self._large))
        np.copyto(self._small, parts[0])
        for part in parts[1:]:
            np.add(self._small, part, out=self._small)
        np.multiply(self._small, np.float32(1.0 / len(parts)), out=self._small)
        return self._output

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        if not self._downstream:
            return None
        downstream = self._buffers.view(self._downstream, self._shape)
        large = downstream.reshape(self._large)
        parts = self._parts(large)
        share = np.multiply(upstream, np.float32(1.0 / len(parts)), out=upstream).reshape(self._small.shape)
        if large.size != share.size * len(parts):
            large.fill(0.0)
        for part in parts:
            np.copyto(part, share)
        return downstream

    def _parts(self, large: FloatArray) -> list[FloatArray]:
        (down, right), (_, height, width, _) = self._pool, self._small.shape
        return [
            large[:, i : height * down : down, j : width * right : right] for i in range(down) for j in range(right)
        ]


@dataclass(frozen=True, slots=True)
class GlobalAverage(Plain):
    """The mean of each channel over all positions."""

    input_shape: Shape
    kind = "global_average_pool"

    @property
    def output_shape(self) -> Shape:
        """A value for every channel."""
        return (self.input_shape[-1],)

    @property
    def kept(self) -> int:
        """The output, twice."""
        return 2 * self.input_shape[-1]

    @property
    def work(self) -> int:
        """Every value is added once."""
        return math.prod(self.input_shape)

    def to_data(self) -> dict[str, Any]:
        """Return the layer as a table of a spec."""
        return {"kind": self.kind}

    def bind(self, tie: Tie) -> BoundLayer:
        """Return the layer for batches of ``tie.rows``."""
        return _BoundGlobal(self, tie)


class _BoundGlobal:
    def __init__(self, layer: GlobalAverage, tie: Tie) -> None:
        channels = layer.input_shape[-1]
        positions = math.prod(layer.input_shape) // channels
        self._output = np.empty((tie.rows, channels), np.float32)
        self._sums = np.empty((channels, tie.rows), np.float32)
        self._flat = (channels, positions, tie.rows)
        self._share = np.float32(1.0 / positions)
        self._shape = lying(layer.input_shape, tie.rows)
        self._buffers = tie.buffers
        self._downstream = "" if tie.first else tie.buffers.reserve_downstream(math.prod(self._flat))

    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        del rng
        np.add.reduce(x.reshape(self._flat), axis=1, out=self._sums)
        return np.multiply(self._sums.T, self._share, out=self._output)

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        if not self._downstream:
            return None
        downstream = self._buffers.view(self._downstream, self._shape)
        np.multiply(upstream.T, self._share, out=self._sums)
        downstream.reshape(self._flat)[...] = self._sums[:, None]
        return downstream
