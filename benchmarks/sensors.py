"""What a sensor costs an agent at rest: wake-ups, bytes written to the card, and memory, by how often it speaks."""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.support.bare_client import bare_client
from benchmarks.support.federation import FEDERATION, TOPICS, Tables, write_toml
from benchmarks.support.installation import DeviceInstallation
from benchmarks.support.processes import Program
from benchmarks.support.report import Options, Row, progress, run
from benchmarks.support.watcher import Watcher
from benchmarks.tls import place

_MB = 1e6
_DAY_S = 86_400.0
_PATIENCE_S = 120.0
_TOPIC = "board/boiler"
_FIELDS = ("temperature", "humidity", "pressure")
_PACES: dict[str, float] = {"no message": 0.0, "a message every 10 s": 10.0, "a message a second": 1.0}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one agent, over the time that it was watched."""

    woken_per_min: float
    handed_per_day: float
    blocks_per_day: float
    rss_mb: float
    messages: int


@contextmanager
def _sensor(port: int, interval_s: float) -> Iterator[list[int]]:
    """Publish three figures every so many seconds, none with 0, until the block ends; yield how many so far."""
    sent, over = [0], threading.Event()
    client = bare_client(lambda _: None)
    client.connect("127.0.0.1", port)
    client.loop_start()

    def speak() -> None:
        while interval_s and not over.wait(interval_s):
            sent[0] += 1
            client.publish(_TOPIC, json.dumps(dict.fromkeys(_FIELDS, 20.0 + sent[0] % 7)), qos=0)

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()
        client.disconnect()
        client.loop_stop()


def _configuration(directory: Path, port: int, tls: dict[str, str], local: int) -> Path:
    tables: Tables = {
        "device": {"id": "device", "federation": FEDERATION, "state_dir": str(directory / "state")},
        "broker": {"port": port},
        "broker.tls": tls,
        "sources.boiler": {"kind": "mqtt", "topics": [_TOPIC]},
        "sources.boiler.fields": {name: name for name in _FIELDS},
        "sources.boiler.broker": {"port": local},
    }
    return write_toml(directory / "agent.toml", tables)


def watched(device: DeviceInstallation, interval_s: float, settle_s: float, watched_s: float) -> Cost:
    """Return what an agent costs that waits for its federation, with TLS, while a sensor speaks every so many seconds.

    The sensor's broker is the one that the agent is connected to, on a port without TLS.
    """
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        where = stack.enter_context(place(home / "broker", tls=True))
        file = _configuration(home, where.port, where.tls or {}, where.watching)
        state = TOPICS.device_state("device")
        watcher = stack.enter_context(Watcher(where.watching, [state]))
        program: Program = stack.enter_context(device.agent(file))
        watcher.wait_for(lambda seen: seen.topic == state and bool(seen.payload), _PATIENCE_S, program.check)
        sent = stack.enter_context(_sensor(where.watching, interval_s))
        time.sleep(settle_s)
        woken, written, spoken = program.wake_ups(), program.written(), sent[0]
        time.sleep(watched_s)
        handed, blocks = (now - then for now, then in zip(program.written(), written, strict=True))
        return Cost(
            woken_per_min=(program.wake_ups() - woken) * 60 / watched_s,
            handed_per_day=handed * _DAY_S / watched_s,
            blocks_per_day=blocks * _DAY_S / watched_s,
            rss_mb=program.rss_bytes() / _MB,
            messages=sent[0] - spoken,
        )


def measure(options: Options) -> list[Row]:
    """Measure each pace, all at the same time: they wait, and do not get in each other's way."""
    watched_s = 60.0 if options.quick else 60.0 * options.extra.minutes
    found: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as home:
        progress("sensors: installation into a fresh environment")
        device = DeviceInstallation(Path(home))
        progress(f"sensors: watching for {watched_s:.0f} s")

        def one(name: str, interval_s: float) -> None:
            found[name] = watched(device, interval_s, 31.0, watched_s)

        threads = [threading.Thread(target=one, args=pair) for pair in _PACES.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [row for name in _PACES for row in _rows(name, found[name])]


def _rows(name: str, cost: Cost) -> list[Row]:
    said = f"{cost.messages} messages"
    return [
        Row(what=f"wake-ups, {name}", value=cost.woken_per_min, unit="1/min", spread=said),
        Row(what=f"bytes handed to files, {name}", value=cost.handed_per_day, unit="1/day"),
        Row(what=f"bytes of blocks changed, {name}", value=cost.blocks_per_day, unit="1/day"),
        Row(what=f"memory, {name}", value=cost.rss_mb, unit="MB RSS"),
    ]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=5.0, help="how long the agents are watched")


if __name__ == "__main__":
    run("sensors", "what a sensor costs an agent that waits", measure, arguments=_arguments)
