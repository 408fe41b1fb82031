"""``fedmq replay``: plays a recording to MQTT topics, for a try without a sensor."""

from __future__ import annotations

import itertools
import queue
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fedmq.recording import Message, Playing, Row, played
from protocol.adapters.mqtt import MqttLink
from protocol.link import BrokerSettings, LinkDown, LinkEvent, LinkUp

CONNECT_S = 10.0
LATE_S = 1.0
"""A broker that takes messages so much slower than they are due is not waited for: the rest shifts."""


class ReplayError(RuntimeError):
    """It cannot be played; the text says why."""


@dataclass(slots=True)
class Told:
    """What became of it."""

    messages: int = 0
    lost: int = 0
    """While there was no connection: a sensor does not measure again either."""


class Player:
    """Plays one recording at a time over one connection."""

    def __init__(self, broker: BrokerSettings) -> None:
        self._events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
        self._link = MqttLink(broker, f"fedmq-replay-{secrets.token_hex(4)}", self._deliver)

    def connect(self) -> None:
        """Connect; raise ``ReplayError`` when that does not come about within ``CONNECT_S``."""
        self._link.start()
        until = time.monotonic() + CONNECT_S
        reason = "no answer"
        while (left_s := until - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left_s)
            except queue.Empty:
                break
            if isinstance(event, LinkUp):
                return
            if isinstance(event, LinkDown):
                reason = event.reason
        raise ReplayError(f"no connection to the broker: {reason}")

    def close(self) -> None:
        """Send what is under way, and say goodbye."""
        self._link.stop()

    def play(self, messages: Iterator[Message], told: Told, interrupted: Callable[[], bool]) -> None:
        """Publish each message when it is due, until the end or ``interrupted``."""
        begun = time.monotonic()
        for message in messages:
            begun += self._wait(begun + message.due_s, interrupted)
            if interrupted():
                return
            qos = 1 if message.retain else 0
            if self._link.publish(message.topic, message.payload, qos=qos, retain=message.retain):
                told.messages += 1
            else:
                told.lost += 1

    def _wait(self, until: float, interrupted: Callable[[], bool]) -> float:
        """Wait until then; return by how much the rest has to shift."""
        while (left_s := until - time.monotonic()) > 0 and not interrupted():
            time.sleep(min(left_s, 0.2))
        late_s = time.monotonic() - until
        return late_s if late_s > LATE_S else 0.0

    def _deliver(self, event: LinkEvent) -> bool:
        self._events.put(event)
        return True


def replay(
    rows: Sequence[Row], how: Playing, broker: BrokerSettings, interrupted: Callable[[], bool], *, loop: bool = False
) -> Told:
    """Play the rows, over and over with ``loop``; raise ``ReplayError`` when the broker cannot be reached."""
    told = Told()
    player = Player(broker)
    try:
        player.connect()
        for _ in itertools.count() if loop else range(1):
            player.play(played(rows, how, time.time()), told, interrupted)
            if interrupted():
                break
    finally:
        player.close()
    return told
