"""A NumPy training step against PyTorch's on one thread."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

from benchmarks.support.processes import one_thread
from benchmarks.support.report import Options, Row, Target, paired, progress, run, spread

_BATCH = 32
NETWORKS = {
    "mlp 64-32-10": (2000, 0.5),
    "mlp 561-200-6": (2000, 0.5),
    "image_cnn": (400, 0.8),
    "image_cnn of McMahan et al.": (400, 0.8),
    "series_cnn": (400, 0.8),
    "gru": (200, 1.2),
}
"""Steps to measure, and the target. A twentieth of them is one local training, which begins anew."""


def step(python: str, program: str, network: str, steps: int) -> tuple[float, float]:
    """Return the median microseconds of a step and the peak in MB, measured by a program of its own with one thread."""
    script = Path(__file__).parent / "support" / program
    root = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run(
        [python, str(script), network, str(_BATCH), str(steps)],
        check=True,
        capture_output=True,
        text=True,
        env={**one_thread(), "PYTHONPATH": root},
    )
    time_us, peak_mb = done.stdout.split()
    return float(time_us), float(peak_mb)


def measure(options: Options) -> list[Row]:
    """Measure every network, NumPy and PyTorch in turns."""
    torch_python = _torch_python(options.extra.torch_python)
    rows = []
    for network, (steps, target) in NETWORKS.items():
        name = f"training step, {network}, batch {_BATCH}"
        ours, theirs = [], []
        for _ in range(options.repeat):
            progress(name)
            ours.append(step(sys.executable, "numpy_step.py", network, steps))
            if torch_python:
                theirs.append(step(torch_python, "torch_step.py", network, steps))
        rows += _rows(name, ours, theirs, Target(target, of_ratio=True))
    return rows


def _rows(name: str, ours: list[tuple[float, float]], theirs: list[tuple[float, float]], target: Target) -> list[Row]:
    times, peaks = ([figures[part] for figures in ours] for part in (0, 1))
    if theirs:
        against = [figures[0] for figures in theirs]
        memory = [figures[1] for figures in theirs]
        return [
            paired(f"{name}, against PyTorch", times, against, "us", target=target),
            paired(f"{name}: peak of the process", peaks, memory, "MB"),
        ]
    middle = len(ours) // 2
    return [
        Row(what=f"{name} (PyTorch is not installed)", value=sorted(times)[middle], unit="us", spread=spread(times)),
        Row(what=f"{name}: peak of the process", value=sorted(peaks)[middle], unit="MB", spread=spread(peaks)),
    ]


def _torch_python(given: str | None) -> str | None:
    if given:
        return os.fspath(given)
    return sys.executable if importlib.util.find_spec("torch") else None


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--torch-python", help="an interpreter that has PyTorch, when this one has not")


if __name__ == "__main__":
    run("training", "NumPy training step against PyTorch, one thread", measure, repeat=5, arguments=_arguments)
