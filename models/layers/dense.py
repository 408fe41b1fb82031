"""A layer in which every output depends on every feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.layers.base import (
    Activation,
    BoundLayer,
    Shape,
    Start,
    Tie,
    activate,
    deactivate,
    start_weights,
    usual_start,
)
from models.parameters import Entry, FloatArray


@dataclass(frozen=True, slots=True)
class Dense:
    """``activation(x @ weight + bias)``; weight ``(inputs, outputs)``, bias ``(outputs,)``."""

    name: str
    inputs: int
    outputs: int
    activation: Activation
    start: Start
    kind = "dense"

    @property
    def input_shape(self) -> Shape:
        """The features of an example."""
        return (self.inputs,)

    @property
    def output_shape(self) -> Shape:
        """The values of an example."""
        return (self.outputs,)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Names and shapes of the parameters."""
        return (f"{self.name}.weight", (self.inputs, self.outputs)), (f"{self.name}.bias", (self.outputs,))

    @property
    def decayed(self) -> tuple[str, ...]:
        """The weight."""
        return (f"{self.name}.weight",)

    @property
    def kept(self) -> int:
        """The output."""
        return self.outputs

    @property
    def work(self) -> int:
        """A product for every weight."""
        return self.inputs * self.outputs

    def to_data(self) -> dict[str, Any]:
        """Return the layer as a table of a spec."""
        data: dict[str, Any] = {"kind": self.kind, "name": self.name, "outputs": self.outputs}
        if self.activation != "none":
            data["activation"] = self.activation
        if self.start != usual_start(self.activation):
            data["start"] = self.start
        return data

    def init(self, views: dict[str, FloatArray], rng: np.random.Generator) -> None:
        """Write the parameters to begin with; biases are zero."""
        views[f"{self.name}.bias"][...] = 0.0
        start_weights(views[f"{self.name}.weight"], self.start, self.inputs, self.outputs, rng)

    def bind(self, tie: Tie) -> BoundLayer:
        """Return the layer for batches of ``tie.rows``."""
        return _Bound(self, tie)


class _Bound:
    """``np.dot`` throughout: for small matrices it costs half of what ``matmul`` and ``add.reduce`` do per call."""

    def __init__(self, layer: Dense, tie: Tie) -> None:
        weight, bias = f"{layer.name}.weight", f"{layer.name}.bias"
        self._activation = layer.activation
        self._weight = tie.values[weight]
        self._weight_t = self._weight.T
        self._bias = tie.values[bias]
        self._weight_gradient = tie.gradients[weight]
        self._bias_gradient = tie.gradients[bias]
        self._ones = np.ones(tie.rows, np.float32)
        self._output = np.empty((tie.rows, layer.outputs), np.float32)
        self._buffers = tie.buffers
        self._shape = (tie.rows, layer.inputs)
        self._downstream = "" if tie.first else tie.buffers.reserve_downstream(tie.rows * layer.inputs)
        self._x = self._output

    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        del rng
        self._x = x
        output = self._output
        np.dot(x, self._weight, out=output)
        np.add(output, self._bias, out=output)
        activate(output, self._activation)
        return output

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        upstream = deactivate(upstream, self._output, self._activation)
        np.dot(self._x.T, upstream, out=self._weight_gradient)
        np.dot(self._ones, upstream, out=self._bias_gradient)
        if not self._downstream:
            return None
        return np.dot(upstream, self._weight_t, out=self._buffers.view(self._downstream, self._shape))
