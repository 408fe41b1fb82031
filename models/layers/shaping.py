"""Layers that learn nothing: reading an example in its shape, flattening it, dropout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.layers.base import BoundLayer, Plain, Shape, Tie, lying
from models.parameters import FloatArray


class Reader:
    """Turns rows of features, channels last, into the way in which layers want them: channels first, rows last."""

    def __init__(self, shape: Shape, rows: int) -> None:
        self._rows = (rows, *shape)
        self._axes = (len(shape), *range(1, len(shape)), 0)
        self._output = np.empty(lying(shape, rows), np.float32)

    def __call__(self, x: FloatArray) -> FloatArray:
        """Return the examples, in a buffer that the next call overwrites."""
        np.copyto(self._output, x.reshape(self._rows).transpose(self._axes))
        return self._output


@dataclass(frozen=True, slots=True)
class Flatten(Plain):
    """All values of an example in a row, channels last: position by position, the channels of each together."""

    input_shape: Shape
    kind = "flatten"

    @property
    def output_shape(self) -> Shape:
        """As many features as there were values."""
        return (math.prod(self.input_shape),)

    @property
    def kept(self) -> int:
        """The output."""
        return math.prod(self.input_shape)

    @property
    def work(self) -> int:
        """A pass over the values."""
        return math.prod(self.input_shape)

    def to_data(self) -> dict[str, Any]:
        """Return the layer as a table of a spec."""
        return {"kind": self.kind}

    def bind(self, tie: Tie) -> BoundLayer:
        """Return the layer for batches of ``tie.rows``."""
        return _BoundFlatten(self, tie)


class _BoundFlatten:
    def __init__(self, layer: Flatten, tie: Tie) -> None:
        shape = layer.input_shape
        self._output = np.empty((tie.rows, math.prod(shape)), np.float32)
        self._spread = self._output.reshape(tie.rows, *shape).transpose(len(shape), *range(1, len(shape)), 0)
        self._shape = lying(shape, tie.rows)
        self._axes = (len(shape), *range(1, len(shape)), 0)
        self._rows = (tie.rows, *shape)
        self._buffers = tie.buffers
        self._downstream = "" if tie.first else tie.buffers.reserve_downstream(self._output.size)

    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        del rng
        np.copyto(self._spread, x)
        return self._output

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        if not self._downstream:
            return None
        downstream = self._buffers.view(self._downstream, self._shape)
        np.copyto(downstream, upstream.reshape(self._rows).transpose(self._axes))
        return downstream


@dataclass(frozen=True, slots=True)
class Dropout(Plain):
    """In training each value is zero with probability ``rate``, else divided by ``1 - rate`` (Srivastava et al. 2014).

    In predictions and evaluations it does nothing.
    """

    input_shape: Shape
    rate: float
    kind = "dropout"

    @property
    def output_shape(self) -> Shape:
        """As the input's."""
        return self.input_shape

    @property
    def kept(self) -> int:
        """The factors, and the output."""
        return 2 * math.prod(self.input_shape)

    @property
    def work(self) -> int:
        """A draw for every value."""
        return 4 * math.prod(self.input_shape)

    def to_data(self) -> dict[str, Any]:
        """Return the layer as a table of a spec."""
        return {"kind": self.kind, "rate": self.rate}

    def bind(self, tie: Tie) -> BoundLayer:
        """Return the layer for batches of ``tie.rows``."""
        return _BoundDropout(self, tie)


class _BoundDropout:
    def __init__(self, layer: Dropout, tie: Tie) -> None:
        shape = lying(layer.input_shape, tie.rows)
        self._rate = np.float32(layer.rate)
        self._gain = np.float32(1.0 / (1.0 - layer.rate))
        self._factors = np.empty(shape, np.float32)
        self._output = np.empty(shape, np.float32)
        self._drops = False
        self._first = tie.first

    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        self._drops = rng is not None
        if rng is None:
            return x
        factors = self._factors
        rng.random(dtype=np.float32, out=factors)
        np.greater_equal(factors, self._rate, out=factors, casting="unsafe")
        np.multiply(factors, self._gain, out=factors)
        return np.multiply(x, factors, out=self._output)

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        if self._first:
            return None
        return np.multiply(upstream, self._factors, out=upstream) if self._drops else upstream
