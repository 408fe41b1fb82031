"""A runtime that ends the process, as one built for another processor does, does not keep a device from predicting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from device_agent.adapters.attempts import MOST, Attempts
from device_agent.adapters.predicting import MARK_NAME, ServingPredictor
from models.predicting import Origin
from tests.models.examples import model_and_data

ORIGIN = Origin(federation="mill", epoch="00e1", version=1)

PROGRAM = """
import sys
from pathlib import Path
from tests.device_agent.test_crashing_runtime import predicting
serving = predicting(Path(sys.argv[1]))
print(serving.by + "|" + serving.why_not)
"""

WHEN_MADE = """
import os, signal
class Interpreter:
    def __init__(self, **more):
        os.kill(os.getpid(), signal.SIGSEGV)
"""

WITH_THE_FIRST_VERSION = """
import os, signal
import numpy as np
class Interpreter:
    made = 0
    def __init__(self, **more):
        Interpreter.made += 1
        if Interpreter.made > 1:
            os.kill(os.getpid(), signal.SIGILL)
    def get_signature_runner(self, name):
        return lambda x: {"y": np.tanh(x)}
"""


def predicting(path: Path) -> ServingPredictor:
    """What a device does at its start."""
    model, parameters, _ = model_and_data("mlp-tanh")
    serving = ServingPredictor(model, path)
    serving.update(parameters, ORIGIN)
    return serving


def install(folder: Path, interpreter: str, version: str) -> None:
    package = folder / "ai_edge_litert"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text(interpreter)
    for old in folder.glob("*.dist-info"):
        old.rmdir()
    (folder / f"ai_edge_litert-{version}.dist-info").mkdir()


def start(packages: Path, model: Path) -> tuple[int, str]:
    root = str(Path(__file__).resolve().parent.parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), root])}
    command = [sys.executable, "-c", PROGRAM, str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("interpreter", "death"), [(WHEN_MADE, signal.SIGSEGV), (WITH_THE_FIRST_VERSION, signal.SIGILL)]
)
def test_after_some_deaths_numpy_predicts(tmp_path: Path, interpreter: str, death: signal.Signals) -> None:
    packages, model = tmp_path / "packages", tmp_path / "model.tflite"
    packages.mkdir()
    install(packages, interpreter, "9.1.0")

    codes = [start(packages, model)[0] for _ in range(MOST)]
    after = [start(packages, model) for _ in range(2)]

    assert codes == [-death] * MOST
    for code, said in after:
        assert code == 0
        assert said.startswith("numpy|ai-edge-litert 9.1.0"), said
        assert f"{MOST} times in a row" in said
        assert str(tmp_path / MARK_NAME) in said, "what to delete to have it tried again"

    install(packages, interpreter, "9.2.0")
    assert start(packages, model)[0] == -death, "another version may do better"
    (tmp_path / MARK_NAME).unlink()
    assert start(packages, model)[0] == -death, "the operator's word"


def test_a_runtime_that_works_leaves_no_mark(tmp_path: Path) -> None:
    """Not even after others died in an attempt, by a power cut for example."""
    mark = tmp_path / MARK_NAME
    model, _, _ = model_and_data("mlp-tanh")
    with_mark = ServingPredictor(model, tmp_path / "model.tflite")
    line = mark.read_text(encoding="utf-8")
    assert line.startswith("1 ")
    del with_mark
    mark.write_text(line.replace("1", str(MOST - 1), 1), encoding="utf-8")

    serving = predicting(tmp_path / "model.tflite")

    assert serving.by != "numpy"
    assert not mark.exists()


def test_a_mark_that_cannot_be_read_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    for content in (b"", b"many ai 1\n", b"\xff\xfe", b"3\n"):
        path.write_bytes(content)
        assert Attempts(path, "ai 1").died == 0
    path.write_text("7 ai 1\n", encoding="utf-8")
    assert Attempts(path, "ai 1").exhausted
    assert not Attempts(path, "ai 2").exhausted
    nowhere = Attempts(tmp_path / "no" / "mark", "ai 1")
    nowhere.begin()
    nowhere.over()
    assert not nowhere.exhausted
