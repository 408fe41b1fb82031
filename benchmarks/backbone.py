"""What a frozen network before the model costs a device in memory: while it runs it, and once embeddings are kept.

The agent learns a softmax on 64 values: its 100 samples of 64 values as they are, or what a backbone makes of them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.support.digits import Part
from benchmarks.support.federation import (
    TOPICS,
    agent,
    agent_file,
    aggregator,
    aggregator_file,
    wait_for_version,
)
from benchmarks.support.processes import Broker, Program, mosquitto, one_thread
from benchmarks.support.report import Options, Row, paired, progress, run
from benchmarks.support.watcher import Watcher
from models import build
from models.tflite.truncating import truncated

WIDTH = 64
SOFTMAX = {"kind": "softmax", "inputs": WIDTH, "outputs": 10}
SIZES = {"none": 0, "0.1 MB": 200, "3 MB": 6_000, "30 MB": 60_000}
"""Units between 64 values and 64: 512 bytes each."""

_MB = 1e6
_MAXRSS_UNIT = 1024
"""Bytes, on Linux."""
_PATIENCE_S = 300.0
_VERSIONS = 5
_TRIAL = (
    "import sys; from pathlib import Path; from models.tflite.adapters.trial import try_out; try_out(Path(sys.argv[1]))"
)


def write_network(path: Path, units: int) -> Path:
    """Write a backbone of random weights."""
    model = build({"kind": "mlp", "inputs": WIDTH, "hidden": [units, WIDTH], "outputs": 2})
    path.write_bytes(truncated(model, model.init(np.random.default_rng(0))))
    return path


def memory(directory: Path, units: int) -> tuple[float, float, float]:
    """Return MB: the peak of an agent that made its embeddings, its memory then, and the peak after a restart."""
    rng = np.random.default_rng(0)
    part = Part(rng.standard_normal((100, WIDTH)).astype(np.float32), rng.integers(0, 10, 100))
    changes: dict[str, dict[str, object]] = {"schedule": {"goal": 1}, "registry": {"keep_parameters": 3}}
    if units:
        changes["backbone"] = {"path": str(write_network(directory / "backbone.tflite", units))}
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(directory))
        file = agent_file(directory, broker.port, "device", part, {"training": {"min_interval_s": 0.05}})
        server, first = stack.enter_context(
            aggregator(aggregator_file(directory, broker.port, SOFTMAX, changes), broker.port)
        )
        peak, now, version = _learned(broker, server, file, first.version + _VERSIONS)
        return peak, now, _learned(broker, server, file, version + _VERSIONS)[0]


def _learned(broker: Broker, server: Program, file: Path, version: int) -> tuple[float, float, int]:
    with Watcher(broker.port, [TOPICS.current_model]) as watcher, agent(file) as program:
        wait_for_version(watcher, version, [server, program], _PATIENCE_S)
        return program.peak_rss_bytes() / _MB, program.rss_bytes() / _MB, version


def trial(directory: Path, units: int) -> float:
    """Return the peak, in MB, of the processes in which a file is tried out, once for each file and runtime."""
    path = write_network(directory / "tried.tflite", units)
    # A process between, so that the children counted are this trial's alone.
    code = f"import resource; {_TRIAL}; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True, env=one_thread()
    )
    return int(done.stdout.split()[-1]) * _MAXRSS_UNIT / _MB


def measure(options: Options) -> list[Row]:
    """Measure every size in turns."""
    sizes = {name: units for name, units in SIZES.items() if not options.quick or units <= SIZES["0.1 MB"]}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sizes}
    trials: dict[str, list[float]] = {name: [] for name, units in sizes.items() if units}
    for _ in range(options.repeat):
        for name, units in sizes.items():
            progress(f"backbone: {name}")
            with tempfile.TemporaryDirectory() as place:
                found[name].append(memory(Path(place), units))
                if units:
                    trials[name].append(trial(Path(place), units))
    rows = []
    for name, tried in trials.items():
        for at, what in enumerate(("peak, embeddings made", "memory then", "peak after a restart")):
            ours, plain = ([each[at] for each in found[which]] for which in (name, "none"))
            rows.append(paired(f"agent with a backbone of {name}: {what}, against none", ours, plain, "MB RSS"))
        plain = [each[0] for each in found["none"]]
        rows.append(paired(f"{name}: the trial's process, against the agent's peak without", tried, plain, "MB RSS"))
    return rows


if __name__ == "__main__":
    run("backbone", "memory of an agent with a frozen network before the model, against one without", measure)
