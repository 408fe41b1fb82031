"""A frozen network from a ``.tflite`` file of others, which turns samples into what a small model learns on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.data import Dataset
from models.errors import SpecError, TfliteError
from models.fields import Fields
from models.parameters import FloatArray
from models.tflite.checking import examine
from models.tflite.runtime import Runtime

BLOCK_ROWS = 32
"""So many samples at a time: what a network for images leaves behind for each is large."""

MAX_VALUES = 2**24
_DIGEST_CHARACTERS = 64
_STORED_TYPES = (np.int8, np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """Which file, to the bit, and what goes in and comes out: everybody's embeddings have to be the same."""

    digest: str
    """SHA-256 of the file, lower-case hexadecimal."""
    inputs: int
    """Values of a sample, however the file shapes them."""
    outputs: int
    """Values of an embedding."""

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> BackboneSpec:
        """Return the checked spec, or raise ``SpecError``."""
        fields = Fields(data, "backbone", SpecError)
        digest = fields.text("digest")
        if len(digest) != _DIGEST_CHARACTERS or digest.strip("0123456789abcdef"):
            raise fields.wrong("digest", digest, "64 hexadecimal digits in lower case")
        inputs, outputs = (fields.integer(key, 1, MAX_VALUES) for key in ("inputs", "outputs"))
        fields.finish()
        return cls(digest=digest, inputs=inputs, outputs=outputs)

    @classmethod
    def of(cls, data: bytes) -> BackboneSpec:
        """Return the spec of a file, or raise ``TfliteError`` when it cannot be a backbone."""
        record = examine(data)
        if len(record.inputs) != 1 or not record.outputs:
            raise TfliteError(f"a backbone has one input, this file has {len(record.inputs)}")
        given, answered = record.tensors[record.inputs[0]], record.tensors[record.outputs[0]]
        sizes = {"inputs": math.prod(given.shape[1:]), "outputs": math.prod(answered.shape[1:])}
        return cls(digest=hashlib.sha256(data).hexdigest(), **sizes)

    def to_data(self) -> dict[str, Any]:
        """Return the spec as data; ``from_data`` gives the same again."""
        return asdict(self)


class Backbone:
    """The file in a runtime. One thread at a time.

    Try a file out in a process of its own before (``adapters.trial``): it is of others, and the runtime believes it.
    """

    def __init__(self, runtime: Runtime, data: bytes, spec: BackboneSpec) -> None:
        """Raise ``TfliteError`` unless the bytes are those of the spec and a runtime takes them."""
        if hashlib.sha256(data).hexdigest() != spec.digest:
            raise TfliteError("this is not the backbone that the federation has pinned: its SHA-256 is another")
        found = BackboneSpec.of(data)
        if found != spec:
            raise TfliteError(
                f"the backbone turns {found.inputs} values into {found.outputs}, "
                f"and not {spec.inputs} into {spec.outputs}"
            )
        self.spec = spec
        try:
            self._interpreter: Any = runtime.interpreter(data)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as exc:
            raise TfliteError(f"{runtime.name} {runtime.version} refuses the backbone: {exc}") from exc
        self._given = self._interpreter.get_input_details()[0]
        self._answered = self._interpreter.get_output_details()[0]
        self._shape = tuple(int(size) for size in self._given["shape"][1:])
        self._any_rows = len(self._given["shape_signature"]) > 0 and self._given["shape_signature"][0] == -1
        self._rows = int(self._given["shape"][0])
        if self._rows != 1 and not self._any_rows:
            raise TfliteError(f"the backbone takes batches of {self._rows} only; 1, or any, would do")

    def embed(self, x: FloatArray) -> FloatArray:
        """Return float32 ``(n, outputs)`` for the samples ``x (n, inputs)``; raise ``DataError`` or ``TfliteError``."""
        samples = Dataset.features(self.spec.inputs, x)
        result = np.empty((len(samples), self.spec.outputs), np.float32)
        step = BLOCK_ROWS if self._any_rows else 1
        for start in range(0, len(samples), step):
            block = samples[start : start + step]
            try:
                result[start : start + len(block)] = self._run(block)
            except (ValueError, RuntimeError) as exc:
                raise TfliteError(f"the backbone cannot be carried out: {exc}") from exc
        return result

    def _run(self, block: FloatArray) -> FloatArray:
        interpreter, shaped = self._interpreter, block.reshape(len(block), *self._shape)
        if len(block) != self._rows:
            interpreter.resize_tensor_input(self._given["index"], shaped.shape)
            interpreter.allocate_tensors()
            self._rows = len(block)
        interpreter.set_tensor(self._given["index"], _stored(shaped, self._given))
        interpreter.invoke()
        return _real(interpreter.get_tensor(self._answered["index"]), self._answered).reshape(len(block), -1)


def _stored(x: FloatArray, details: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[Any]]:
    kind = details["dtype"]
    if kind not in _STORED_TYPES:
        return x.astype(kind, copy=False)
    scale, zero_point = details["quantization"]
    bounds = np.iinfo(kind)
    stored = np.rint(x / np.float32(scale)) + zero_point if scale else np.rint(x)
    return np.clip(stored, bounds.min, bounds.max).astype(kind)


def _real(y: np.ndarray[Any, np.dtype[Any]], details: Mapping[str, Any]) -> FloatArray:
    scale, zero_point = details["quantization"]
    if details["dtype"] not in _STORED_TYPES or not scale:
        return y.astype(np.float32)
    return (y.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
