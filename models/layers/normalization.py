"""Normalization that federates: by each example alone, or by constants that everybody shares.

There is no batch normalization. Its running means and variances are statistics of one device's batches; averaged over
devices that differ they are nobody's, and with a batch of eight they are noise. Group normalization has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.layers.base import Activation, BoundLayer, Shape, Tie, activate, deactivate, lying
from models.parameters import Entry, FloatArray

EPSILON = 1e-5
"""Added to variances, as everywhere."""


@dataclass(frozen=True, slots=True)
class GroupNorm:
    """Wu and He 2018: each example's channels, in ``groups`` of neighbours, get mean 0 and variance 1; then
    ``activation(value * weight + bias)``, with a weight and a bias for every channel.
    """  # noqa: D205 - the formula belongs to the sentence

    name: str
    input_shape: Shape
    groups: int
    activation: Activation
    kind = "group_norm"

    @property
    def output_shape(self) -> Shape:
        """As the input's."""
        return self.input_shape

    @property
    def entries(self) -> tuple[Entry, ...]:
        """A weight and a bias for every channel."""
        channels = self.input_shape[-1]
        return (f"{self.name}.weight", (channels,)), (f"{self.name}.bias", (channels,))

    @property
    def decayed(self) -> tuple[str, ...]:
        """None: the weights begin at 1, and belong there rather than at 0."""
        return ()

    @property
    def kept(self) -> int:
        """The normalized values, the output, and products on the way back."""
        return 3 * math.prod(self.input_shape)

    @property
    def work(self) -> int:
        """A few passes over the values."""
        return 8 * math.prod(self.input_shape)

    def to_data(self) -> dict[str, Any]:
        """Return the layer as a table of a spec."""
        data: dict[str, Any] = {"kind": self.kind, "name": self.name, "groups": self.groups}
        return data | ({"activation": self.activation} if self.activation != "none" else {})

    def init(self, views: dict[str, FloatArray], rng: np.random.Generator) -> None:
        """Weights are one, biases zero."""
        del rng
        views[f"{self.name}.weight"][...] = 1.0
        views[f"{self.name}.bias"][...] = 0.0

    def bind(self, tie: Tie) -> BoundLayer:
        """Return the layer for batches of ``tie.rows``."""
        return _BoundGroupNorm(self, tie)


class _BoundGroupNorm:
    """With ``v`` the normalized values and ``u`` the loss by them: ``d = (u - mean(u) - v mean(u v)) / deviation``."""

    def __init__(self, layer: GroupNorm, tie: Tie) -> None:
        channels = layer.input_shape[-1]
        self._activation = layer.activation
        self._shape = lying(layer.input_shape, tie.rows)
        count = math.prod(layer.input_shape) // layer.groups
        self._grouped = (layer.groups, count, tie.rows)
        self._flat = (channels, -1)
        self._weight = tie.values[f"{layer.name}.weight"].reshape(channels, 1)
        self._bias = tie.values[f"{layer.name}.bias"].reshape(channels, 1)
        self._weight_gradient = tie.gradients[f"{layer.name}.weight"]
        self._bias_gradient = tie.gradients[f"{layer.name}.bias"]
        self._share = np.float32(1.0 / count)
        self._normal = np.empty(self._shape, np.float32)
        self._output = np.empty(self._shape, np.float32)
        self._means = np.empty((layer.groups, 1, tie.rows), np.float32)
        self._inverse = np.empty_like(self._means)
        self._ones = np.ones(self._output.size // channels, np.float32)
        self._buffers = tie.buffers
        self._downstream = "" if tie.first else tie.buffers.reserve_downstream(self._output.size)
        tie.buffers.reserve("products", self._output.size)

    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        del rng
        normal, means, inverse = self._normal.reshape(self._grouped), self._means, self._inverse
        grouped = x.reshape(self._grouped)
        self._mean(grouped, means)
        np.subtract(grouped, means, out=normal)
        squares = self._buffers.view("products", self._grouped)
        np.multiply(normal, normal, out=squares)
        self._mean(squares, inverse)
        np.add(inverse, np.float32(EPSILON), out=inverse)
        np.sqrt(inverse, out=inverse)
        np.divide(np.float32(1.0), inverse, out=inverse)
        np.multiply(normal, inverse, out=normal)
        output = self._output.reshape(self._flat)
        np.multiply(self._normal.reshape(self._flat), self._weight, out=output)
        np.add(output, self._bias, out=output)
        activate(output, self._activation)
        return self._output

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        upstream = deactivate(upstream, self._output, self._activation)
        flat, normal = upstream.reshape(self._flat), self._normal.reshape(self._flat)
        products = self._buffers.view("products", self._shape)
        np.multiply(upstream, self._normal, out=products)
        np.dot(products.reshape(self._flat), self._ones, out=self._weight_gradient)
        np.dot(flat, self._ones, out=self._bias_gradient)
        if not self._downstream:
            return None
        np.multiply(flat, self._weight, out=flat)
        np.multiply(flat, normal, out=products.reshape(self._flat))
        by_normal, means = upstream.reshape(self._grouped), self._means
        self._mean(products.reshape(self._grouped), means)
        downstream = self._buffers.view(self._downstream, self._shape)
        grouped = downstream.reshape(self._grouped)
        np.multiply(self._normal.reshape(self._grouped), means, out=grouped)
        self._mean(by_normal, means)
        np.subtract(by_normal, grouped, out=grouped)
        np.subtract(grouped, means, out=grouped)
        np.multiply(grouped, self._inverse, out=grouped)
        return downstream

    def _mean(self, values: FloatArray, means: FloatArray) -> None:
        np.add.reduce(values, axis=1, keepdims=True, out=means)
        np.multiply(means, self._share, out=means)


@dataclass(frozen=True, slots=True)
class Standardize:
    """``(x - mean) * scale`` for every channel (or feature), by constants that no training changes.

    They are parameters, so that they travel with the model; they begin as 0 and 1. Their gradient is zero, and no
    penalty applies to them.
    """

    name: str
    input_shape: Shape
    kind = "standardize"

    @property
    def output_shape(self) -> Shape:
        """As the input's."""
        return self.input_shape

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Means, and scales: one divided by the deviation."""
        channels = self.input_shape[-1]
        return (f"{self.name}.mean", (channels,)), (f"{self.name}.scale", (channels,))

    @property
    def decayed(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def kept(self) -> int:
        """The output."""
        return math.prod(self.input_shape)

    @property
    def work(self) -> int:
        """Two passes over the values."""
        return 2 * math.prod(self.input_shape)

    def to_data(self) -> dict[str, Any]:
        """Return the layer as a table of a spec."""
        return {"kind": self.kind, "name": self.name}

    def init(self, views: dict[str, FloatArray], rng: np.random.Generator) -> None:
        """Means are zero, scales one: nothing is changed until the constants are known."""
        del rng
        views[f"{self.name}.mean"][...] = 0.0
        views[f"{self.name}.scale"][...] = 1.0

    def bind(self, tie: Tie) -> BoundLayer:
        """Return the layer for batches of ``tie.rows``."""
        return _BoundStandardize(self, tie)


class _BoundStandardize:
    def __init__(self, layer: Standardize, tie: Tie) -> None:
        # Of features each column has a constant, of channels each plane.
        column = (-1,) if len(layer.input_shape) == 1 else (-1, *[1] * len(layer.input_shape))
        self._mean = tie.values[f"{layer.name}.mean"].reshape(column)
        self._scale = tie.values[f"{layer.name}.scale"].reshape(column)
        self._gradients = (tie.gradients[f"{layer.name}.mean"], tie.gradients[f"{layer.name}.scale"])
        self._output = np.empty(lying(layer.input_shape, tie.rows), np.float32)

    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        del rng
        np.subtract(x, self._mean, out=self._output)
        return np.multiply(self._output, self._scale, out=self._output)

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        del upstream
        # Every time: optimizers overwrite the gradient.
        for gradient in self._gradients:
            gradient.fill(0.0)
        return None
