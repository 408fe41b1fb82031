"""A ``.tflite`` file of others that is to learn takes its first steps in a process of its own, as ``trial`` has it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import SpecError, TfliteError
from models.parameters import FloatArray
from models.tflite.adapters.files import mapped
from models.tflite.adapters.trial import TRIAL_S, elsewhere, limited_runtime
from models.tflite.contract import TrainableSpec
from models.tflite.runtime import RuntimeUnavailable
from models.tflite.signatures import ANY
from models.tflite.trainable import TrainableModel

STEPS = 3
_ROWS = 4
_RATE = 0.01
_OFF = 0.01
"""Rows of probabilities add up to 1 but for this."""


def try_training(
    path: Path, spec: TrainableSpec, timeout_s: float = TRIAL_S, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Have the file's signatures called, elsewhere, on examples of chance; raise ``TfliteError`` for what is wrong.

    As ``trial.try_out`` otherwise.
    """
    elsewhere(__name__, path, (json.dumps(spec.to_data()),), timeout_s, stopped)


def main(path: Path, seconds: int, said: str) -> int:
    """Call what is to be tried; return the exit code."""
    try:
        with mapped(path) as data:
            runtime = limited_runtime(len(data), seconds)
            model = TrainableModel(data, TrainableSpec.from_data(json.loads(said)), runtime, path)
        check(model)
    except (RuntimeUnavailable, SpecError, TfliteError, MemoryError) as exc:
        sys.stdout.write(f"{str(exc) or type(exc).__name__}\n")
        return 1
    return 0


def check(model: TrainableModel) -> None:
    """Call every signature; raise ``TfliteError`` where they do not do what they are for."""
    contract, rng = model.contract, np.random.default_rng(0)
    session = model.session()
    begin = session.get()
    if not np.isfinite(begin).all():
        raise TfliteError("what get gives first is not finite: those values are version 0")
    other = begin + 1
    session.put(other)
    if not np.array_equal(session.get(), other):
        raise TfliteError("get does not give what set was given")
    session.put(begin)
    for _ in range(STEPS):
        x, y = _examples(model, rng, _ROWS if contract.rows == ANY else contract.rows)
        loss = session.train(x, y, _RATE)
        if not np.isfinite(loss):
            raise TfliteError(f"the loss that train gives for examples of numbers from 0 to 1 is {loss}")
    if np.array_equal(session.get(), begin):
        raise TfliteError(f"{STEPS} calls of train change nothing of what get gives: nothing would be learned")
    session.put(begin)
    x, _ = _examples(model, rng, _ROWS if contract.infer_rows == ANY else contract.infer_rows)
    _check_answers(model, session.infer(x))


def _examples(model: TrainableModel, rng: np.random.Generator, rows: int) -> tuple[FloatArray, NDArray[np.generic]]:
    # From 0 to 1: numbers that no file should mind, not even one that looks them up in a table.
    x = rng.random((rows, model.inputs), np.float32)
    if model.task == "classification":
        return x, rng.integers(0, model.outputs, rows)
    return x, x if model.task == "reconstruction" else rng.random((rows, model.outputs), np.float32)


def _check_answers(model: TrainableModel, found: FloatArray) -> None:
    if not np.isfinite(found).all():
        raise TfliteError("what infer gives for examples of numbers from 0 to 1 is not finite")
    if model.task == "classification" and not model.gives_scores:
        sums = found.sum(axis=1)
        if found.min() < 0 or np.abs(sums - 1).max() > _OFF:
            raise TfliteError(
                f"infer gives no probabilities (they add up to {sums[0]:.3g}): for scores set logits = true in [model]"
            )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
