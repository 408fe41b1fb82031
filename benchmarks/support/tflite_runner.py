"""Runs ``.tflite`` files in whatever runtime the environment has: knows nothing of fedmq, needs the runtime and NumPy.

``python tflite_runner.py FOLDER``: for every ``NAME.tflite`` the answers for ``x`` in ``NAME.npz`` go to
``NAME.answer.npz``; a line of JSON tells the runtime and what failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Make: TypeAlias = Any
"""A runtime's class of interpreters."""

ARENA_BYTES = 2_000_000
"""For the runtime of microcontrollers, which plans all memory in one block."""


def stored(x: Array, details: dict[str, Any], scale: float, zero_point: int) -> Array:
    """Return examples as the file wants them."""
    if details["dtype"] is not np.int8:
        return x
    found: Array = np.clip(np.rint(x / np.float32(scale)) + zero_point, -128, 127).astype(np.int8)
    return found


def real(y: Array, details: dict[str, Any], scale: float, zero_point: int) -> Array:
    """Return answers as what they stand for."""
    return y if details["dtype"] is not np.int8 else (y.astype(np.float32) - zero_point) * np.float32(scale)


def by_interpreter(make: Make, data: bytes, x: Array) -> Array:
    """Run on ai-edge-litert or tflite-runtime."""
    interpreter = make(model_content=data, num_threads=1)
    given, answered = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], stored(x, given, *given["quantization"]))
    interpreter.invoke()
    return real(interpreter.get_tensor(answered["index"]), answered, *answered["quantization"])


def by_micro(make: Make, data: bytes, x: Array) -> Array:
    """Run on tflite-micro, which takes one example at a time."""
    interpreter = make.from_bytes(data, arena_size=ARENA_BYTES)
    given, answered = interpreter.get_input_details(0), interpreter.get_output_details(0)

    def units(details: dict[str, Any]) -> tuple[float, int]:
        found = details["quantization_parameters"]
        return (found["scales"][0], found["zero_points"][0]) if len(found["scales"]) else (0.0, 0)

    answers = []
    for row in x:
        interpreter.set_input(stored(row[None], given, *units(given)), 0)
        interpreter.invoke()
        answers.append(real(interpreter.get_output(0)[0].copy(), answered, *units(answered)))
    return np.array(answers)


RUNTIMES: tuple[tuple[str, str, str, Callable[[Make, bytes, Array], Array]], ...] = (
    ("ai-edge-litert", "ai_edge_litert.interpreter", "Interpreter", by_interpreter),
    ("tflite-runtime", "tflite_runtime.interpreter", "Interpreter", by_interpreter),
    ("tflite-micro", "tflite_micro.python.tflite_micro.runtime", "Interpreter", by_micro),
)


def main(folder: Path) -> None:
    """Run all files in the first runtime that is there."""
    for name, module, attribute, run in RUNTIMES:
        try:
            make = getattr(import_module(module), attribute)
        except ImportError:
            continue
        failed = {}
        for path in sorted(folder.glob("*.tflite")):
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
                x = arrays["x"]
            try:
                np.savez(path.with_suffix(".answer.npz"), y=run(make, path.read_bytes(), x))
            except (ValueError, RuntimeError) as exc:
                failed[path.stem] = str(exc)[:200]
        print(json.dumps({"runtime": name, "failed": failed}))
        return
    raise SystemExit("no runtime is installed here")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
