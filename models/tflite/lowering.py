"""From a model and its parameters to a graph of operators: layer by layer.

Features are tensors ``(n, features)``; series ``(steps, channels)`` are images of height 1, as the operators have no
other form for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from models.errors import TfliteError
from models.layers import (
    Convolution,
    Dense,
    Dropout,
    Flatten,
    GlobalAverage,
    GroupNorm,
    Gru,
    Layer,
    Pooling,
    Residual,
    Standardize,
)
from models.layers.normalization import EPSILON
from models.network import Model
from models.parameters import FloatArray
from models.tflite.graph import Drawing, Graph
from models.tflite.recurrence import unroll
from models.tflite.schema import Operator

OUTPUT_NAMES = {"classification": "probabilities", "regression": "values", "reconstruction": "reconstruction"}

_FLAT, _SERIES = 1, 2

Views = Mapping[str, FloatArray]


def lower(model: Model, parameters: FloatArray) -> Graph:
    """Return what ``model.predict(parameters, x)`` does, as operators on float32.

    Raise ``TfliteError`` for a layer that has no such form, ``ValueError`` for parameters that are not the model's.
    """
    drawing, x = _drawn(model, parameters, model.layers)
    if model.task == "classification":
        x = drawing.apply("probabilities", Operator.SOFTMAX, x, beta=1.0)
    return drawing.finish(x, OUTPUT_NAMES[model.task])


def lower_layers(model: Model, parameters: FloatArray, layers: Sequence[Layer], output_name: str) -> Graph:
    """Return what the first layers of a model do; raise as ``lower`` does."""
    drawing, x = _drawn(model, parameters, layers)
    return drawing.finish(x, output_name)


def _drawn(model: Model, parameters: FloatArray, layers: Sequence[Layer]) -> tuple[Drawing, int]:
    views = model.layout.views(parameters)
    drawing = Drawing(model.inputs)
    shape = model.layers[0].input_shape
    x = drawing.input
    if len(shape) > _FLAT and not isinstance(model.layers[0], Standardize):
        x = drawing.reshape("image", x, _image(shape))
    for layer in layers:
        x = _lower(drawing, layer, views, x)
    return drawing, x


def _lower(drawing: Drawing, layer: Layer, views: Views, x: int) -> int:
    if type(layer) not in _FORMS:
        raise TfliteError(f"a layer of kind {layer.kind!r} has no form in .tflite files")
    return _FORMS[type(layer)](drawing, layer, views, x)


def _pooling(drawing: Drawing, layer: Pooling, _views: Views, x: int) -> int:
    kind = Operator.MAX_POOL_2D if layer.largest else Operator.AVERAGE_POOL_2D
    return drawing.pool(f"pool{len(drawing.nodes)}", kind, x, _two(layer.size))


def _global_average(drawing: Drawing, layer: GlobalAverage, _views: Views, x: int) -> int:
    mean = drawing.mean(f"mean{len(drawing.nodes)}", x, (1, 2))
    return drawing.reshape(f"features{len(drawing.nodes)}", mean, layer.output_shape)


def _flatten(drawing: Drawing, layer: Flatten, _views: Views, x: int) -> int:
    return drawing.reshape(f"features{len(drawing.nodes)}", x, layer.output_shape)


def _dropout(_drawing: Drawing, _layer: Dropout, _views: Views, x: int) -> int:
    return x


def _dense(drawing: Drawing, layer: Dense, views: Views, x: int) -> int:
    weight = drawing.constant(f"{layer.name}.weight", views[f"{layer.name}.weight"].T)
    bias = drawing.constant(f"{layer.name}.bias", views[f"{layer.name}.bias"])
    y = drawing.dense(layer.name, x, weight, bias, relu=layer.activation == "relu")
    return _tanh(drawing, layer.name, layer.activation, y)


def _convolution(drawing: Drawing, layer: Convolution, views: Views, x: int) -> int:
    values = views[f"{layer.name}.weight"]
    weight = drawing.constant(f"{layer.name}.weight", values.reshape(len(values), *_two(layer.kernel), -1))
    bias = drawing.constant(f"{layer.name}.bias", views[f"{layer.name}.bias"])
    same, relu = layer.padding == "same", layer.activation == "relu"
    y = drawing.convolve(layer.name, x, weight, bias, _two(layer.stride), same=same, relu=relu)
    return _tanh(drawing, layer.name, layer.activation, y)


def _standardize(drawing: Drawing, layer: Standardize, views: Views, x: int) -> int:
    """Stay in float32: features of any size become alike here, and before that one scale does not do for all."""
    mean = drawing.constant(f"{layer.name}.mean", views[f"{layer.name}.mean"])
    scale = drawing.constant(f"{layer.name}.scale", views[f"{layer.name}.scale"])
    drawing.exact = True
    if len(layer.input_shape) > _FLAT:
        x = drawing.reshape("image", x, _image(layer.input_shape))
    centred = drawing.combine(f"{layer.name}.centred", Operator.SUB, x, mean)
    scaled = drawing.combine(layer.name, Operator.MUL, centred, scale)
    drawing.exact = False
    return scaled


def _group_norm(drawing: Drawing, layer: GroupNorm, views: Views, x: int) -> int:
    """Stay in float32: a variance, and one divided by its root, have no good form in 8 bits."""
    name, shape = layer.name, drawing.shape(x)[1:]
    channels = shape[-1]
    weight = drawing.constant(f"{name}.weight", views[f"{name}.weight"])
    bias = drawing.constant(f"{name}.bias", views[f"{name}.bias"])
    epsilon = drawing.constant("epsilon", np.array([EPSILON], np.float32))
    drawing.exact = True
    inner = (shape[0] * shape[1], layer.groups, channels // layer.groups)
    grouped = drawing.reshape(f"{name}.grouped", x, inner)
    mean = drawing.mean(f"{name}.mean", grouped, (1, 3))
    centred = drawing.combine(f"{name}.centred", Operator.SUB, grouped, mean)
    squares = drawing.combine(f"{name}.squares", Operator.MUL, centred, centred)
    variance = drawing.mean(f"{name}.variance", squares, (1, 3))
    raised = drawing.combine(f"{name}.raised", Operator.ADD, variance, epsilon)
    inverse = drawing.apply(f"{name}.inverse", Operator.RSQRT, raised)
    normal = drawing.combine(f"{name}.normal", Operator.MUL, centred, inverse)
    back = drawing.reshape(f"{name}.back", normal, shape)
    scaled = drawing.combine(f"{name}.scaled", Operator.MUL, back, weight)
    y = drawing.combine(name, Operator.ADD, scaled, bias, relu=layer.activation == "relu")
    y = _tanh(drawing, name, layer.activation, y)
    drawing.exact = False
    return y


def _gru(drawing: Drawing, layer: Gru, views: Views, x: int) -> int:
    parts = {part: views[f"{layer.name}.{part}"] for part in ("weight", "recurrent", "bias", "recurrent_bias")}
    states = unroll(drawing, layer.name, parts, x, layer.input_shape)
    if not layer.sequence:
        return states[-1]
    behind = drawing.concatenate(f"{layer.name}.states", states)
    return drawing.reshape(f"{layer.name}.series", behind, _image(layer.output_shape))


def _residual(drawing: Drawing, layer: Residual, views: Views, x: int) -> int:
    inner = x
    for part in layer.layers:
        inner = _lower(drawing, part, views, inner)
    name = f"residual{len(drawing.nodes)}"
    y = drawing.combine(name, Operator.ADD, x, inner, relu=layer.activation == "relu")
    return _tanh(drawing, name, layer.activation, y)


def _tanh(drawing: Drawing, name: str, activation: str, y: int) -> int:
    return drawing.apply(f"{name}.tanh", Operator.TANH, y) if activation == "tanh" else y


def _image(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape) if len(shape) == _SERIES else shape


def _two(sizes: tuple[int, ...]) -> tuple[int, int]:
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


_FORMS: dict[type, Callable[[Drawing, Any, Views, int], int]] = {
    Convolution: _convolution,
    Dense: _dense,
    Dropout: _dropout,
    Flatten: _flatten,
    GlobalAverage: _global_average,
    GroupNorm: _group_norm,
    Gru: _gru,
    Pooling: _pooling,
    Residual: _residual,
    Standardize: _standardize,
}
