"""What an agent takes of a board besides time: memory with all security on, wake-ups, and bytes written to its card."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support import digits
from benchmarks.support.digits import Part
from benchmarks.support.federation import TOPICS, agent_file, aggregator_file
from benchmarks.support.installation import DeviceInstallation
from benchmarks.support.keys import make_keys
from benchmarks.support.processes import Program, command
from benchmarks.support.report import Options, Row, Target, paired, progress, run, spread
from benchmarks.support.watcher import Seen, Watcher
from benchmarks.tls import Place, place
from benchmarks.wire import LARGE
from protocol.fields import SealingSuite
from protocol.packing import decode_manifest, decode_signed
from protocol.signing import looks_signed

_MB = 1e6
_SETTLE_S = 2.0
_PATIENCE_S = 120.0
_MINUTE_S = 60.0
_TRAINED = TOPICS.current_model
_ATTENDED = {"data": {"watch_s": 30.0}}
"""As shipped: the benchmarks' agents otherwise do not look whether their data changed."""


@dataclass
class Found:
    """What was seen of an agent."""

    idle_mb: float = 0.0
    trained_mb: float = 0.0
    peak_mb: float = 0.0
    handed: list[float] = field(default_factory=list)
    """Bytes given to files for each version, and of the blocks changed."""
    aggregator: list[float] = field(default_factory=list)


@contextmanager
def _agent(
    device: DeviceInstallation, directory: Path, part: Part, where: Place, changes: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Program, Watcher]]:
    """Run an agent that is connected; yield it, and who watches the federation."""
    file = agent_file(directory, where.port, "device", part, {"broker": {"port": where.port}, **changes})
    if where.tls:
        tls = "\n".join(f'{key} = "{value}"' for key, value in where.tls.items())
        file.write_text(f"{file.read_text()}\n[broker.tls]\n{tls}\n")
    state = TOPICS.device_state("device")
    with Watcher(where.watching, [_TRAINED, state]) as watcher, device.agent(file) as program:
        watcher.wait_for(lambda seen: seen.topic == state and bool(seen.payload), _PATIENCE_S, program.check)
        yield program, watcher


def _version(seen: Seen) -> int:
    if seen.topic != _TRAINED or not seen.payload:
        return -1
    return decode_manifest(decode_signed(seen.payload).body if looks_signed(seen.payload) else seen.payload).version


def trained(
    device: DeviceInstallation, spec: Mapping[str, Any], part: Part, versions: int, suite: SealingSuite | None
) -> Found:
    """Return what an agent held and wrote that trained ``versions`` times; ``suite`` None: without any security."""
    found = Found()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        where = stack.enter_context(place(home / "broker", tls=suite is not None))
        ours: dict[str, Mapping[str, Any]] = {"schedule": {"goal": 1}, "registry": {"keep_parameters": 3}}
        theirs: dict[str, Mapping[str, Any]] = {"training": {"min_interval_s": 0.05}}
        if suite is not None:
            keys = make_keys(home, suite)
            ours["security"], theirs["security"] = keys.aggregator, keys.agent
        program, watcher = stack.enter_context(_agent(device, home, part, where, theirs))
        time.sleep(_SETTLE_S)
        found.idle_mb = program.rss_bytes() / _MB
        file = aggregator_file(home, where.watching, spec, ours)
        arguments = [command("fedmq-aggregator"), "run", "--config", str(file)]
        server = stack.enter_context(Program(arguments, file.with_suffix(".log")))

        def reach(version: int) -> int:
            seen = watcher.wait_for(lambda one: _version(one) >= version, _PATIENCE_S, program.check)
            return _version(seen)

        first = reach(5)
        before = program.written() + server.written()
        count = reach(first + versions) - first
        each = [(now - then) / count for now, then in zip(program.written() + server.written(), before, strict=True)]
        found.handed, found.aggregator = each[:2], each[2:]
        server.stop()
        time.sleep(_SETTLE_S)
        found.trained_mb, found.peak_mb = program.rss_bytes() / _MB, program.peak_rss_bytes() / _MB
    return found


def at_rest(device: DeviceInstallation, minutes: int) -> tuple[float, float, float]:
    """Return an idle agent's wake-ups in a minute, and bytes handed to files and of blocks changed in a day."""
    part = Part(np.zeros((8, 64), dtype=np.float32), np.zeros(8, dtype=np.int64))
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        where = stack.enter_context(place(home / "broker", tls=True))
        program, _ = stack.enter_context(_agent(device, home, part, where, _ATTENDED))
        time.sleep(5 * _SETTLE_S)
        woken, written = program.wake_ups(), program.written()
        time.sleep(minutes * _MINUTE_S)
        days = minutes / (24 * 60)
        handed, blocks = ((now - then) / days for now, then in zip(program.written(), written, strict=True))
        return (program.wake_ups() - woken) / minutes, handed, blocks


def measure(options: Options) -> list[Row]:
    """Measure, with and without security in turns."""
    versions, minutes = (8, 1) if options.quick else (25, options.extra.minutes)
    small = digits.dirichlet_parts(digits.train_and_test()[0])[0]
    rng = np.random.default_rng(0)
    large = Part(rng.standard_normal((64, 561)).astype(np.float32), rng.integers(0, 6, 64))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as home:
        progress("thrift: installation into a fresh environment")
        device = DeviceInstallation(Path(home))
        trained(device, digits.SPEC, small, 2, "x25519")  # once for nothing: the page cache
        for name, spec, part in (("64-32-10", digits.SPEC, small), ("561-200-6", LARGE, large)):
            progress(f"thrift: MLP {name}, secured and in the clear")
            pairs = [
                (trained(device, spec, part, versions, "x25519"), trained(device, spec, part, versions, None))
                for _ in range(options.repeat)
            ]
            rows += _rows(name, pairs)
        progress("thrift: the hybrid suite")
        hybrid = [trained(device, digits.SPEC, small, versions, "mlkem768-x25519") for _ in range(options.repeat)]
        rows.append(_alone("after MLP 64-32-10, sealed with mlkem768-x25519", [one.trained_mb for one in hybrid], "MB"))
        progress(f"thrift: {minutes} minutes of nothing")
        woken, handed, blocks = at_rest(device, minutes)
    rows.append(_alone("wake-ups of an idle agent, TLS", [woken], "1/min"))
    rows.append(_alone("bytes handed to files at rest (and to its own flag)", [handed], "1/day"))
    rows.append(_alone("bytes of blocks changed at rest", [blocks], "1/day"))
    return rows


def _rows(name: str, pairs: list[tuple[Found, Found]]) -> list[Row]:
    secured, clear = zip(*pairs, strict=True)

    def against(what: str, figure: str, unit: str, target: Target | None = None) -> Row:
        ours, theirs = ([getattr(one, figure) for one in side] for side in (secured, clear))
        return paired(f"{what}, secured against clear", ours, theirs, unit, target=target)

    return [
        against(f"idle (before MLP {name})", "idle_mb", "MB RSS", Target(30.0)),
        against(f"after MLP {name}", "trained_mb", "MB RSS", Target(50.0)),
        against(f"peak of MLP {name}", "peak_mb", "MB RSS"),
        _alone(f"bytes handed to files per version, MLP {name}", [one.handed[0] for one in secured], "bytes"),
        _alone(f"bytes of blocks changed per version, MLP {name}", [one.handed[1] for one in secured], "bytes"),
        _alone(f"the same of the aggregator, MLP {name}", [one.aggregator[1] for one in secured], "bytes"),
    ]


def _alone(what: str, figures: list[float], unit: str) -> Row:
    return Row(what=what, value=float(np.median(figures)), unit=unit, spread=spread(figures))


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=int, default=5, help="how long an idle agent is watched")


if __name__ == "__main__":
    run("thrift", "an agent's memory with security, wake-ups, and bytes written", measure, arguments=_arguments)
