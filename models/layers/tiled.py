"""Convolutions by tiles of two output rows, each by minimal filtering: three fifths to two thirds of the products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import as_strided

from models.layers.base import Buffers, Shape, Tie, lying
from models.layers.minimal import OUTPUTS, SIZES, filtering
from models.layers.tails import PlainTail, PooledTail, tail_of
from models.layers.unrolling import Geometry, overlap
from models.parameters import FloatArray

if TYPE_CHECKING:
    from models.layers.convolution import Convolution

CHUNK_FLOATS = 2**16
"""Of one line's columns at a time: all that a chunk is turned into is a dozen times as much, and stays in the cache."""

LEAST_CHANNELS = 8
"""Below, turning the input into planes costs more than the products that it spares."""

_IMAGE = 2


def is_tiled(layer: Convolution) -> bool:
    """Return whether tiles are worth it: over time they are not, where unrolling copies each value but a few times."""
    if len(layer.kernel) != _IMAGE or layer.kernel[0] not in SIZES or layer.stride[0] != 1:
        return False
    few = min(layer.input_shape[-1], layer.filters)
    return layer.kernel[1] > 1 and few >= LEAST_CHANNELS and layer.output_shape[0] > 1


def least_kept(layer: Convolution) -> int:
    """Return the values per example of the smallest chunk, beside the layer's output and its padded input."""
    sizes = _sizes(Geometry.of(layer.input_shape, layer.kernel, layer.stride, layer.padding), layer.filters, 1)
    tiles = 2
    pairs = 2 * OUTPUTS * sizes.filters * tiles * sizes.width
    return sum(math.prod(shape(tiles)) for shape in (sizes.planes, sizes.planes, sizes.sums, sizes.columns)) + pairs


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some tiles, and the output rows in them."""

    tiles: slice
    rows: tuple[int, int]
    """First output row, and one behind the last: an odd one at the end has half a tile."""
    adds: tuple[tuple[slice, slice] | None, ...]
    """For every line of a tile: to which input rows it belongs, and in which tiles; the others are padding."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What the shapes of a chunk are made of."""

    lines: int
    """Of the input in a tile: planes, once they are turned."""
    channels: int
    filters: int
    taps: int
    """Along the other axis."""
    stride: int
    padded: int
    """Width of the input with its padding."""
    width: int
    """Of the output."""
    rows: int
    """Of the batch."""

    def columns(self, tiles: int) -> Shape:
        """Return the shape of one plane unrolled."""
        return (self.taps, self.channels, tiles, self.width, self.rows)

    def planes(self, tiles: int) -> Shape:
        """Return the shape of all planes of the input."""
        return (self.lines, self.channels, tiles, self.padded, self.rows)

    def sums(self, tiles: int) -> Shape:
        """Return the shape of all planes of the output."""
        return (self.lines, self.filters, tiles * self.width * self.rows)


class _Work:
    """The arrays that chunks of one size are computed in: views of the network's shared blocks."""

    def __init__(self, sizes: _Sizes, tiles: int, buffers: Buffers) -> None:
        view = buffers.view
        planes, sums = sizes.planes(tiles), sizes.sums(tiles)
        self.lines = view("lines", planes)
        self.planes = view("planes", planes)
        self.sums = view("sums", sums)
        per_tile = sizes.width * sizes.rows
        self.pairs = view("pairs", (OUTPUTS, sizes.filters, tiles, per_tile))
        positions = tiles * per_tile
        self._sizes = sizes
        self._columns = view("columns", sizes.columns(tiles))
        self._flat = self._columns.reshape(-1, positions)
        self._windows = [_windows(plane, self._columns.shape, sizes.stride) for plane in self.planes]

    def unroll(self, plane: int) -> FloatArray:
        """Return the columns ``(taps * channels, positions)`` of a plane."""
        np.copyto(self._columns, self._windows[plane])
        return self._flat

    def multiply_back(self, weight_t: FloatArray, plane: int) -> None:
        """Write the loss by a plane of the input over the plane, from that by the same plane of the output."""
        np.dot(weight_t, self.sums[plane], out=self._flat)
        total = self.planes[plane]
        total.fill(0.0)
        last = (self._sizes.width - 1) * self._sizes.stride + 1
        for tap in range(self._sizes.taps):
            part = total[:, :, tap : tap + last : self._sizes.stride]
            np.add(part, self._columns[tap], out=part)


class BoundTiled:
    """One matrix product per chunk and plane: ``weight (filters, taps) @ columns (taps, positions)``.

    The rows of a tile are turned into planes, one for each line. For each plane it is a convolution along the other
    axis alone, with weights of its own, and the sums of all planes are turned back into two rows of the output. Nothing
    but the padded input is kept for the backward pass.
    """

    def __init__(self, layer: Convolution, tie: Tie, pool: tuple[int, ...] | None) -> None:
        geometry = Geometry.of(layer.input_shape, layer.kernel, layer.stride, layer.padding)
        weight = f"{layer.name}.weight"
        shape = (layer.filters, geometry.kernel[0], -1)
        self._weight, self._weight_gradient = (of[weight].reshape(shape) for of in (tie.values, tie.gradients))
        self._tail: PlainTail | PooledTail = tail_of(layer, tie, pool)
        self._filtering = filtering(geometry.kernel[0])
        self._sizes = _sizes(geometry, layer.filters, tie.rows)
        self.chunks = _chunks(geometry, self._sizes, self._tail.rows, math.lcm(OUTPUTS, self._tail.step))
        """In which the output is computed."""
        self._works: dict[int, _Work] = {}
        self._buffers = tie.buffers
        self._reserve(max(chunk.tiles.stop - chunk.tiles.start for chunk in self.chunks))
        self._downstream = ""
        if not tie.first:
            self._downstream = tie.buffers.reserve_downstream(math.prod(layer.input_shape) * tie.rows)
        self._input = lying(layer.input_shape, tie.rows)
        self._image = (geometry.channels, *geometry.size, tie.rows)
        self._make_input(geometry)
        turned = (self._sizes.lines, layer.filters, self._weight.shape[2])
        self._turned = np.empty(turned, np.float32)
        self._turned_gradient = np.empty((turned[0], turned[2], turned[1]), np.float32)

    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        """See ``BoundLayer``."""
        del rng
        np.copyto(self._inside, x.reshape(self._image))
        self._turn_weight()
        for chunk in self.chunks:
            self._buffers.between()
            work = self._turn_input(chunk)
            for plane, weight in enumerate(self._turned):
                np.dot(weight, work.unroll(plane), out=work.sums[plane])
            self._tail.take(*chunk.rows, self._turn_back(chunk, work))
        return self._tail.output

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        """See ``BoundLayer``."""
        slope = self._tail.slope(upstream)
        downstream = None
        if self._downstream:
            downstream = self._buffers.view(self._downstream, self._input)
            downstream.fill(0.0)
        self._turned_gradient.fill(0.0)
        for chunk in self.chunks:
            self._buffers.between()
            raw = self._tail.give(slope, *chunk.rows, self._raw(chunk))
            work = self._turn_input(chunk)
            self._turn_loss(chunk, raw, work)
            for plane, gradient in enumerate(self._turned_gradient):
                more = self._buffers.view("more", gradient.shape)
                np.dot(work.unroll(plane), work.sums[plane].T, out=more)
                np.add(gradient, more, out=gradient)
                if downstream is not None:
                    work.multiply_back(self._turned[plane].T, plane)
            if downstream is not None:
                self._add(chunk, work, downstream.reshape(self._image))
        self._turn_gradient()
        return downstream

    def _turn_weight(self) -> None:
        """Write the planes' weights ``(lines, filters, taps)``."""
        filters, taps, rest = self._weight.shape
        apart = self._buffers.view("apart", (taps, filters, rest))
        np.copyto(apart, self._weight.transpose(1, 0, 2))
        np.dot(self._filtering.weights, apart.reshape(taps, -1), out=self._turned.reshape(len(self._turned), -1))

    def _turn_gradient(self) -> None:
        """Write the weight's gradient from that of the planes' weights."""
        filters, taps, rest = self._weight.shape
        apart = self._buffers.view("apart", (taps, rest, filters))
        turned = self._turned_gradient.reshape(len(self._turned), -1)
        np.dot(self._filtering.weights.T, turned, out=apart.reshape(taps, -1))
        np.copyto(self._weight_gradient, apart.transpose(2, 0, 1))

    def _turn_input(self, chunk: _Chunk) -> _Work:
        """Write the input's planes, and return where they are."""
        tiles = chunk.tiles.stop - chunk.tiles.start
        work = self._works.get(tiles)
        if work is None:
            work = self._works[tiles] = _Work(self._sizes, tiles, self._buffers)
        np.copyto(work.lines, self._tiles[:, :, chunk.tiles])
        lines = len(work.lines)
        np.dot(self._filtering.inputs, work.lines.reshape(lines, -1), out=work.planes.reshape(lines, -1))
        return work

    def _turn_back(self, chunk: _Chunk, work: _Work) -> FloatArray:
        """Return the sums ``(filters, positions)`` of the chunk's output rows."""
        lines = len(work.sums)
        np.dot(self._filtering.outputs, work.sums.reshape(lines, -1), out=work.pairs.reshape(OUTPUTS, -1))
        raw = self._raw(chunk)
        for part, pair in zip(self._halves(raw, chunk), work.pairs, strict=True):
            np.copyto(part, pair[:, : part.shape[1]])
        return raw

    def _turn_loss(self, chunk: _Chunk, raw: FloatArray, work: _Work) -> None:
        """Write the loss by the sums of the planes."""
        for part, pair in zip(self._halves(raw, chunk), work.pairs, strict=True):
            pair[:, part.shape[1] :] = 0.0
            np.copyto(pair[:, : part.shape[1]], part)
        lines = len(work.sums)
        np.dot(self._filtering.outputs.T, work.pairs.reshape(OUTPUTS, -1), out=work.sums.reshape(lines, -1))

    def _add(self, chunk: _Chunk, work: _Work, total: FloatArray) -> None:
        """Add the loss by the input's planes to that by the input."""
        lines = len(work.lines)
        np.dot(self._filtering.inputs.T, work.planes.reshape(lines, -1), out=work.lines.reshape(lines, -1))
        for line, add in enumerate(chunk.adds):
            if add is not None:
                part = total[:, add[0]]
                np.add(part, work.lines[line][:, add[1], self._across], out=part)

    def _raw(self, chunk: _Chunk) -> FloatArray:
        first, last = chunk.rows
        sizes = self._sizes
        return self._buffers.view("raw", (sizes.filters, (last - first) * sizes.width * sizes.rows))

    def _halves(self, raw: FloatArray, chunk: _Chunk) -> list[FloatArray]:
        """Return the even and the odd rows of the chunk."""
        first, last = chunk.rows
        rows = raw.reshape(self._sizes.filters, last - first, -1)
        return [rows[:, half::OUTPUTS] for half in range(OUTPUTS)]

    def _make_input(self, geometry: Geometry) -> None:
        lines, sizes, (top, left) = self._sizes.lines, self._sizes, geometry.before
        tiles = self.chunks[-1].tiles.stop
        height = max(OUTPUTS * (tiles - 1) + lines, top + geometry.size[0])
        padded = np.zeros((geometry.channels, height, geometry.padded[1], sizes.rows), np.float32)
        self._across = slice(left, left + geometry.size[1])
        self._inside = padded[:, top : top + geometry.size[0], self._across]
        channel, row, column, one = padded.strides
        strides = (row, channel, OUTPUTS * row, column, one)
        self._tiles = as_strided(padded, sizes.planes(tiles), strides, writeable=False)

    def _reserve(self, tiles: int) -> None:
        sizes, reserve = self._sizes, self._buffers.reserve
        for name in ("lines", "planes"):
            reserve(name, math.prod(sizes.planes(tiles)))
        pairs = OUTPUTS * sizes.filters * tiles * sizes.width * sizes.rows
        reserve("sums", math.prod(sizes.sums(tiles)))
        reserve("pairs", pairs)
        reserve("raw", pairs)
        reserve("columns", math.prod(sizes.columns(tiles)))
        reserve("apart", self._weight.size)
        reserve("more", sizes.filters * sizes.taps * sizes.channels)


def _sizes(geometry: Geometry, filters: int, rows: int) -> _Sizes:
    return _Sizes(
        lines=geometry.kernel[0] + OUTPUTS - 1,
        channels=geometry.channels,
        filters=filters,
        taps=geometry.kernel[1],
        stride=geometry.stride[1],
        padded=geometry.padded[1],
        width=geometry.out[1],
        rows=rows,
    )


def _windows(plane: FloatArray, columns: Shape, stride: int) -> FloatArray:
    channel, tile, column, one = plane.strides
    return as_strided(plane, columns, (column, channel, tile, column * stride, one), writeable=False)


def _chunks(geometry: Geometry, sizes: _Sizes, out_rows: int, step: int) -> tuple[_Chunk, ...]:
    """Return chunks of a multiple of ``step`` rows."""
    per_step = math.prod(sizes.columns(step // OUTPUTS))
    height = max(1, CHUNK_FLOATS // per_step) * step
    return tuple(_chunk(geometry, first, min(first + height, out_rows)) for first in range(0, out_rows, height))


def _chunk(geometry: Geometry, first: int, last: int) -> _Chunk:
    tiles = slice(first // OUTPUTS, -(-last // OUTPUTS))
    lines = range(geometry.kernel[0] + OUTPUTS - 1)
    size, before = geometry.size[0], geometry.before[0]
    adds = tuple(overlap(line - before, tiles.start, tiles.stop, OUTPUTS, size) for line in lines)
    return _Chunk(tiles, (first, last), adds)
