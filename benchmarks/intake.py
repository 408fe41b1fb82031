"""How many updates a second the aggregator accepts durably, against a subscriber that only counts messages."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from aggregator.buffer import WeightedSum
from benchmarks.support.bare_counter import bare_counter
from benchmarks.support.federation import TOPICS, aggregator, aggregator_file
from benchmarks.support.processes import mosquitto
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
    """So many are sent in each repetition, to each of both."""
    window: int
    """So many are unanswered at a time."""
    devices: int
    target: Target | None = None

    @property
    def parameters(self) -> int:
        """Size of the vector."""
        return 100 * self.outputs


_GOAL = 200
"""A version for each so many updates: a steady state, neither an ever-growing journal nor a version each moment."""

CASES = [
    Case(10, "int8", 20_000, 1000, 50),
    Case(10, "f32", 20_000, 1000, 50),
    Case(100, "int8", 20_000, 1000, 50),
    Case(100, "f32", 20_000, 1000, 50, Target(0.7, at_least=True, of_ratio=True)),
    Case(1000, "int8", 1_600, 50, 50),
    Case(1000, "f32", 600, 50, 50),
    Case(10_000, "int8", 160, 10, 10),
    Case(10_000, "f32", 60, 10, 10),
]


def intake(case: Case, directory: Path) -> tuple[float, float, dict[str, float]]:
    """Return (fedmq's updates per second, the bare counter's, facts) for the same messages from the same broker."""
    device_ids = [f"device-{number:05d}" for number in range(case.devices)]
    model = {"kind": "softmax", "inputs": 99, "outputs": case.outputs, "task": "classification"}
    file = aggregator_file(
        directory,
        0,
        model,
        {
            "participation": {"codec": case.codec, "contributions_per_version": 1_000_000},
            "aggregation": {"max_staleness": 1_000_000},
            "schedule": {"goal": _GOAL},
            "registry": {"keep_parameters": 3},
            "metrics": {"interval_s": 30.0},
        },
    )
    text = file.read_text()
    with mosquitto(directory) as broker:
        file.write_text(text.replace("port = 0", f"port = {broker.port}"))
        with aggregator(file, broker.port) as (program, manifest), Swarm(broker.port, "bench", device_ids) as swarm:
            assert build(model).layout.size == case.parameters
            updates = Updates(manifest, case.parameters, case.codec, device_ids)
            swarm.send(max(case.updates // 10, case.devices), case.window, updates.messages_of())
            cpu_s = program.cpu_s()
            _, durable = swarm.send(case.updates, case.window, updates.messages_of())
            cpu_s = program.cpu_s() - cpu_s
            assert set(swarm.answered) == {"accepted"}, f"refused: {swarm.reasons}"
            peak = program.peak_rss_bytes()
        with (
            bare_counter(broker.port, TOPICS.all_updates, directory) as counter,
            Swarm(broker.port, "bench", device_ids) as swarm,
        ):
            swarm.send(max(case.updates // 10, case.devices), case.window, updates.messages_of(), counter.count)
            bare_cpu_s = counter.program.cpu_s()
            _, bare = swarm.send(case.updates, case.window, updates.messages_of(), counter.count)
            bare_cpu_s = counter.program.cpu_s() - bare_cpu_s
    return (
        durable,
        bare,
        {
            "cpu_us_per_update": 1e6 * cpu_s / case.updates,
            "bare_cpu_us_per_update": 1e6 * bare_cpu_s / case.updates,
            "peak_rss_mb": peak / 1e6,
            "chunked": updates.chunked,
        },
    )


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
    rows = []
    cases = CASES[1:4:2] if options.quick else CASES
    for case in cases:
        pairs, facts = [], []
        for _ in range(options.repeat):
            progress(f"intake of {case.parameters} parameters, {case.codec}")
            with tempfile.TemporaryDirectory() as name:
                durable, bare, fact = intake(case, Path(name))
            pairs.append((durable, bare))
            facts.append(fact)
        durables, bares = zip(*pairs, strict=True)
        chunked = ", chunked" if facts[0]["chunked"] else ""
        what = f"accepted durably, {case.parameters:,} parameters, {case.codec}{chunked}"
        rows.append(paired(what, durables, bares, "updates/s", target=case.target, details={"facts": facts}))
    return rows + [_fold_row(case.parameters, options) for case in cases if case.codec == "f32"]


def _fold_row(parameters: int, options: Options) -> Row:
    pairs = [fold(parameters, max(20, 20_000_000 // parameters)) for _ in range(2 * options.repeat + 1)]
    folds, copies = zip(*pairs, strict=True)
    return paired(f"folding alone, {parameters:,} parameters, against a copy", folds, copies, "us")


if __name__ == "__main__":
    run("intake", "durable intake of updates against a bare paho subscriber", measure)
