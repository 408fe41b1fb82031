"""Layers from tables of a spec: checked one after the other, each against the shape that the one before gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from models.errors import SpecError
from models.fields import Fields
from models.layers.base import ACTIVATIONS, Activation, Layer, Shape, Start, usual_start
from models.layers.dense import Dense

if TYPE_CHECKING:
    from models.layers.convolution import Padding
    from models.layers.residual import Residual

MAX_LAYERS = 64
"""With those inside of residual ones; a bound on what one step may cost."""

MAX_WIDTH = 2**16
MAX_KERNEL = 63
MAX_STEPS = 4096
"""Of a recurrent layer, which takes them one by one."""

CONSTANTS = "constants"
"""The name of a ``standardize`` layer, unless it is given another: its parameters are nobody's to train."""

_FLAT, _SERIES, _IMAGE = 1, 2, 3


class LayerReader:
    """Reads the layers of one network, whose names must differ."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._counts: dict[str, int] = {}
        self._layers = 0

    def read(
        self, tables: Sequence[Mapping[Any, Any]], shape: Shape, what: str = "model", depth: int = 0
    ) -> tuple[Layer, ...]:
        """Return the layers of these tables, or raise ``SpecError``, which says in which layer the fault is."""
        layers: list[Layer] = []
        for number, table in enumerate(tables):
            layer = self._layer(table, shape, f"{what}: layer {number}", depth, is_first=not number)
            layers.append(layer)
            shape = layer.output_shape
        return tuple(layers)

    def _layer(self, table: Mapping[Any, Any], shape: Shape, what: str, depth: int, *, is_first: bool) -> Layer:
        self._layers += 1
        if self._layers > MAX_LAYERS:
            raise SpecError(f"{what} is one too many, allowed are {MAX_LAYERS} layers")
        fields = Fields(table, what, SpecError)
        kind = fields.choice("kind", list(_READERS))
        axes = _READERS[kind][0]
        if len(shape) not in axes:
            raise SpecError(f"{what} ({kind}) gets examples of shape {shown(shape)}, allowed are {_wanted(axes)}")
        if kind == "residual":
            layer: Layer = self._residual(fields, shape, what, depth)
        elif kind == "standardize":
            if depth or not is_first:
                raise SpecError(
                    f"{what} ({kind}) is allowed as the first layer only: its constants are those of the data"
                )
            from models.layers.normalization import Standardize  # noqa: PLC0415 - see models.layers

            layer = Standardize(self._name(fields, CONSTANTS), shape)
        else:
            layer = _READERS[kind][1](self, fields, shape)
        fields.finish()
        if min(layer.output_shape) < 1:
            raise SpecError(f"{what} ({kind}) leaves nothing of examples of shape {shown(shape)}")
        return layer

    def _residual(self, fields: Fields, shape: Shape, what: str, depth: int) -> Residual:
        if depth:
            raise SpecError(f"{what} (residual) lies in another one, allowed is one level")
        layers = self.read(fields.tables("layers", MAX_LAYERS), shape, what, depth + 1)
        if layers[-1].output_shape != shape:
            raise SpecError(
                f"{what} (residual): its layers turn {shown(shape)} into {shown(layers[-1].output_shape)}, "
                "allowed is the same shape: what comes out is added to what went in"
            )
        from models.layers.residual import Residual  # noqa: PLC0415 - see models.layers

        return Residual(layers, _activation(fields))

    def _name(self, fields: Fields, stem: str) -> str:
        """Return the layer's name: the given one, else the stem with the next number (constants have none)."""
        number = self._counts.get(stem, 0)
        self._counts[stem] = number + 1
        name = fields.name("name", stem if stem == CONSTANTS else f"{stem}{number}")
        if name in self._names:
            raise fields.wrong("name", name, "a name that no other layer has")
        self._names.add(name)
        return name

    def dense(self, fields: Fields, shape: Shape) -> Layer:
        """Read a dense layer."""
        name, outputs = self._name(fields, "dense"), fields.integer("outputs", 1, MAX_WIDTH)
        activation = _activation(fields)
        return Dense(name, shape[0], outputs, activation, _start(fields, activation))

    def convolution(self, fields: Fields, shape: Shape) -> Layer:
        """Read a convolution."""
        from models.layers.convolution import Convolution  # noqa: PLC0415 - see models.layers

        axes = len(shape) - 1
        name, filters = self._name(fields, "conv"), fields.integer("filters", 1, MAX_WIDTH)
        kernel = fields.sizes("kernel", 1, MAX_KERNEL, axes)
        stride = fields.sizes("stride", 1, MAX_KERNEL, axes, 1)
        padding = cast("Padding", fields.choice("padding", ("same", "valid"), "same"))
        activation = _activation(fields)
        return Convolution(name, shape, filters, kernel, stride, padding, activation, _start(fields, activation))

    def pooling(self, fields: Fields, shape: Shape) -> Layer:
        """Read max or average pooling."""
        from models.layers.pooling import Pooling  # noqa: PLC0415 - see models.layers

        largest = fields.choice("kind", list(_READERS)) == "max_pool"
        return Pooling(shape, fields.sizes("size", 1, MAX_KERNEL, len(shape) - 1, 2), largest)

    def group_norm(self, fields: Fields, shape: Shape) -> Layer:
        """Read group normalization."""
        from models.layers.normalization import GroupNorm  # noqa: PLC0415 - see models.layers

        name, groups = self._name(fields, "norm"), fields.integer("groups", 1, MAX_WIDTH)
        if shape[-1] % groups:
            raise fields.wrong("groups", groups, f"a number that divides the {shape[-1]} channels")
        if math.prod(shape) // groups == 1:
            raise fields.wrong("groups", groups, "fewer: the one value of a group would always become 0")
        return GroupNorm(name, shape, groups, _activation(fields))

    def gru(self, fields: Fields, shape: Shape) -> Layer:
        """Read a recurrent layer."""
        from models.layers.recurrent import Gru  # noqa: PLC0415 - see models.layers

        name, units = self._name(fields, "gru"), fields.integer("units", 1, MAX_WIDTH)
        sequence = fields.boolean("sequence", default=False)
        if shape[0] > MAX_STEPS:
            raise fields.wrong(
                "number of steps", shape[0], f"at most {MAX_STEPS}: pool, or stride a convolution, before"
            )
        return Gru(name, shape, units, sequence)


def shown(shape: Shape) -> str:
    """Return the shape as people write it."""
    return "x".join(map(str, shape))


def _activation(fields: Fields) -> Activation:
    return cast("Activation", fields.choice("activation", ACTIVATIONS, "none"))


def _start(fields: Fields, activation: Activation) -> Start:
    return cast("Start", fields.choice("start", ("he", "glorot", "zero"), usual_start(activation)))


def _wanted(axes: tuple[int, ...]) -> str:
    names = {
        _FLAT: "features (flatten, or pool globally, before)",
        _SERIES: "steps x channels",
        _IMAGE: "height x width x channels",
    }
    return " or ".join(names[count] for count in axes)


def _dropout(_reader: LayerReader, fields: Fields, shape: Shape) -> Layer:
    from models.layers.shaping import Dropout  # noqa: PLC0415 - see models.layers

    return Dropout(shape, fields.number("rate", 0.0, 0.95, above=True))


def _flatten(_reader: LayerReader, _fields: Fields, shape: Shape) -> Layer:
    from models.layers.shaping import Flatten  # noqa: PLC0415 - see models.layers

    return Flatten(shape)


def _global_average(_reader: LayerReader, _fields: Fields, shape: Shape) -> Layer:
    from models.layers.pooling import GlobalAverage  # noqa: PLC0415 - see models.layers

    return GlobalAverage(shape)


def _read_elsewhere(_reader: LayerReader, _fields: Fields, _shape: Shape) -> Layer:
    raise AssertionError("read by the reader itself")


_READERS: dict[str, tuple[tuple[int, ...], Callable[[LayerReader, Fields, Shape], Layer]]] = {
    "standardize": ((_FLAT, _SERIES, _IMAGE), _read_elsewhere),
    "dense": ((_FLAT,), LayerReader.dense),
    "conv1d": ((_SERIES,), LayerReader.convolution),
    "conv2d": ((_IMAGE,), LayerReader.convolution),
    "max_pool": ((_SERIES, _IMAGE), LayerReader.pooling),
    "average_pool": ((_SERIES, _IMAGE), LayerReader.pooling),
    "global_average_pool": ((_SERIES, _IMAGE), _global_average),
    "group_norm": ((_SERIES, _IMAGE), LayerReader.group_norm),
    "gru": ((_SERIES,), LayerReader.gru),
    "dropout": ((_FLAT, _SERIES, _IMAGE), _dropout),
    "flatten": ((_SERIES, _IMAGE), _flatten),
    "residual": ((_FLAT, _SERIES, _IMAGE), _read_elsewhere),
}
"""For every kind: how many axes the examples may have that it gets, and what reads it."""

KINDS = tuple(_READERS)
