"""From a model and its parameters to a graph of operators: layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

from models.errors import TfliteError
from models.layers import Dense
from models.network import Model
from models.parameters import FloatArray
from models.tflite.graph import Drawing, Graph
from models.tflite.schema import Operator

OUTPUT_NAMES = {"classification": "probabilities", "regression": "values", "reconstruction": "reconstruction"}


def lower(model: Model, parameters: FloatArray) -> Graph:
    """Return what ``model.predict(parameters, x)`` does, as operators on float32.

    Raise ``ValueError`` for parameters that are not the model's, ``TfliteError`` for a layer that has no operator.
    """
    views = model.layout.views(parameters)
    drawing = Drawing(model.inputs)
    x = drawing.input
    for layer in model.layers:
        if not isinstance(layer, Dense):
            raise TfliteError(f"a {layer.kind} layer cannot be written to a .tflite file")
        x = _dense(drawing, layer, views, x)
    if model.task == "classification":
        x = drawing.apply("probabilities", Operator.SOFTMAX, x, beta=1.0)
    return drawing.finish(x, OUTPUT_NAMES[model.task])


def _dense(drawing: Drawing, layer: Dense, views: Mapping[str, FloatArray], x: int) -> int:
    weight = drawing.constant(f"{layer.name}.weight", views[f"{layer.name}.weight"].T)
    bias = drawing.constant(f"{layer.name}.bias", views[f"{layer.name}.bias"])
    y = drawing.dense(layer.name, x, weight, bias, relu=layer.activation == "relu")
    return drawing.apply(f"{layer.name}.tanh", Operator.TANH, y) if layer.activation == "tanh" else y
