"""A frozen network from a ``.tflite`` file of others, which turns samples into what a small model learns on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.data import Dataset
from models.errors import SpecError, TfliteError
from models.fields import Fields
from models.parameters import FloatArray
from models.tflite.checking import examine
from models.tflite.reading import Bytes
from models.tflite.runtime import Runtime
from models.tflite.signatures import custom_operators
from models.tflite.variables import Access, main_access
from models.workspace import StepLeftError

MAX_VALUES = 2**24
_FLEX = "Flex"
"""Begins the names of TensorFlow's own operators."""
_LISTS = "FlexTensorList"
_RECURRENT = " (Keras's recurrent layers do not when the model's input has batch_size = 1)"
_DIGEST_CHARACTERS = 64
_STORED_TYPES = (np.int8, np.uint8)
_TYPES = (np.float32, np.float16, *_STORED_TYPES)


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
    def of(cls, data: Bytes) -> BackboneSpec:
        """Return the spec of a file, or raise ``TfliteError`` when it cannot be a backbone."""
        # First, for what TensorFlow's own operators work on may be nothing that is read here.
        _check_operators(custom_operators(data))
        record = examine(data)
        _check_variables(main_access(data))
        if len(record.inputs) != 1:
            raise TfliteError(f"a backbone has one input, this file has {len(record.inputs)}")
        given, answered = record.tensors[record.inputs[0]], record.tensors[record.outputs[0]]
        for what, tensor in (("input", given), ("output", answered)):
            if tensor.dtype not in _TYPES:
                raise TfliteError(f"its {what} is of {tensor.dtype or 'a type of its own'}, not float32, int8 or uint8")
            if any(size < 0 for size in tensor.signature[1:]):
                raise TfliteError(f"its {what} has no fixed size, {tensor.signature}: convert it with one")
        if not given.shape or given.shape[0] != 1:
            raise TfliteError(f"its input has the shape {given.shape}: one sample at a time, (1, ...), would do")
        sizes = {"inputs": math.prod(given.shape), "outputs": math.prod(answered.shape)}
        for what, size in sizes.items():
            if not 1 <= size <= MAX_VALUES:
                raise TfliteError(f"its {what} are {size} values, allowed are 1 to {MAX_VALUES}")
        return cls(digest=hashlib.sha256(data).hexdigest(), **sizes)

    def check(self, data: Bytes) -> None:
        """Raise ``TfliteError`` unless these are the bytes of the file that is meant."""
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise TfliteError("this is not the backbone that the federation has pinned: its SHA-256 is another")
        found = BackboneSpec.of(data)
        if found != self:
            raise TfliteError(
                f"the backbone turns {found.inputs} values into {found.outputs}, "
                f"and not {self.inputs} into {self.outputs}"
            )

    def to_data(self) -> dict[str, Any]:
        """Return the spec as data; ``from_data`` gives the same again."""
        return asdict(self)


class Backbone:
    """The file in a runtime. One thread at a time.

    Try a file out in a process of its own before (``adapters.trial``): it is of others, and the runtime believes it.
    """

    def __init__(self, runtime: Runtime, file: bytes | Path, spec: BackboneSpec) -> None:
        """Raise ``TfliteError`` unless the bytes are those of the spec and a runtime takes them.

        A file that is given by its place is mapped by the runtime, so that it is in memory once, and only as long as
        nobody needs that for something else. It has to have passed ``spec.check`` before.
        """
        if isinstance(file, bytes):
            spec.check(file)
        self.spec = spec
        try:
            self._interpreter: Any = runtime.interpreter(file)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as exc:
            raise TfliteError(f"{runtime.name} {runtime.version} refuses the backbone: {exc}") from exc
        self._given = self._interpreter.get_input_details()[0]
        self._answered = self._interpreter.get_output_details()[0]
        self._shape = (1, *(int(size) for size in self._given["shape"][1:]))

    def embed(self, x: FloatArray, stopped: Callable[[], bool] = lambda: False) -> FloatArray:
        """Return float32 ``(n, outputs)`` for the samples ``x (n, inputs)``; raise ``DataError`` or ``TfliteError``.

        One sample at a time: an embedding does not depend, not even by its last bit, on what is asked beside it; what a
        network for images leaves behind is large; and between two samples ``stopped`` is asked (``StepLeftError``).
        """
        samples = Dataset.features(self.spec.inputs, x)
        result = np.empty((len(samples), self.spec.outputs), np.float32)
        for row, sample in enumerate(samples):
            if stopped():
                raise StepLeftError
            try:
                result[row] = self._run(sample)
            except (ValueError, RuntimeError) as exc:
                raise TfliteError(f"the backbone cannot be carried out: {exc}") from exc
            if not np.isfinite(result[row]).all():
                raise TfliteError(f"the backbone's answer to sample {row} is not finite")
        return result

    def _run(self, sample: FloatArray) -> FloatArray:
        interpreter = self._interpreter
        interpreter.set_tensor(self._given["index"], _stored(sample.reshape(self._shape), self._given))
        interpreter.invoke()
        return _real(interpreter.get_tensor(self._answered["index"]), self._answered).reshape(-1)


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


def _check_operators(custom: tuple[str, ...]) -> None:
    flex = [name for name in custom if name.startswith(_FLEX)]
    lists = any(name.startswith(_LISTS) for name in flex)
    if flex:
        raise TfliteError(
            f"the file needs TensorFlow's operators ({_listed(flex)}), which no device has: "
            f"convert it again without SELECT_TF_OPS, and without what needs those{_RECURRENT if lists else ''}"
        )
    if custom:
        raise TfliteError(f"the file needs operators that no device has: custom ones, {_listed(custom)}")


def _check_variables(access: Access) -> None:
    """Refuse what may answer otherwise the next time: embeddings are kept, and everybody's have to be the same."""
    if access.assigned:
        raise TfliteError(
            f"the file remembers what it was asked before (in {_listed(sorted(access.assigned))}): an embedding has to "
            "depend on its sample alone"
        )
    if wrong := sorted(access.read - access.begun - {""}):
        raise TfliteError(
            f"the file reads variables that it gives no first values ({_listed(wrong)}): its answers would be whatever "
            "is in the memory. Convert the model by from_keras_model or from_saved_model, not from_concrete_functions"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(ascii(name[:60])[1:-1] for name in names[:5])
