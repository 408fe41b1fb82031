"""Convolutions over time and over images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from models.layers.base import Activation, BoundLayer, Shape, Start, Tie, lying, start_weights, usual_start
from models.layers.tails import PlainTail, PooledTail, tail_of
from models.layers.tiled import BoundTiled, is_tiled, least_kept
from models.layers.unrolling import Geometry, Unrolled, out_positions
from models.parameters import Entry, FloatArray

Padding: TypeAlias = Literal["same", "valid"]

CHUNK_FLOATS = 2**17
"""Of unrolled input at a time, 512 KB: what is multiplied next is still in the cache, and memory stays small."""

MOST_POOLED_LINES = 4
"""Pooling over more lines is left to a layer of its own: at least a line of windows is unrolled at once."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """``activation(bias[f] + sum of weight[f, position, c] * x[..., c])`` over a window; weight channels last.

    The window moves over ``(steps, channels)`` or ``(height, width, channels)``. Padding ``same`` puts zeros around,
    the odd one behind, so that ``ceil(size / stride)`` positions come out; with ``valid`` the window stays inside.
    """

    name: str
    input_shape: Shape
    filters: int
    kernel: tuple[int, ...]
    """One size for each of the shape's axes but the last."""
    stride: tuple[int, ...]
    padding: Padding
    activation: Activation
    start: Start

    @property
    def kind(self) -> str:
        """Steps have one axis to move along, images two."""
        return f"conv{len(self.kernel)}d"

    @property
    def output_shape(self) -> Shape:
        """Positions of the window, and a channel for every filter."""
        sizes = zip(self.input_shape[:-1], self.kernel, self.stride, strict=True)
        return (*(out_positions(size, k, s, self.padding) for size, k, s in sizes), self.filters)

    @property
    def fan_in(self) -> int:
        """Values that one output depends on."""
        return math.prod(self.kernel) * self.input_shape[-1]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Weight ``(filters, *kernel, channels)`` and bias ``(filters,)``."""
        weight = (self.filters, *self.kernel, self.input_shape[-1])
        return (f"{self.name}.weight", weight), (f"{self.name}.bias", (self.filters,))

    @property
    def decayed(self) -> tuple[str, ...]:
        """The weight."""
        return (f"{self.name}.weight",)

    @property
    def kept(self) -> int:
        """The output, the input with its padding, and as many columns as have to be unrolled at once."""
        padded = math.prod(size + k for size, k in zip(self.input_shape[:-1], self.kernel, strict=True))
        lines = MOST_POOLED_LINES * self.fan_in * math.prod(self.output_shape[1:-1])
        work = least_kept(self) if is_tiled(self) else lines
        return math.prod(self.output_shape) + padded * self.input_shape[-1] + work

    @property
    def work(self) -> int:
        """Every output takes a product for each value in its window."""
        return math.prod(self.output_shape) * self.fan_in

    def to_data(self) -> dict[str, Any]:
        """Return the layer as a table of a spec."""
        data: dict[str, Any] = {"kind": self.kind, "name": self.name, "filters": self.filters}
        data["kernel"] = _short(self.kernel)
        if set(self.stride) != {1}:
            data["stride"] = _short(self.stride)
        if self.padding != "same":
            data["padding"] = self.padding
        if self.activation != "none":
            data["activation"] = self.activation
        if self.start != usual_start(self.activation):
            data["start"] = self.start
        return data

    def init(self, views: dict[str, FloatArray], rng: np.random.Generator) -> None:
        """Write the parameters to begin with; biases are zero."""
        views[f"{self.name}.bias"][...] = 0.0
        fan_out = math.prod(self.kernel) * self.filters
        start_weights(views[f"{self.name}.weight"], self.start, self.fan_in, fan_out, rng)

    def bind(self, tie: Tie) -> BoundLayer:
        """Return the layer for batches of ``tie.rows``."""
        return self._bound(tie, None)

    def bind_with_pooling(self, tie: Tie, pool: tuple[int, ...]) -> BoundLayer:
        """Return this layer and the max pooling behind it as one.

        Adding a bias and the activations never turn an order of two numbers around, so they come after pooling, with
        the same bits, on a fraction of the values; and what was not the maximum is never stored.
        """
        return self._bound(tie, pool)

    def _bound(self, tie: Tie, pool: tuple[int, ...] | None) -> BoundLayer:
        return BoundTiled(self, tie, pool) if is_tiled(self) else _Bound(self, tie, pool)


def _short(sizes: tuple[int, ...]) -> int | list[int]:
    return sizes[0] if len(set(sizes)) == 1 else list(sizes)


class _Bound:
    """One matrix product per chunk of output rows: ``weight (filters, taps) @ columns (taps, positions)``.

    The unrolled columns are made anew in the backward pass: copying is cheaper than keeping ``kernel`` times the input.
    The weight's gradient is made transposed: BLAS multiplies by the narrow matrix from the right a third sooner.
    """

    def __init__(self, layer: Convolution, tie: Tie, pool: tuple[int, ...] | None) -> None:
        geometry = Geometry.of(layer.input_shape, layer.kernel, layer.stride, layer.padding)
        weight = f"{layer.name}.weight"
        taps = (layer.filters, layer.fan_in)
        self._weight = tie.values[weight].reshape(taps)
        self._weight_t = self._weight.T
        self._weight_gradient = tie.gradients[weight].reshape(taps)
        self._filters = layer.filters
        self._tail: PlainTail | PooledTail = tail_of(layer, tie, pool)
        step = self._tail.step
        self._unrolled = Unrolled(geometry, tie.rows, self._tail.rows, step, CHUNK_FLOATS)
        self._buffers = tie.buffers
        longest = self._unrolled.longest
        tie.buffers.reserve("columns", layer.fan_in * longest)
        tie.buffers.reserve("raw", layer.filters * longest)
        tie.buffers.reserve("lines", layer.filters * longest // step)
        tie.buffers.reserve("more", layer.fan_in * layer.filters)
        self._gradient_t = np.empty((layer.fan_in, layer.filters), np.float32)
        self._downstream = ""
        if not tie.first:
            self._downstream = tie.buffers.reserve_downstream(math.prod(layer.input_shape) * tie.rows)
        self._input = lying(layer.input_shape, tie.rows)
        self._image = (geometry.channels, *geometry.size, tie.rows)

    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        del rng
        unrolled, view = self._unrolled, self._buffers.view
        unrolled.load(x)
        for chunk in unrolled.chunks:
            self._buffers.between()
            columns = view("columns", chunk.columns)
            unrolled.copy(chunk, columns)
            raw = view("raw", (self._filters, chunk.positions))
            np.dot(self._weight, columns.reshape(-1, chunk.positions), out=raw)
            self._tail.take(chunk.first, chunk.last, raw)
        return self._tail.output

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        unrolled, view = self._unrolled, self._buffers.view
        slope = self._tail.slope(upstream)
        downstream = None
        if self._downstream:
            downstream = view(self._downstream, self._input)
            downstream.fill(0.0)
        self._gradient_t.fill(0.0)
        more = view("more", self._gradient_t.shape)
        for chunk in unrolled.chunks:
            self._buffers.between()
            raw = self._tail.give(slope, chunk.first, chunk.last, view("raw", (self._filters, chunk.positions)))
            columns = view("columns", chunk.columns)
            unrolled.copy(chunk, columns)
            flat = columns.reshape(-1, chunk.positions)
            np.dot(flat, raw.T, out=more)
            np.add(self._gradient_t, more, out=self._gradient_t)
            if downstream is not None:
                np.dot(self._weight_t, raw, out=flat)
                unrolled.add(chunk, columns, downstream.reshape(self._image))
        np.copyto(self._weight_gradient, self._gradient_t.T)
        return downstream
