"""A model of ours as a ``.tflite`` file: made from parameters, read back, and given the weights of another version.

Everything that differs between two versions has a fixed place and length in the file, so that a new version is written
into it: the bytes are then those of a fresh export.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import TfliteError
from models.network import Model
from models.parameters import FloatArray
from models.predicting import NOBODYS, Origin
from models.tflite.calibration import Scheme
from models.tflite.checking import FileRecord, Place, examine
from models.tflite.graph import Graph
from models.tflite.lowering import lower
from models.tflite.quantizing import quantize
from models.tflite.writing import write

FORMAT = 1
"""How a model becomes operators. A file of another format is made anew, not patched."""

MODEL_KEY = "fedmq.model"
ORIGIN_KEY = "fedmq.origin"
_ORIGIN_BYTES = 512
_DESCRIPTION_BYTES = 160


@dataclass(frozen=True, slots=True, eq=False)
class TfliteModel:
    """The bytes of a file, known to be what we write for this model."""

    model: Model
    data: bytes
    scheme: Scheme | None
    """How activations are quantized in an int8 file; None: float32."""
    _record: FileRecord

    @classmethod
    def export(
        cls, model: Model, parameters: FloatArray, origin: Origin = NOBODYS, scheme: Scheme | None = None
    ) -> TfliteModel:
        """Make the file: float32, or with a scheme (``quantizing.scheme_of``) int8.

        Raise ``TfliteError`` when the scheme does not fit, or parameters that are not finite are to be int8.
        """
        graph = _graph(model, parameters, scheme)
        metadata = {MODEL_KEY: _about_model(model, scheme), ORIGIN_KEY: _about_origin(origin, parameters)}
        data = write(graph, _description(origin, scheme), metadata)
        return cls(model, data, scheme, examine(data))

    @classmethod
    def parse(cls, data: bytes, model: Model) -> TfliteModel:
        """Read a file that ``export`` made for an equal model; anything else raises ``TfliteError``.

        It is compared byte for byte with what is written for such a model, everything that versions differ in set
        aside: of a file that passes, a runtime sees nothing that we did not write.
        """
        record = examine(data)
        about = _metadata(data, record, MODEL_KEY)
        found = cls(model, data, _scheme(data, record) if about.get("weights") == "int8" else None, record)
        zeros = np.zeros(model.layout.size, np.float32)
        if found.patch(zeros).data != cls.export(model, zeros, scheme=found.scheme).data:
            raise TfliteError("this .tflite file was made for another model, by another format, or it is damaged")
        return found

    @property
    def origin(self) -> Origin:
        """Which version the file holds."""
        about = _metadata(self.data, self._record, ORIGIN_KEY)
        try:
            federation, epoch, version = str(about["federation"]), str(about["epoch"]), int(about["version"])
        except (KeyError, TypeError, ValueError) as exc:
            raise TfliteError("this .tflite file does not say which version it holds") from exc
        return Origin(federation=federation, epoch=epoch, version=version)

    def patch(self, parameters: FloatArray, origin: Origin = NOBODYS) -> TfliteModel:
        """Return the file with other parameters: the same bytes as a fresh export with the same scheme."""
        data = bytearray(self.data)
        graph = _graph(self.model, parameters, self.scheme)
        records = {record.name: record for record in self._record.tensors}
        for tensor in graph.tensors:
            record = records.get(tensor.name)
            if record is None:
                raise TfliteError(f"the file has no tensor {tensor.name!r}: it is of another model")
            if tensor.data is not None:
                _put(data, record.data, _little(tensor.data))
            if tensor.quantization is not None:
                _put(data, record.scales, _little(tensor.quantization.scales))
                _put(data, record.zero_points, _little(tensor.quantization.zero_points))
        _put(data, self._record.description, _description(origin, self.scheme).encode())
        _put(data, self._record.metadata.get(ORIGIN_KEY, Place(0, 0)), _about_origin(origin, parameters))
        return TfliteModel(self.model, bytes(data), self.scheme, self._record)


def check_layers(model: Model) -> None:
    """Raise ``TfliteError`` for a model that is a user's file, of which we do not know how it works."""
    if not model.layers:
        raise TfliteError(
            "the model is a .tflite file already: export a version as .npz, and give its arrays to the file's set"
        )


def _graph(model: Model, parameters: FloatArray, scheme: Scheme | None) -> Graph:
    check_layers(model)
    graph = lower(model, parameters)
    return graph if scheme is None else quantize(graph, scheme)


def _put(data: bytearray, place: Place, content: bytes) -> None:
    if len(content) != place.size:
        raise TfliteError(f"the file has {place.size} bytes where {len(content)} belong: it is of another model")
    data[place.start : place.start + place.size] = content


def _little(values: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _about_model(model: Model, scheme: Scheme | None) -> bytes:
    about = {
        "format": FORMAT,
        "layout": model.layout.digest,
        "spec": model.spec,
        "weights": "float32" if scheme is None else "int8",
    }
    return json.dumps(about, sort_keys=True).encode()


def _about_origin(origin: Origin, parameters: FloatArray) -> bytes:
    about = {
        "federation": origin.federation,
        "epoch": origin.epoch,
        "version": origin.version,
        "parameters": hashlib.sha256(_little(parameters)).hexdigest(),
    }
    return _padded(json.dumps(about), _ORIGIN_BYTES).encode()


def _description(origin: Origin, scheme: Scheme | None) -> str:
    weights = "float32" if scheme is None else "int8"
    text = f"fedmq: version {origin.version} of federation {origin.federation or '(none)'}, {weights}"
    return _padded(text, _DESCRIPTION_BYTES)


def _padded(text: str, size: int) -> str:
    if not text.isascii() or len(text) > size:
        raise TfliteError(f"federation, epoch and version are plain ASCII and together shorter than {size} characters")
    return text.ljust(size)


def _metadata(data: bytes, record: FileRecord, key: str) -> dict[str, Any]:
    place = record.metadata.get(key)
    if place is None:
        raise TfliteError(f"this .tflite file is none of fedmq's: it has no {key}")
    try:
        found = json.loads(data[place.start : place.start + place.size])
    except (ValueError, RecursionError) as exc:
        raise TfliteError(f"{key} in the .tflite file is no JSON") from exc
    if not isinstance(found, dict):
        raise TfliteError(f"{key} in the .tflite file is no table")
    return found


def _scheme(data: bytes, record: FileRecord) -> dict[str, tuple[float, int]]:
    scheme = {}
    for tensor in record.tensors:
        if tensor.data.size or tensor.dtype != np.int8:
            continue
        if (tensor.scales.size, tensor.zero_points.size) != (4, 8):
            raise TfliteError(f"{tensor.name[:60]!r} in the .tflite file is not quantized")
        scale = float(np.frombuffer(data, "<f4", 1, tensor.scales.start)[0])
        zero_point = int(np.frombuffer(data, "<i8", 1, tensor.zero_points.start)[0])
        if not (np.isfinite(scale) and scale > 0 and -128 <= zero_point <= 127):  # noqa: PLR2004 - what an int8 holds
            raise TfliteError(f"{tensor.name[:60]!r} in the .tflite file has the scale {scale}, zero at {zero_point}")
        scheme[tensor.name] = (scale, zero_point)
    return scheme
