"""What a convolution does with its sums: bias and activation, or max pooling first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.layers.base import Activation, Shape, Tie, activate, deactivate, lying
from models.layers.pooling import Winners
from models.parameters import FloatArray

if TYPE_CHECKING:
    from models.layers.convolution import Convolution

_IMAGE = 3


def as_image(shape: Shape) -> tuple[int, int, int]:
    """Return height, width and channels; steps are rows of an image of width one."""
    return (shape[0], shape[1], shape[2]) if len(shape) == _IMAGE else (shape[0], 1, shape[1])


class _Tail:
    """Bias and activation, and their slopes."""

    def __init__(self, shape: Shape, activation: Activation, tie: Tie, bias: str) -> None:
        """Make the output of this shape, channels last; ``bias`` names the parameter."""
        height, width, channels = as_image(shape)
        self._activation = activation
        self._bias = tie.values[bias].reshape(channels, 1)
        self._bias_gradient = tie.gradients[bias]
        self.output = np.empty(lying(shape, tie.rows), np.float32)
        self._flat = self.output.reshape(channels, -1)
        self._ones = np.ones(self._flat.shape[1], np.float32)
        self._per_row = width * tie.rows
        self._height = height

    def slope(self, upstream: FloatArray) -> FloatArray:
        """Take the loss by the output; write the bias's gradient and return the loss by what the bias is added to."""
        upstream = deactivate(upstream, self.output, self._activation)
        flat = upstream.reshape(self._flat.shape)
        np.dot(flat, self._ones, out=self._bias_gradient)
        return flat


class PlainTail(_Tail):
    """Bias and activation."""

    step = 1
    """Rows come as they like."""

    @property
    def rows(self) -> int:
        """Output rows of the convolution that are needed."""
        return self._height

    def take(self, first: int, last: int, raw: FloatArray) -> None:
        """Take the sums ``(filters, positions)`` of some output rows."""
        part = self._flat[:, first * self._per_row : last * self._per_row]
        np.add(raw, self._bias, out=part)
        activate(part, self._activation)

    def give(self, slope: FloatArray, first: int, last: int, raw: FloatArray) -> FloatArray:
        """Return the loss by the sums of some output rows."""
        del raw
        return slope[:, first * self._per_row : last * self._per_row]


class PooledTail(_Tail):
    """Max pooling, then bias and activation."""

    def __init__(self, shape: Shape, pool: tuple[int, ...], activation: Activation, tie: Tie, bias: str) -> None:
        height, width, channels = as_image(shape)
        self._pool = (pool[0], pool[1] if len(shape) == _IMAGE else 1)
        small = (height // self._pool[0], width // self._pool[1])
        super().__init__((*small, channels) if len(shape) == _IMAGE else (small[0], channels), activation, tie, bias)
        self._raw = (channels, -1, width, tie.rows)
        self._pooled = self.output.reshape(channels, *small, tie.rows)
        self._winners = Winners(self._pooled.shape, self._pool, width)
        self._buffers = tie.buffers
        self.step = self._pool[0]
        """Rows come in multiples of this."""
        self.rows = small[0] * self.step
        """Output rows of the convolution that are needed: the pooling drops an incomplete window at the end."""

    def take(self, first: int, last: int, raw: FloatArray) -> None:
        """Take the sums of some output rows."""
        rows = slice(first // self.step, last // self.step)
        part = self._pooled[:, rows]
        self._winners.find(raw.reshape(self._raw), rows, self._work(rows), part)
        np.add(part, self._bias.reshape(-1, 1, 1, 1), out=part)
        activate(part, self._activation)

    def give(self, slope: FloatArray, first: int, last: int, raw: FloatArray) -> FloatArray:
        """Return the loss by the sums of some output rows, in ``raw``."""
        rows = slice(first // self.step, last // self.step)
        by_pooled = slope.reshape(self._pooled.shape)[:, rows]
        self._winners.spread(by_pooled, rows, self._work(rows), raw.reshape(self._raw))
        return raw

    def _work(self, rows: slice) -> FloatArray:
        channels, _, width, batch = self._raw
        return self._buffers.view("lines", (channels, rows.stop - rows.start, width, batch))


def tail_of(layer: Convolution, tie: Tie, pool: tuple[int, ...] | None) -> PlainTail | PooledTail:
    """Return what comes after the layer's sums; ``pool`` is the size of the max pooling behind it, if there is any."""
    bias = f"{layer.name}.bias"
    if pool is None:
        return PlainTail(layer.output_shape, layer.activation, tie, bias)
    return PooledTail(layer.output_shape, pool, layer.activation, tie, bias)
