"""What happens, on its way from the threads that notice it to the one that decides."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable

from msgspec.structs import replace

from aggregator.events import Event
from protocol.link import LinkEvent, Received
from protocol.topics import sender_of

MAX_MESSAGES = 4096
"""Sixteen batches: a second or two of work. More than that is better left with the devices, who keep it safely."""
MAX_BYTES = 64 * 1024 * 1024

BATCH_EVENTS = 256
"""One transaction: enough to pay for its fsync, few enough that receipts are prompt."""
BATCH_BYTES = 16 * 1024 * 1024


class Inbox:
    """Many threads put, one takes. Only messages are ever refused; all other events are few, and matter."""

    def __init__(self, max_waiting: int = MAX_MESSAGES) -> None:
        """Take at most ``max_waiting`` messages of one device, on all topics: who floods crowds out only himself."""
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._max_waiting = max_waiting
        self._waiting: dict[str, int] = {}
        """Messages by device; an entry is gone when the last of them is taken."""
        self._lock = threading.Lock()
        # Each is written by one thread only (the link's, the worker's), so no lock is needed; the difference of the
        # two may lag for a moment, on the safe side.
        self._bytes_in = 0
        self._bytes_out = 0
        self.dropped = 0
        """Messages of which only the shell was taken, because there was no room."""

    @property
    def fill(self) -> float:
        """How full it is, 0 to 1."""
        waiting_bytes = self._bytes_in - self._bytes_out
        return min(1.0, max(self._queue.qsize() / MAX_MESSAGES, waiting_bytes / MAX_BYTES))

    @property
    def waiting(self) -> int:
        """How many events are in it, about."""
        return self._queue.qsize()

    def deliver(self, event: LinkEvent) -> bool:
        """Take in what the link says (its thread only); False: the message was not taken, there is no room.

        Of a message that waits to be acknowledged a hollow one is taken then: its turn to be acknowledged comes after
        those before it, as MQTT demands. How many there can be is the broker's choice (Receive Maximum, 65,535).
        """
        if isinstance(event, Received):
            if self.fill >= 1.0 or not self._has_room(event.topic):
                if not event.mid:
                    return False
                self.dropped += 1
                event = hollow(event)
            self._bytes_in += len(event.payload)
        self._queue.put(event)
        return True

    def put(self, event: Event) -> None:
        """Take in an event of our own; from any thread, and from signal handlers."""
        self._queue.put(event)

    def take(self, timeout_s: float) -> list[Event]:
        """Return what is there, in order, at most a batch; wait for something at most ``timeout_s``."""
        events: list[Event] = []
        batch_bytes = 0
        try:
            event = self._queue.get(timeout=timeout_s) if timeout_s > 0 else self._queue.get_nowait()
            while True:
                events.append(event)
                batch_bytes += _size(event)
                if len(events) >= BATCH_EVENTS or batch_bytes >= BATCH_BYTES:
                    break
                event = self._queue.get_nowait()
        except queue.Empty:
            pass
        self._bytes_out += batch_bytes
        self._make_room(event.topic for event in events if isinstance(event, Received))
        return events

    def _has_room(self, topic: str) -> bool:
        """Count a message in, if there is room for another of its device."""
        sender = sender_of(topic)
        with self._lock:
            waiting = self._waiting.get(sender, 0)
            if waiting >= self._max_waiting:
                return False
            self._waiting[sender] = waiting + 1
            return True

    def _make_room(self, topics: Iterable[str]) -> None:
        with self._lock:
            for sender in map(sender_of, topics):
                waiting = self._waiting.get(sender, 0) - 1  # a hollow message was never counted in
                if waiting > 0:
                    self._waiting[sender] = waiting
                else:
                    self._waiting.pop(sender, None)


def hollow(received: Received) -> Received:
    """Return the message without what it says: it only waits to be acknowledged."""
    return replace(received, topic="", payload=b"")


def _size(event: Event) -> int:
    return len(event.payload) if isinstance(event, Received) else 0
