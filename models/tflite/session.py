"""A user's file in a runtime: its four signatures on our arrays. One thread's alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import TfliteError
from models.parameters import FloatArray
from models.tflite.contract import RATE, Contract, TrainableSpec
from models.tflite.runtime import Runtime
from models.tflite.signatures import ANY


class Session:
    """The file with variables of its own, as they are in the file until ``put`` is called."""

    def __init__(self, runtime: Runtime, file: bytes | Path, spec: TrainableSpec, contract: Contract) -> None:
        """Raise ``TfliteError`` when the runtime does not take the file, as everything here does when it fails."""
        self._contract = contract
        self._by = f"{runtime.name} {runtime.version}"
        with self._failing("be loaded"):
            interpreter = runtime.interpreter(file)
            self._train, self._infer, self._get, self._set = map(interpreter.get_signature_runner, spec.signatures)

    def get(self) -> FloatArray:
        """Return a copy of what is learned."""
        layout = self._contract.layout
        with self._failing("be read"):
            found = self._get()
        vector = np.empty(layout.size, np.float32)
        for name, view in layout.views(vector).items():
            if found[name].shape != view.shape:
                raise TfliteError(f"get gives {name} of shape {found[name].shape}, and says that it is {view.shape}")
            view[...] = found[name]
        return vector

    def put(self, vector: FloatArray) -> None:
        """Set what is learned."""
        with self._failing("be set"):
            self._set(**self._contract.layout.views(np.ascontiguousarray(vector)))

    def train(self, x: FloatArray, y: NDArray[Any], rate: float) -> float:
        """Take one step on a batch; return the loss that the file tells.

        Where it takes batches of one size only, a smaller one is filled up with its own examples, from the first on.
        """
        contract = self._contract
        rows = len(x) if contract.rows == ANY else contract.rows
        given: dict[str, Any] = {contract.x: _filled(x, rows).reshape(rows, *contract.shape)}
        if contract.y is not None:
            targets = self._targets(_filled(y, rows))
            given[contract.y.name] = targets.astype(contract.y.type, copy=False)
        if contract.takes_rate:
            given[RATE] = np.full(contract.rate_shape, rate, np.float32)
        with self._failing("take a step"):
            loss = self._train(**given)[contract.loss]
        return float(np.mean(loss))

    def infer(self, x: FloatArray) -> FloatArray:
        """Return what the file makes of the examples, ``(n, outputs)``."""
        contract = self._contract
        size = len(x) if contract.infer_rows == ANY else contract.infer_rows
        result = np.empty((len(x), contract.outputs), np.float32)
        for start in range(0, len(x), max(1, size)):
            block = x[start : start + size]
            with self._failing("answer"):
                found = self._infer(**{contract.x: _filled(block, size).reshape(size, *contract.shape)})
                result[start : start + size] = found[contract.output].reshape(size, -1)[: len(block)]
        return result

    def _targets(self, y: NDArray[Any]) -> NDArray[Any]:
        contract = self._contract
        if contract.targets == "one_hot":
            hot: FloatArray = np.eye(contract.outputs, dtype=np.float32)[y]
            return hot
        assert contract.y is not None  # noqa: S101 - who asks has looked
        return y.reshape(len(y), *contract.y.shape[1:])

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        # A runtime says by these what is wrong with a file, or with what it is given.
        try:
            yield
        except (ValueError, RuntimeError, TypeError, KeyError) as exc:
            text = (str(exc) or type(exc).__name__).splitlines()[0][:300]
            raise TfliteError(f"the federation's .tflite file cannot {what} in {self._by}: {text}") from exc


def _filled(values: NDArray[Any], rows: int) -> NDArray[Any]:
    return values if len(values) == rows else values[np.arange(rows) % len(values)]
