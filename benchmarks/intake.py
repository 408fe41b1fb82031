"""How many updates a second the aggregator accepts durably, against a subscriber that only counts messages."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from aggregator.buffer import WeightedSum
from benchmarks.support.bare_counter import bare_counter
from benchmarks.support.federation import FEDERATION, TOPICS, aggregator, aggregator_file
from benchmarks.support.processes import Program, mosquitto
from benchmarks.support.report import Options, Row, Target, paired, progress, run
from benchmarks.support.swarm import Swarm
from benchmarks.support.updates import Updates
from models import build


@dataclass(frozen=True, slots=True)
class Case:
    """One size of model and codec."""

    outputs: int
    """A softmax regression of 99 inputs has 100 parameters for each output."""
    codec: str
    updates: int
    """So many are sent in each repetition and window, to each of both."""
    windows: tuple[int, ...]
    """So many are unanswered at a time: each side is measured with each, and its best counts."""
    devices: int
    target: Target | None = None

    @property
    def parameters(self) -> int:
        """Size of the vector."""
        return 100 * self.outputs

    @property
    def chunked(self) -> bool:
        """Whether an update is larger than one message may be."""
        return self.parameters * (1 if self.codec == "int8" else 4) > 96 * 1024


_GOAL = 200
"""A version for each so many updates: a steady state, neither an ever-growing journal nor a version each moment."""

CASES = [
    Case(10, "int8", 10_000, (250, 1000), 50),
    Case(10, "f32", 10_000, (250, 1000), 50),
    Case(100, "int8", 10_000, (250, 1000), 50),
    Case(100, "f32", 10_000, (250, 1000), 50, Target(0.7, at_least=True, of_ratio=True)),
    Case(1000, "int8", 1_000, (50, 100), 50),
    Case(1000, "f32", 400, (50, 100), 50),
    Case(10_000, "int8", 100, (10,), 10),
    Case(10_000, "f32", 40, (10,), 10),
]


@dataclass(frozen=True, slots=True)
class Side:
    """What one receiver did with the messages."""

    updates_per_s: float
    cpu_us: float
    """Processor time of the receiver per update."""
    peak_rss_mb: float


def intake(case: Case, directory: Path) -> tuple[Side, Side]:
    """Return fedmq's side and the bare counter's, for the same messages from the same broker."""
    device_ids = [f"device-{number:05d}" for number in range(case.devices)]
    model = {"kind": "softmax", "inputs": 99, "outputs": case.outputs, "task": "classification"}
    assert build(model).layout.size == case.parameters
    with mosquitto(directory) as broker:
        file = aggregator_file(directory, broker.port, model, _settings(case.codec))
        with aggregator(file, broker.port) as (program, manifest), Swarm(broker.port, FEDERATION, device_ids) as swarm:
            updates = Updates(manifest, case.parameters, case.codec, device_ids)
            durable = _measured(case, program, partial(swarm.send, messages_of=updates.messages_of()))
            assert set(swarm.answered) == {"accepted"}, f"refused: {swarm.reasons}"
        with (
            bare_counter(broker.port, TOPICS.all_updates, directory) as counter,
            Swarm(broker.port, FEDERATION, device_ids) as swarm,
        ):
            send = partial(swarm.send, messages_of=updates.messages_of(), counted=counter.count)
            bare = _measured(case, counter.program, send)
    return durable, bare


def _settings(codec: str) -> dict[str, dict[str, Any]]:
    return {
        "admission": {"messages_per_s": 0, "bytes_per_s": 0, "max_waiting_messages": 4096},
        "participation": {"codec": codec, "contributions_per_version": 1_000_000},
        "aggregation": {"max_staleness": 1_000_000},
        "schedule": {"goal": _GOAL},
        "registry": {"keep_parameters": 3},
        "metrics": {"interval_s": 30.0},
    }


def _measured(case: Case, program: Program, send: Callable[..., tuple[float, float]]) -> Side:
    send(max(case.updates // 10, case.devices), case.windows[0])
    cpu_s = program.cpu_s()
    rates = [send(case.updates, window)[1] for window in case.windows]
    cpu_s = program.cpu_s() - cpu_s
    return Side(max(rates), 1e6 * cpu_s / (case.updates * len(case.windows)), program.peak_rss_bytes() / 1e6)


def fold(parameters: int, repetitions: int) -> tuple[float, float]:
    """Return microseconds of folding one float32 delta, and of NumPy's copy of it."""
    delta = np.random.default_rng(0).standard_normal(parameters).astype(np.float32)
    elsewhere = np.empty_like(delta)
    total = WeightedSum(parameters)
    started = perf_counter()
    for _ in range(repetitions):
        total.fold(delta, 32.0)
    middle = perf_counter()
    for _ in range(repetitions):
        np.copyto(elsewhere, delta)
    end = perf_counter()
    return 1e6 * (middle - started) / repetitions, 1e6 * (end - middle) / repetitions


def measure(options: Options) -> list[Row]:
    """Measure every case, the repetitions of fedmq and the baseline in turns."""
    cases = CASES[1:4:2] if options.quick else CASES
    rows = [row for case in cases for row in _rows(case, options)]
    return rows + [_fold_row(case.parameters, options) for case in cases if case.codec == "f32"]


def _rows(case: Case, options: Options) -> list[Row]:
    pairs = []
    for _ in range(options.repeat):
        progress(f"intake of {case.parameters} parameters, {case.codec}")
        with tempfile.TemporaryDirectory() as name:
            pairs.append(intake(case, Path(name)))
    sides, bares = zip(*pairs, strict=True)
    what = f"{case.parameters:,} parameters, {case.codec}{', chunked' if case.chunked else ''}"
    return [
        paired(
            f"accepted durably, {what}",
            [side.updates_per_s for side in sides],
            [bare.updates_per_s for bare in bares],
            "updates/s",
            target=case.target,
            details={"peak_rss_mb": [side.peak_rss_mb for side in sides]},
        ),
        paired(
            f"processor time per update, {what}",
            [side.cpu_us for side in sides],
            [bare.cpu_us for bare in bares],
            "us",
        ),
    ]


def _fold_row(parameters: int, options: Options) -> Row:
    pairs = [fold(parameters, max(20, 20_000_000 // parameters)) for _ in range(2 * options.repeat + 1)]
    folds, copies = zip(*pairs, strict=True)
    return paired(f"folding alone, {parameters:,} parameters, against a copy", folds, copies, "us")


if __name__ == "__main__":
    run("intake", "durable intake of updates against a bare paho subscriber", measure)
