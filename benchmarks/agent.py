"""What an agent costs a device: memory, time to be connected, and room on the disk."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support import digits
from benchmarks.support.digits import Part
from benchmarks.support.federation import (
    TOPICS,
    agent,
    agent_file,
    aggregator,
    aggregator_file,
    wait_for_version,
)
from benchmarks.support.processes import Program, mosquitto
from benchmarks.support.report import Options, Row, Target, paired, progress, run, spread
from benchmarks.support.watcher import Watcher
from benchmarks.wire import LARGE

_SETTLE_S = 1.0
_MB = 1e6
_DEVICE_PACKAGES = ("models", "protocol", "device_agent")


def start(directory: Path) -> tuple[float, float, float, float]:
    """Return (agent's seconds to connected, its idle MB, a bare paho client's seconds, its MB)."""
    part = Part(np.zeros((8, 64), dtype=np.float32), np.zeros(8, dtype=np.int64))
    with mosquitto(directory) as broker:
        file = agent_file(directory, broker.port, "device", part, {})
        ours = _start(broker.port, TOPICS.device_state("device"), lambda: agent(file))
        topic = "bare/here"
        arguments = [sys.executable, "-m", "benchmarks.support.bare_device", str(broker.port), topic]
        theirs = _start(broker.port, topic, lambda: Program(arguments, directory / "bare.log"))
    return *ours, *theirs


def _start(port: int, topic: str, begin: Any) -> tuple[float, float]:  # noqa: ANN401 - a function without arguments
    with Watcher(port, [topic]) as watcher:
        started = time.perf_counter()
        with begin() as program:
            first = watcher.wait_for(lambda seen: bool(seen.payload), 30.0, program.check)
            time.sleep(_SETTLE_S)
            return first.at - started, program.rss_bytes() / _MB


def trained(spec: Mapping[str, Any], part: Part, versions: int, directory: Path) -> tuple[float, float]:
    """Return (RSS, peak RSS) in MB of an agent that has trained and reported ``versions`` times."""
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(directory))
        changes = {"schedule": {"goal": 1}, "registry": {"keep_parameters": 3}}
        file = agent_file(directory, broker.port, "device", part, {"training": {"min_interval_s": 0.05}})
        watcher = stack.enter_context(Watcher(broker.port, [TOPICS.current_model]))
        server, _ = stack.enter_context(aggregator(aggregator_file(directory, broker.port, spec, changes), broker.port))
        program = stack.enter_context(agent(file))
        wait_for_version(watcher, versions, [server, program], 60.0)
        return program.rss_bytes() / _MB, program.peak_rss_bytes() / _MB


def bare_numpy(directory: Path) -> float:
    """Return the RSS in MB of a bare paho client that has imported NumPy and msgpack."""
    with mosquitto(directory) as broker:
        arguments = [sys.executable, "-m", "benchmarks.support.bare_device", str(broker.port), "bare/here"]
        return _start(
            broker.port, "bare/here", lambda: Program([*arguments, "numpy", "msgpack"], directory / "bare.log")
        )[1]


def installed(directory: Path) -> tuple[float, float, int]:
    """Return (MB of the device's packages and all they need, MB of NumPy alone, number of distributions).

    The dependencies of the bare ``fedmq`` distribution are installed into a fresh environment and their files added
    up, compiled files included; fedmq's own packages for a device are added as they are.
    """
    environment = directory / "device"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    needs = [line for line in metadata.requires("fedmq") or [] if "extra ==" not in line]
    python = environment / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *needs],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    site = next((environment / "lib").glob("python*/site-packages"))
    distributions = list(metadata.distributions(path=[str(site)]))
    numpy_bytes = sum(_size(site / folder) for folder in ("numpy", "numpy.libs"))
    root = Path(__file__).resolve().parent.parent
    own = sum(_size(root / package) for package in _DEVICE_PACKAGES)
    return (_size(site) + own) / _MB, numpy_bytes / _MB, len(distributions)


def _size(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def measure(options: Options) -> list[Row]:
    """Measure the agent and the bare clients in turns."""
    starts, idles, afters, larges, bases = [], [], [], [], []
    versions = 5 if options.quick else 30
    small = digits.dirichlet_parts(digits.train_and_test()[0])[0]
    rng = np.random.default_rng(0)
    large = Part(rng.standard_normal((64, 561)).astype(np.float32), rng.integers(0, 6, 64))
    with tempfile.TemporaryDirectory() as place:
        start(Path(place))  # once for nothing: compiled files and the page cache
    for _ in range(options.repeat):
        progress("agent: start, idle, training")
        with tempfile.TemporaryDirectory() as place:
            seconds, idle, bare_seconds, bare_idle = start(Path(place))
        starts.append((seconds, bare_seconds))
        idles.append((idle, bare_idle))
        with tempfile.TemporaryDirectory() as place:
            bases.append(bare_numpy(Path(place)))
            afters.append(trained(digits.SPEC, small, versions, Path(place)))
        with tempfile.TemporaryDirectory() as place:
            larges.append(trained(LARGE, large, versions, Path(place)))
    return [
        _row("start to connected", starts, "s", Target(0.4)),
        _row("memory, connected and idle", idles, "MB RSS", Target(30.0)),
        _memory("memory after training MLP 64-32-10", afters, bases, Target(50.0)),
        _memory("memory after training MLP 561-200-6", larges, bases, Target(50.0)),
        *_disk(),
    ]


def _row(what: str, pairs: list[tuple[float, float]], unit: str, target: Target) -> Row:
    ours, theirs = zip(*pairs, strict=True)
    return paired(f"{what}, against a bare paho client", ours, theirs, unit, target=target, details={"ours": ours})


def _memory(what: str, measured: list[tuple[float, float]], bases: list[float], target: Target) -> Row:
    now, peak = zip(*measured, strict=True)
    details = {"peak_rss_mb": peak, "range": spread(now)}
    return paired(f"{what}, against bare paho and NumPy", now, bases, "MB RSS", target=target, details=details)


def _disk() -> list[Row]:
    progress("agent: installation into a fresh environment")
    with tempfile.TemporaryDirectory() as place:
        size, numpy_size, count = installed(Path(place))
    return [
        Row(
            what="installed on disk, against NumPy alone",
            value=size,
            baseline=numpy_size,
            ratio=size / numpy_size,
            unit="MB",
            target=Target(125.0),
        ),
        Row(what="distributions installed beside fedmq itself", value=count, unit="", target=Target(5.0)),
    ]


if __name__ == "__main__":
    run("agent", "memory, start and size of the device's side", measure)
