"""An observer: subscribes to topics, notes when what arrived, and waits for things to happen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import paho.mqtt.client as mqtt

from benchmarks.support.bare_client import bare_client


@dataclass(frozen=True, slots=True)
class Seen:
    """One message: when it arrived (seconds of ``time.perf_counter``), where, and what."""

    at: float
    topic: str
    payload: bytes


class Watcher:
    """A paho client in a thread of its own that keeps every message of its topics."""

    def __init__(self, port: int, topics: Sequence[str]) -> None:
        self._changed = threading.Condition()
        self._seen: list[Seen] = []
        self._granted = 0
        wanted = [(topic, 1) for topic in topics]
        self._client = bare_client(lambda client: client.subscribe(wanted), self._on_subscribe)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)

    def __enter__(self) -> Self:
        self._client.loop_start()
        with self._changed:
            if not self._changed.wait_for(lambda: self._granted > 0, 10.0):
                raise TimeoutError("no subscription")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def seen(self) -> list[Seen]:
        """Return everything so far."""
        with self._changed:
            return list(self._seen)

    def wait_for(self, wanted: Callable[[Seen], bool], timeout_s: float, check: Callable[[], None]) -> Seen:
        """Return the first message that is wanted; ``check`` is called now and then and may raise."""
        deadline = time.monotonic() + timeout_s
        looked_at = 0
        with self._changed:
            while True:
                for seen in self._seen[looked_at:]:
                    if wanted(seen):
                        return seen
                looked_at = len(self._seen)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it did not come in {timeout_s} s; {looked_at} messages came")
                check()
                self._changed.wait(0.5)

    def _on_subscribe(self, _client: mqtt.Client) -> None:
        with self._changed:
            self._granted += 1
            self._changed.notify_all()

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        seen = Seen(time.perf_counter(), message.topic, bytes(message.payload))
        with self._changed:
            self._seen.append(seen)
            self._changed.notify_all()
