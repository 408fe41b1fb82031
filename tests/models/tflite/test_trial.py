"""Files of others, damaged and hostile ones among them: refused, or tried where a crash does no harm."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models import TfliteError
from models.tflite.adapters import trial
from models.tflite.checking import examine
from models.tflite.file import TfliteModel
from models.tflite.graph import Drawing
from models.tflite.schema import Operator
from models.tflite.writing import write
from tests.models.examples import model_and_data

Change = Callable[[bytearray, np.random.Generator], None]


def flip(data: bytearray, rng: np.random.Generator) -> None:
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))


def overwrite(data: bytearray, rng: np.random.Generator) -> None:
    number = int(rng.choice([0, 1, 127, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, len(data)]))
    struct.pack_into("<I", data, 4 * int(rng.integers(len(data) // 4)), number)


def cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(len(data))) :]


@pytest.mark.parametrize("change", [flip, overwrite, cut])
def test_damage_is_found_or_does_no_harm_to_reading(change: Change) -> None:
    model, parameters, _ = model_and_data("mlp-tanh")
    whole = TfliteModel.export(model, parameters).data
    rng, refused = np.random.default_rng(0), 0
    for _ in range(400):
        data = bytearray(whole)
        change(data, rng)
        try:
            examine(bytes(data))
        except TfliteError:
            refused += 1
    assert refused > (20 if change is flip else 100)


def test_lists_that_lead_to_each_other_take_no_time() -> None:
    # Every operator's list of inputs is the same long one: as many as the file's bytes, times operators.
    drawing = Drawing(1)
    x = drawing.input
    for number in range(2000):
        x = drawing.apply(f"n{number}", Operator.TANH, x)
    data = bytearray(write(drawing.finish(x, "y"), "", {}))
    examine(bytes(data))
    start = data.index(struct.pack("<II", 1, 5))  # a list of one tensor
    struct.pack_into("<I", data, start, 60_000)
    with pytest.raises(TfliteError):
        examine(bytes(data))


def test_a_good_file_passes(tmp_path: Path) -> None:
    model, parameters, _ = model_and_data("mlp-tanh")
    path = tmp_path / "model.tflite"
    path.write_bytes(TfliteModel.export(model, parameters).data)
    trial.try_out(path)


def test_a_file_that_the_runtime_cannot_run_says_why(tmp_path: Path) -> None:
    drawing = Drawing(4)
    weight = drawing.constant("w", np.zeros((3, 5), np.float32))
    bias = drawing.constant("b", np.zeros(3, np.float32))
    path = tmp_path / "model.tflite"
    path.write_bytes(write(drawing.finish(drawing.dense("y", drawing.input, weight, bias), "y"), "", {}))
    with pytest.raises(TfliteError, match="in a process of its own"):
        trial.try_out(path)


def test_a_file_that_would_take_all_memory_is_refused(tmp_path: Path) -> None:
    drawing = Drawing(2**29)
    path = tmp_path / "model.tflite"
    path.write_bytes(write(drawing.finish(drawing.apply("y", Operator.TANH, drawing.input), "y"), "", {}))
    with pytest.raises(TfliteError):
        trial.try_out(path)


def test_a_crash_and_a_hang_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, parameters, _ = model_and_data("mlp-tanh")
    path = tmp_path / "model.tflite"
    path.write_bytes(TfliteModel.export(model, parameters).data)
    program = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(program))
    program.write_text("#!/bin/sh\nkill -SEGV $$\n")
    program.chmod(0o755)
    with pytest.raises(TfliteError, match="died of SIGSEGV"):
        trial.try_out(path)
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(TfliteError, match=r"did not end in 0\.3 s"):
        trial.try_out(path, timeout_s=0.3)
