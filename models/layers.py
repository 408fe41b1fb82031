"""Layers: a frozen description, and the same bound to parameters and buffers for one batch size.

A description says which parameters the layer has and how they begin; ``bind`` ties it to views of one parameter
vector, one gradient vector and buffers of its own, so that a step allocates nothing and two threads share nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from models.parameters import Entry, FloatArray

Start: TypeAlias = Literal["he", "glorot", "zero"]

_ZERO = np.zeros((), np.float32)
_ZERO.flags.writeable = False


class BoundLayer(Protocol):
    """A layer with parameters and buffers, for batches of one size."""

    def forward(self, x: FloatArray) -> FloatArray:
        """Return the layer's output for ``x``, in a buffer that the next call overwrites."""

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        """Write the parameters' gradient; return the loss by the layer's input, if the layer was bound to give it.

        ``upstream`` is the loss by this layer's output, and may be overwritten.
        """


@dataclass(frozen=True, slots=True)
class Dense:
    """``activation(x @ weight + bias)``; weight ``(inputs, outputs)``, bias ``(outputs,)``."""

    name: str
    inputs: int
    outputs: int
    activation: Literal["relu", "tanh", "none"]
    start: Start
    """Weights: He et al. 2015 (normal, variance ``2 / inputs``), Glorot and Bengio 2010 (uniform), or zero."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Names and shapes of the parameters."""
        return (f"{self.name}.weight", (self.inputs, self.outputs)), (f"{self.name}.bias", (self.outputs,))

    @property
    def decayed(self) -> tuple[str, ...]:
        """Names of the parameters that an L2 penalty applies to."""
        return (f"{self.name}.weight",)

    def init(self, views: dict[str, FloatArray], rng: np.random.Generator) -> None:
        """Write the parameters to begin with into ``views``; biases are zero."""
        weight = views[f"{self.name}.weight"]
        views[f"{self.name}.bias"][...] = 0.0
        if self.start == "zero":
            weight[...] = 0.0
        elif self.start == "he":
            rng.standard_normal(dtype=np.float32, out=weight)
            weight *= np.float32(math.sqrt(2.0 / self.inputs))
        else:
            limit = math.sqrt(6.0 / (self.inputs + self.outputs))
            rng.random(dtype=np.float32, out=weight)
            weight *= np.float32(2.0 * limit)
            weight -= np.float32(limit)

    def bind(
        self, values: dict[str, FloatArray], gradients: dict[str, FloatArray], rows: int, *, first: bool
    ) -> BoundLayer:
        """Return the layer for batches of ``rows``; the ``first`` of a network gives no gradient by its input."""
        weight, bias = f"{self.name}.weight", f"{self.name}.bias"
        parts = (values[weight], values[bias], gradients[weight], gradients[bias])
        return _ACTIVATED[self.activation](*parts, rows=rows, first=first)


class _LinearBound:
    """``np.dot`` throughout: for small matrices it costs half of what ``matmul`` and ``add.reduce`` do per call."""

    def __init__(
        self,
        weight: FloatArray,
        bias: FloatArray,
        weight_gradient: FloatArray,
        bias_gradient: FloatArray,
        *,
        rows: int,
        first: bool,
    ) -> None:
        self._weight = weight
        self._weight_t = weight.T
        self._bias = bias
        self._weight_gradient = weight_gradient
        self._bias_gradient = bias_gradient
        self._ones = np.ones(rows, np.float32)
        self._output = np.empty((rows, weight.shape[1]), np.float32)
        self._downstream = None if first else np.empty((rows, weight.shape[0]), np.float32)
        self._x = self._output

    def forward(self, x: FloatArray) -> FloatArray:
        self._x = x
        output = self._output
        np.dot(x, self._weight, out=output)
        np.add(output, self._bias, out=output)
        return output

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        np.dot(self._x.T, upstream, out=self._weight_gradient)
        np.dot(self._ones, upstream, out=self._bias_gradient)
        if self._downstream is not None:
            np.dot(upstream, self._weight_t, out=self._downstream)
        return self._downstream


class _ReluBound(_LinearBound):
    def forward(self, x: FloatArray) -> FloatArray:
        output = super().forward(x)
        return np.maximum(output, _ZERO, out=output)

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        # The output is not negative, so its sign is the slope; float32 throughout, where a mask of bool would be cast.
        slope = np.sign(self._output, out=self._output)
        return super().backward(np.multiply(upstream, slope, out=upstream))


class _TanhBound(_LinearBound):
    def forward(self, x: FloatArray) -> FloatArray:
        output = super().forward(x)
        return np.tanh(output, out=output)

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        slope = np.multiply(self._output, self._output, out=self._output)
        np.subtract(np.float32(1.0), slope, out=slope)
        return super().backward(np.multiply(upstream, slope, out=upstream))


_ACTIVATED: dict[str, type[_LinearBound]] = {"none": _LinearBound, "relu": _ReluBound, "tanh": _TanhBound}
