"""What an agent costs a device: memory, time to be connected, and room on the disk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support import digits
from benchmarks.support.digits import Part
from benchmarks.support.federation import (
    TOPICS,
    agent_file,
    aggregator,
    aggregator_file,
    wait_for_version,
)
from benchmarks.support.installation import DeviceInstallation
from benchmarks.support.processes import mosquitto
from benchmarks.support.report import Options, Row, Target, paired, progress, run, spread
from benchmarks.support.watcher import Watcher
from benchmarks.wire import LARGE

_SETTLE_S = 1.0
_MB = 1e6


def start(device: DeviceInstallation, directory: Path) -> tuple[float, float, float, float]:
    """Return (agent's seconds to connected, its idle MB, a bare paho client's seconds, its MB)."""
    part = Part(np.zeros((8, 64), dtype=np.float32), np.zeros(8, dtype=np.int64))
    with mosquitto(directory) as broker:
        file = agent_file(directory, broker.port, "device", part, {})
        ours = _start(broker.port, TOPICS.device_state("device"), lambda: device.agent(file))
        topic = "bare/here"
        log = directory / "bare.log"
        theirs = _start(broker.port, topic, lambda: device.bare_client(broker.port, topic, log))
    return *ours, *theirs


def _start(port: int, topic: str, begin: Any) -> tuple[float, float]:  # noqa: ANN401 - a function without arguments
    with Watcher(port, [topic]) as watcher:
        started = time.perf_counter()
        with begin() as program:
            first = watcher.wait_for(lambda seen: bool(seen.payload), 30.0, program.check)
            time.sleep(_SETTLE_S)
            return first.at - started, program.rss_bytes() / _MB


def trained(
    device: DeviceInstallation, spec: Mapping[str, Any], part: Part, versions: int, directory: Path
) -> tuple[float, float]:
    """Return (RSS, peak RSS) in MB of an agent that has trained and reported ``versions`` times."""
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(directory))
        changes = {"schedule": {"goal": 1}, "registry": {"keep_parameters": 3}}
        file = agent_file(directory, broker.port, "device", part, {"training": {"min_interval_s": 0.05}})
        watcher = stack.enter_context(Watcher(broker.port, [TOPICS.current_model]))
        server, _ = stack.enter_context(aggregator(aggregator_file(directory, broker.port, spec, changes), broker.port))
        program = stack.enter_context(device.agent(file))
        wait_for_version(watcher, versions, [server, program], 60.0)
        return program.rss_bytes() / _MB, program.peak_rss_bytes() / _MB


def bare_numpy(device: DeviceInstallation, directory: Path) -> float:
    """Return the RSS in MB of a bare paho client that has imported NumPy and msgpack."""
    topic, log = "bare/here", directory / "bare.log"
    with mosquitto(directory) as broker:
        return _start(broker.port, topic, lambda: device.bare_client(broker.port, topic, log, "numpy", "msgpack"))[1]


def measure(options: Options) -> list[Row]:
    """Measure the agent and the bare clients in turns."""
    starts, idles, afters, larges, bases = [], [], [], [], []
    versions = 5 if options.quick else 30
    small = digits.dirichlet_parts(digits.train_and_test()[0])[0]
    rng = np.random.default_rng(0)
    large = Part(rng.standard_normal((64, 561)).astype(np.float32), rng.integers(0, 6, 64))
    with tempfile.TemporaryDirectory() as home:
        progress("agent: installation into a fresh environment")
        device = DeviceInstallation(Path(home))
        with tempfile.TemporaryDirectory() as place:
            start(device, Path(place))  # once for nothing: the page cache
        for _ in range(options.repeat):
            progress("agent: start, idle, training")
            with tempfile.TemporaryDirectory() as place:
                seconds, idle, bare_seconds, bare_idle = start(device, Path(place))
            starts.append((seconds, bare_seconds))
            idles.append((idle, bare_idle))
            with tempfile.TemporaryDirectory() as place:
                bases.append(bare_numpy(device, Path(place)))
                afters.append(trained(device, digits.SPEC, small, versions, Path(place)))
            with tempfile.TemporaryDirectory() as place:
                larges.append(trained(device, LARGE, large, versions, Path(place)))
        disk = _disk(device)
    return [
        _row("start to connected", starts, "s", Target(0.4)),
        _row("memory, connected and idle", idles, "MB RSS", Target(30.0)),
        _memory("memory after training MLP 64-32-10", afters, bases, Target(50.0)),
        _memory("memory after training MLP 561-200-6", larges, bases, Target(50.0)),
        *disk,
    ]


def _row(what: str, pairs: list[tuple[float, float]], unit: str, target: Target) -> Row:
    ours, theirs = zip(*pairs, strict=True)
    return paired(f"{what}, against a bare paho client", ours, theirs, unit, target=target, details={"ours": ours})


def _memory(what: str, measured: list[tuple[float, float]], bases: list[float], target: Target) -> Row:
    now, peak = zip(*measured, strict=True)
    details = {"peak_rss_mb": peak, "range": spread(now)}
    return paired(f"{what}, against bare paho and NumPy", now, bases, "MB RSS", target=target, details=details)


def _disk(device: DeviceInstallation) -> list[Row]:
    size, numpy_size = device.size_bytes() / _MB, device.size_bytes("numpy", "numpy.libs") / _MB
    return [
        Row(
            what="installed on disk, against NumPy alone",
            value=size,
            baseline=numpy_size,
            ratio=size / numpy_size,
            unit="MB",
            target=Target(125.0),
        ),
        Row(
            what="distributions installed beside fedmq itself",
            value=device.distributions(),
            unit="",
            target=Target(5.0),
        ),
    ]


if __name__ == "__main__":
    run("agent", "memory, start and size of the device's side", measure)
