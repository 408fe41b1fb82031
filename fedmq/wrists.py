"""The demo's watches in one process: ``python -m fedmq.wrists FOLDER`` plays all recordings in the folder at once.

FOLDER/plan.json says to which broker, to which topics and how fast (see ``demo_sensors``).
"""

from __future__ import annotations

import heapq
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from fedmq.recording import Playing, Row, played, read
from fedmq.replay import Player, ReplayError, Told
from protocol.link import BrokerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmq.recording import Message

PLAN = "plan.json"


class Watch(Struct, frozen=True, kw_only=True):
    """One recording: a file in the folder, and the topics that it is played to."""

    file: str
    topic: str
    label_topic: str


class Plan(Struct, frozen=True, kw_only=True):
    """What is played."""

    host: str
    port: int
    speed: float
    watches: list[Watch]


def main(folder: Path) -> int:
    """Play until the end, or until somebody asks to stop; return the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    plan = msgspec.json.decode((folder / PLAN).read_bytes(), type=Plan)
    player = Player(BrokerSettings(host=plan.host, port=plan.port, reconnect_min_s=0.2, reconnect_max_s=1.0))
    told = Told()
    recordings = [
        (watch, read(folder / watch.file, time_column="time", label_column="exercise")) for watch in plan.watches
    ]
    try:
        player.connect()
        wall = time.time()
        player.play(heapq.merge(*_all(plan, recordings, wall), key=lambda message: message.due_s), told, stop.is_set)
        # Whoever started us takes an end for a fault: a watch that is taken off lies still.
        stop.wait()
    except ReplayError as exc:
        print(f"wrists: {exc}", file=sys.stderr)  # noqa: T201 - its log
        return 1
    finally:
        player.close()
    print(f"played {told.messages} messages, {told.lost} lost", file=sys.stderr)  # noqa: T201 - its log
    return 0


def _all(plan: Plan, recordings: list[tuple[Watch, list[Row]]], wall: float) -> Iterator[Iterator[Message]]:
    for watch, rows in recordings:
        how = Playing(topic=watch.topic, label_topic=watch.label_topic, speed=plan.speed)
        yield played(rows, how, wall)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
