"""A real federation of real processes: configuration files, ``fedmq-aggregator run`` and ``fedmq-agent run``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.digits import Part
from benchmarks.support.processes import Program, command
from benchmarks.support.watcher import Seen, Watcher
from protocol.messages import Manifest
from protocol.packing import decode_manifest
from protocol.topics import Topics

FEDERATION = "bench"
TOPICS = Topics(FEDERATION)
Tables = Mapping[str, Mapping[str, Any]]
_START_S = 30.0


def write_toml(path: Path, tables: Tables) -> Path:
    """Write the tables (of numbers, strings, booleans and lists) as TOML."""
    lines = []
    for table, keys in tables.items():
        lines.append(f"[{table}]")
        # JSON's numbers, strings, booleans and lists are TOML's too.
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def merged(defaults: Tables, changes: Tables) -> dict[str, dict[str, Any]]:
    """Return the tables with the changes in."""
    return {name: {**defaults.get(name, {}), **changes.get(name, {})} for name in [*defaults, *changes]}


def aggregator_file(directory: Path, port: int, model: Mapping[str, Any], changes: Tables) -> Path:
    """Write ``aggregator.toml`` with state under ``directory``; return its path."""
    defaults: Tables = {
        "aggregator": {"federation": FEDERATION, "state_dir": str(directory / "aggregator")},
        "broker": {"port": port},
        "model": model,
        "training": {"epochs": 1, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.1},
    }
    return write_toml(directory / "aggregator.toml", merged(defaults, changes))


def agent_file(directory: Path, port: int, device_id: str, part: Part, changes: Tables) -> Path:
    """Write the data and ``agent.toml`` of one device, with its state under ``directory``; return the path."""
    data = directory / f"{device_id}.npz"
    np.savez(data, x=part.x, y=part.y)
    defaults: Tables = {
        "device": {"id": device_id, "federation": FEDERATION, "state_dir": str(directory / device_id)},
        "broker": {"port": port},
        # All examples are trained on, as the baseline does; nothing rests and nothing sleeps.
        "data": {"path": str(data), "holdout_fraction": 0.0, "watch_s": 0.0},
        "training": {"step_interval_s": 0.0, "min_interval_s": 0.0},
    }
    return write_toml(directory / f"{device_id}.toml", merged(defaults, changes))


@contextmanager
def aggregator(file: Path, port: int) -> Iterator[tuple[Program, Manifest]]:
    """Run the aggregator until the block ends; yields it and its first manifest."""
    log = file.with_suffix(".log")
    with (
        Watcher(port, [TOPICS.current_model]) as watcher,
        Program([command("fedmq-aggregator"), "run", "--config", str(file)], log) as program,
    ):
        first = watcher.wait_for(lambda seen: bool(seen.payload), _START_S, program.check)
        yield program, decode_manifest(first.payload)


@contextmanager
def agents(files: Sequence[Path]) -> Iterator[list[Program]]:
    """Run one agent process for each configuration until the block ends."""
    with ExitStack() as stack:
        yield [stack.enter_context(agent(file)) for file in files]


def agent(file: Path) -> Program:
    """Start one agent process."""
    return Program([command("fedmq-agent"), "run", "--config", str(file)], file.with_suffix(".log"))


def wait_for_version(watcher: Watcher, version: int, programs: Sequence[Program], timeout_s: float) -> Seen:
    """Return the message that announced the version (or a later one)."""

    def announced(seen: Seen) -> bool:
        return (
            seen.topic == TOPICS.current_model
            and bool(seen.payload)
            and decode_manifest(seen.payload).version >= version
        )

    def alive() -> None:
        for program in programs:
            program.check()

    return watcher.wait_for(announced, timeout_s, alive)


def export(file: Path, version: int, to: Path) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a version's parameter vector, as ``fedmq-aggregator export`` writes it."""
    arguments = [command("fedmq-aggregator"), "export", str(version), "--to", str(to), "--config", str(file)]
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    with np.load(to, allow_pickle=False) as archive:
        vector: np.ndarray[Any, np.dtype[np.float32]] = archive["parameters"]
        return vector
