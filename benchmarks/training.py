"""A NumPy training step against PyTorch's on one thread."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from benchmarks.support.processes import one_thread
from benchmarks.support.report import Options, Row, Target, paired, progress, run, spread

_BATCH = 32
SHAPES = [(64, 32, 10), (561, 200, 6)]
_STEPS = 2000


def step_us(python: str, program: str, shape: Sequence[int], steps: int) -> float:
    """Return the median microseconds of a step, measured by a program of its own with one thread."""
    script = Path(__file__).parent / "support" / program
    arguments = [python, str(script), *(str(number) for number in shape), str(_BATCH), str(steps)]
    root = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run(
        arguments, check=True, capture_output=True, text=True, env={**one_thread(), "PYTHONPATH": root}
    )
    return float(done.stdout)


def measure(options: Options) -> list[Row]:
    """Measure every shape, NumPy and PyTorch in turns."""
    torch_python = _torch_python(options.extra.torch_python)
    rows = []
    for shape in SHAPES:
        name = f"training step, MLP {'-'.join(map(str, shape))}, batch {_BATCH}"
        ours, theirs = [], []
        for _ in range(options.repeat):
            progress(name)
            ours.append(step_us(sys.executable, "numpy_step.py", shape, _STEPS))
            if torch_python:
                theirs.append(step_us(torch_python, "torch_step.py", shape, _STEPS))
        if theirs:
            rows.append(paired(f"{name}, against PyTorch", ours, theirs, "us", target=Target(0.5, of_ratio=True)))
        else:
            middle = sorted(ours)[len(ours) // 2]
            rows.append(Row(what=f"{name} (PyTorch is not installed)", value=middle, unit="us", spread=spread(ours)))
    return rows


def _torch_python(given: str | None) -> str | None:
    if given:
        return os.fspath(given)
    return sys.executable if importlib.util.find_spec("torch") else None


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--torch-python", help="an interpreter that has PyTorch, when this one has not")


if __name__ == "__main__":
    run("training", "NumPy training step against PyTorch, one thread", measure, repeat=5, arguments=_arguments)
