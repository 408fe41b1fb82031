"""Seconds per version with ten agent processes, against ten bare processes that exchange the same bytes."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.support import digits
from benchmarks.support.digits import Part
from benchmarks.support.federation import (
    TOPICS,
    agent_file,
    agents,
    aggregator,
    aggregator_file,
    export,
    wait_for_version,
)
from benchmarks.support.processes import Program, mosquitto, one_thread
from benchmarks.support.report import Options, Row, Target, paired, percentiles, progress, run, spread
from benchmarks.support.watcher import Seen, Watcher
from models import Dataset, TrainingPlan, build, local_train
from protocol import tensors
from protocol.packing import decode_manifest

DEVICES = 10
_WARM_UP = 20
_FEDAVG_VERSIONS = 20


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run: milliseconds between versions, and the accuracy of version 20 on the test set."""

    version_ms: list[float]
    accuracy: float


def federated(parts: Sequence[Part], test: Part, versions: int, directory: Path) -> Figures:
    """Run an aggregator and one agent for each part until ``versions`` versions are out."""
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(directory))
        file = aggregator_file(
            directory,
            broker.port,
            digits.SPEC,
            {"training": digits.PLAN, "schedule": {"goal": DEVICES, "quorum": DEVICES}, "metrics": {"interval_s": 5.0}},
        )
        files = [agent_file(directory, broker.port, f"device-{n}", part, {}) for n, part in enumerate(parts)]
        watcher = stack.enter_context(Watcher(broker.port, [TOPICS.current_model]))
        with aggregator(file, broker.port) as (program, _), agents(files) as programs:
            wait_for_version(watcher, versions, [program, *programs], 120.0)
        vector = export(file, _FEDAVG_VERSIONS, directory / "version.npz")
        return Figures(_gaps_ms(watcher.seen()), accuracy_of(vector, test))


def _gaps_ms(seen: Sequence[Seen]) -> list[float]:
    """Return the milliseconds between the announcements of versions, without the first ones."""
    out = {decode_manifest(one.payload).version: one.at for one in seen if one.payload}
    assert sorted(out) == list(range(max(out) + 1)), "a version was not announced"
    times = [out[version] for version in sorted(out)][_WARM_UP:]
    return [1e3 * gap for gap in np.diff(times)]


def accuracy_of(vector: np.ndarray[tuple[int], np.dtype[np.float32]], test: Part) -> float:
    """Return the share of the test set that the parameters get right."""
    model = build(digits.SPEC)
    return model.evaluate(vector, Dataset.for_model(model, test.x, test.y)).summary()["accuracy"]


def bare(parts: Sequence[Part], rounds: int, directory: Path) -> list[float]:
    """Return the milliseconds of each round of the bare loop (see ``bare_rounds``), without the first ones."""
    size = build(digits.SPEC).layout.size
    update_bytes = len(tensors.encode("int8", np.zeros(size, dtype=np.float32), np.random.default_rng(0)))
    module = [sys.executable, "-m", "benchmarks.support.bare_rounds"]
    times = directory / "times.json"
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(directory))
        port = str(broker.port)
        for number, part in enumerate(parts):
            data = directory / f"bare-{number}.npz"
            np.savez(data, x=part.x, y=part.y)
            arguments = [*module, "worker", port, str(number), str(data), str(update_bytes)]
            stack.enter_context(Program(arguments, directory / f"bare-{number}.log", one_thread()))
        arguments = [*module, "server", port, str(len(parts)), str(size), str(rounds), str(times)]
        server = stack.enter_context(Program(arguments, directory / "bare.log", one_thread()))
        server.wait(120.0)
    seconds: list[float] = json.loads(times.read_text())
    return [1e3 * second for second in seconds[_WARM_UP:]]


def fedavg(parts: Sequence[Part], test: Part, seed: int) -> float:
    """Return the accuracy of plain synchronous FedAvg (McMahan et al., 2017) after 20 rounds, in this process."""
    model = build(digits.SPEC)
    plan = TrainingPlan.from_data(digits.PLAN)
    sets = [Dataset.for_model(model, part.x, part.y) for part in parts]
    rngs = [np.random.default_rng([seed, number]) for number in range(len(parts))]
    vector = model.init(np.random.default_rng(seed))
    for _ in range(_FEDAVG_VERSIONS):
        results = [local_train(model, vector, data, plan, rng) for data, rng in zip(sets, rngs, strict=True)]
        total = sum(result.num_examples for result in results)
        vector = sum(
            (np.float32(result.num_examples / total) * result.parameters for result in results),
            np.zeros_like(vector),
        )
    return accuracy_of(vector, test)


def measure(options: Options) -> list[Row]:
    """Measure with real computation and with next to none, fedmq and the bare loop in turns."""
    train, test = digits.train_and_test()
    parts = digits.dirichlet_parts(train, DEVICES)
    single = [Part(part.x[:1], part.y[:1]) for part in parts]
    versions = _WARM_UP + (40 if options.quick else 300)
    rows = []
    accuracies: list[float] = []
    for name, data, target in (("one local epoch", parts, 30.0), ("one step on one example", single, 20.0)):
        ours, theirs = [], []
        for _ in range(options.repeat):
            progress(f"versions: {name}")
            with tempfile.TemporaryDirectory() as place:
                figures = federated(data, test, versions, Path(place))
                theirs.append(bare(data, versions, Path(place)))
            ours.append(figures.version_ms)
            if data is parts:
                accuracies.append(figures.accuracy)
        rows += _time_rows(name, ours, theirs, Target(target))
    return [*rows, _accuracy_row(accuracies, [fedavg(parts, test, seed) for seed in range(5)])]


def _time_rows(name: str, ours: list[list[float]], theirs: list[list[float]], target: Target) -> list[Row]:
    return [
        paired(
            f"time of a version, {DEVICES} devices, {name}, {point}",
            [percentiles(one)[point] for one in ours],
            [percentiles(one)[point] for one in theirs],
            "ms",
            target=target if point == "p50" else None,
            details={"percentiles": [percentiles(one) for one in ours]},
        )
        for point in ("p50", "p90", "p99")
    ]


def _accuracy_row(ours: list[float], theirs: list[float]) -> Row:
    middle, baseline = float(np.median(ours)), float(np.median(theirs))
    return Row(
        what=f"accuracy after {_FEDAVG_VERSIONS} versions, against synchronous FedAvg in one process",
        value=middle,
        baseline=baseline,
        ratio=middle / baseline,
        unit="",
        spread=f"{spread(ours)}; FedAvg {spread(theirs)}",
        target=Target(0.98, at_least=True, of_ratio=True),
    )


if __name__ == "__main__":
    run("versions", "time per version with ten agent processes on scikit-learn's digits", measure)
