"""What a layer is: a frozen description, and the same bound to parameters and buffers for one batch size.

A description says what shape comes out, which parameters the layer has and how they begin; ``bind`` ties it to views of
one parameter vector, one gradient vector and buffers, so that a step allocates nothing and two threads share nothing.

Shapes are those of one example, channels last, as in TFLite: ``(features,)``, ``(steps, channels)`` or
``(height, width, channels)``. Batches of features are arrays ``(rows, features)``. All others lie channels first and
rows last, ``(channels, steps, rows)`` and ``(channels, height, width, rows)``: then a convolution is one matrix
product, and everything else runs along the rows, which are next to each other in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from models.parameters import Entry, FloatArray
from models.pieces import Between, go_on

Shape: TypeAlias = tuple[int, ...]
Activation: TypeAlias = Literal["relu", "tanh", "none"]
Start: TypeAlias = Literal["he", "glorot", "zero"]

ACTIVATIONS: tuple[Activation, ...] = ("relu", "tanh", "none")

ZERO = np.zeros((), np.float32)
ZERO.flags.writeable = False
ONE = np.ones((), np.float32)
ONE.flags.writeable = False


class Buffers:
    """Memory that the layers of one bound network share, for batches of one size.

    ``reserve`` is for binding time: it says how large a block must be at least. ``view`` is for the steps: blocks are
    made with the first one, once for the largest need. A block holds nothing from one layer to the next, except the
    two that gradients go back through: each layer reads one and writes the other.
    """

    def __init__(self, between: Between = go_on) -> None:
        self.between = between
        """Layers that work in pieces call it between them; when it raises, the step is given up."""
        self._floats: dict[str, int] = {}
        self._blocks: dict[str, FloatArray] = {}
        self._views: dict[tuple[str, Shape], FloatArray] = {}
        self._turn = 0

    def reserve(self, name: str, floats: int) -> None:
        """Make the block at least so long."""
        self._floats[name] = max(self._floats.get(name, 0), floats)

    def reserve_downstream(self, floats: int) -> str:
        """Return the name of the block that the next layer's gradient by its input goes to."""
        self._turn = 1 - self._turn
        name = f"gradient{self._turn}"
        self.reserve(name, floats)
        return name

    def view(self, name: str, shape: Shape) -> FloatArray:
        """Return the beginning of the block in this shape; its content is whatever was left there."""
        found = self._views.get((name, shape))
        if found is None:
            if name not in self._blocks:
                self._blocks[name] = np.empty(self._floats[name], np.float32)
            found = self._views[name, shape] = self._blocks[name][: math.prod(shape)].reshape(shape)
        return found


@dataclass(frozen=True, slots=True)
class Tie:
    """What a layer is bound to."""

    values: dict[str, FloatArray]
    gradients: dict[str, FloatArray]
    rows: int
    buffers: Buffers
    first: bool
    """Nothing before the layer is trained, so nobody needs the loss by its input."""


class BoundLayer(Protocol):
    """A layer with parameters and buffers, for batches of one size."""

    def forward(self, x: FloatArray, rng: np.random.Generator | None) -> FloatArray:
        """Return the layer's output for ``x``, in a buffer that the next call overwrites; ``x`` is left as it is.

        Chance, where a layer takes any, comes from ``rng``; without one it does what it does in predictions.
        """

    def backward(self, upstream: FloatArray) -> FloatArray | None:
        """Write the parameters' gradient; return the loss by the layer's input, unless it was bound as the first.

        ``upstream`` is the loss by this layer's output, and may be overwritten, as may the output.
        """


class Layer(Protocol):
    """The description of a layer: a frozen value."""

    @property
    def kind(self) -> str:
        """The name under which a spec asks for the layer."""

    @property
    def input_shape(self) -> Shape:
        """Of one example."""

    @property
    def output_shape(self) -> Shape:
        """Of one example."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Names and shapes of the parameters."""

    @property
    def decayed(self) -> tuple[str, ...]:
        """Names of the parameters that an L2 penalty applies to."""

    @property
    def kept(self) -> int:
        """Values per example that are kept from the forward to the backward pass."""

    @property
    def work(self) -> int:
        """Multiplications per example of the forward pass, about; the backward pass takes twice as many."""

    def to_data(self) -> dict[str, Any]:
        """Return the layer as a table of a spec, without what is the default."""

    def init(self, views: dict[str, FloatArray], rng: np.random.Generator) -> None:
        """Write the parameters to begin with into ``views``."""

    def bind(self, tie: Tie) -> BoundLayer:
        """Return the layer for batches of ``tie.rows``."""


class Plain:
    """A layer without parameters."""

    __slots__ = ()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """None."""
        return ()

    @property
    def decayed(self) -> tuple[str, ...]:
        """None."""
        return ()

    def init(self, views: dict[str, FloatArray], rng: np.random.Generator) -> None:
        """Do nothing."""


def start_weights(weight: FloatArray, start: Start, fan_in: int, fan_out: int, rng: np.random.Generator) -> None:
    """Fill ``weight``: He et al. 2015 (normal, variance ``2 / fan_in``), Glorot and Bengio 2010 (uniform), or zero."""
    if start == "zero":
        weight[...] = 0.0
    elif start == "he":
        rng.standard_normal(dtype=np.float32, out=weight)
        weight *= np.float32(math.sqrt(2.0 / fan_in))
    else:
        start_uniform(weight, math.sqrt(6.0 / (fan_in + fan_out)), rng)


def start_uniform(weight: FloatArray, limit: float, rng: np.random.Generator) -> None:
    """Fill ``weight`` uniformly from ``-limit`` to ``limit``."""
    rng.random(dtype=np.float32, out=weight)
    weight *= np.float32(2.0 * limit)
    weight -= np.float32(limit)


def usual_start(activation: Activation) -> Start:
    """Return how weights before this activation begin, unless the spec says otherwise."""
    return "he" if activation == "relu" else "glorot"


def activate(values: FloatArray, activation: Activation) -> None:
    """Apply the activation in place."""
    if activation == "relu":
        np.maximum(values, ZERO, out=values)
    elif activation == "tanh":
        np.tanh(values, out=values)


def deactivate(upstream: FloatArray, output: FloatArray, activation: Activation) -> FloatArray:
    """Multiply ``upstream`` by the slope of the activation at what it made ``output`` of, which is overwritten."""
    if activation == "none":
        return upstream
    if activation == "relu":
        # Not np.sign, though the output is never negative: it branches on every value, at ten times the time.
        slope = np.greater(output, ZERO, out=output, casting="unsafe")
    else:
        slope = np.multiply(output, output, out=output)
        np.subtract(ONE, slope, out=slope)
    return np.multiply(upstream, slope, out=upstream)


def lying(shape: Shape, rows: int) -> Shape:
    """Return the shape of the array that holds ``rows`` examples of this shape."""
    return (rows, *shape) if len(shape) == 1 else (shape[-1], *shape[:-1], rows)
