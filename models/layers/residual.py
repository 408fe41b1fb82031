"""A way around some layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.layers.base import Activation, BoundLayer, Layer, Shape, Tie, activate, deactivate, lying
from models.layers.binding import bind_all
from models.parameters import Entry, FloatArray


@dataclass(frozen=True, slots=True)
class Residual:
    """``activation(x + layers(x))``, as in He et al. 2016."""

    layers: tuple[Layer, ...]
    activation: Activation
    kind = "residual"

    @property
    def input_shape(self) -> Shape:
        """Of the first layer."""
        return self.layers[0].input_shape

    @property
    def output_shape(self) -> Shape:
        """As the input's."""
        return self.input_shape

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Those of the layers."""
        return tuple(entry for layer in self.layers for entry in layer.entries)

    @property
    def decayed(self) -> tuple[str, ...]:
        """Those of the layers."""
        return tuple(name for layer in self.layers for name in layer.decayed)

    @property
    def kept(self) -> int:
        """What the layers keep, the sum, and the gradient that goes around them."""
        return sum(layer.kept for layer in self.layers) + 2 * int(np.prod(self.input_shape))

    @property
    def work(self) -> int:
        """That of the layers."""
        return sum(layer.work for layer in self.layers)

    def to_data(self) -> dict[str, Any]:
        """Return the layer as a table of a spec."""
        data: dict[str, Any] = {"kind": self.kind, "layers": [layer.to_data() for layer in self.layers]}
        return data | ({"activation": self.activation} if self.activation != "none" else {})

    def init(self, views: dict[str, FloatArray], rng: np.random.Generator) -> None:
        """Write the parameters of the layers."""
        for layer in self.layers:
            layer.init(views, rng)

    def bind(self, tie: Tie) -> BoundLayer:
        """Return the layer for batches of ``tie.rows``."""
        return _Bound(self, tie)


class _Bound:
    def __init__(self, layer: Residual, tie: Tie) -> None:
        shape = lying(layer.input_shape, tie.rows)
        self._activation = layer.activation
        self._layers = bind_all(layer.layers, tie)
        self._output = np.empty(shape, np.float32)
        self._between = tie.buffers.between
        self._around = None if tie.first else np.empty(shape, np.float32)

    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        value = x
        for layer in self._layers:
            self._between()
            value = layer.forward(value, rng)
        np.add(value, x, out=self._output)
        activate(self._output, self._activation)
        return self._output

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        upstream = deactivate(upstream, self._output, self._activation)
        if self._around is not None:
            np.copyto(self._around, upstream)
        found: FloatArray | None = upstream
        for layer in reversed(self._layers):
            self._between()
            if found is not None:
                found = layer.backward(found)
        if found is None or self._around is None:
            return None
        return np.add(found, self._around, out=found)
