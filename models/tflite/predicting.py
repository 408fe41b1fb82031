"""Predicting by a runtime: a file of ours behind the same interface as NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.data import Dataset
from models.errors import TfliteError
from models.parameters import FloatArray
from models.tflite.file import TfliteModel
from models.tflite.quantizing import dequantize_values, quantize_values
from models.tflite.runtime import Runtime

BLOCK_ROWS = 256
"""So many examples at a time: a runtime allocates all activations for all of them."""


class TflitePredictor:
    """Predicts by a runtime. An int8 file is asked and answers in float32, too. One thread at a time."""

    def __init__(self, runtime: Runtime, file: TfliteModel) -> None:
        self.by = f"{runtime.name} {runtime.version}"
        self._model = file.model
        try:
            self._interpreter: Any = runtime.interpreter(file.data)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as exc:
            raise TfliteError(f"{self.by} refuses the file: {exc}") from exc
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        self._rows = 1

    def predict(self, x: FloatArray) -> FloatArray:
        """See ``models.predicting.Predictor``. Raises ``TfliteError`` when the runtime fails."""
        examples = Dataset.features(self._model.inputs, x)
        result = np.empty((len(examples), self._model.outputs), np.float32)
        for start in range(0, len(examples), BLOCK_ROWS):
            block = examples[start : start + BLOCK_ROWS]
            try:
                result[start : start + len(block)] = self._run(block)
            except (ValueError, RuntimeError) as exc:
                raise TfliteError(f"{self.by} cannot carry out the model: {exc}") from exc
        return result

    def _run(self, block: FloatArray) -> FloatArray:
        if len(block) != self._rows:
            self._interpreter.resize_tensor_input(self._input["index"], block.shape)
            self._interpreter.allocate_tensors()
            self._rows = len(block)
        self._interpreter.set_tensor(self._input["index"], _stored(block, self._input))
        self._interpreter.invoke()
        found = self._interpreter.get_tensor(self._output["index"])
        if found.dtype != np.int8:
            result: FloatArray = found
            return result
        return dequantize_values(found, *self._output["quantization"])


def _stored(block: FloatArray, details: dict[str, Any]) -> np.ndarray[Any, np.dtype[Any]]:
    return quantize_values(block, *details["quantization"]) if details["dtype"] is np.int8 else block
