"""A network of ours without its last layers, as a ``.tflite`` file: a backbone for another federation."""

from __future__ import annotations

from models.errors import TfliteError
from models.network import Model
from models.parameters import FloatArray
from models.tflite.lowering import lower_layers
from models.tflite.writing import write

DESCRIPTION = "fedmq: a network without its last layers"


def truncated(model: Model, parameters: FloatArray, without: int = 1) -> bytes:
    """Return the file of all layers but the last ``without``: float32 ``(n, inputs)`` to what the last one is given.

    Raise ``TfliteError`` when nothing would be left, or a layer has no form in these files.
    """
    kept = model.layers[:-without] if without else model.layers
    if not kept:
        raise TfliteError(f"the network has {len(model.layers)} layers, and without {without} nothing is left")
    return write(lower_layers(model, parameters, kept, "embedding"), DESCRIPTION, {})
