"""The demo's eyes: shows the fleet from its topics, pauses it by a command, and sees when it has settled."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from fedmq.table import Caption
from protocol.messages import DeviceCommand, encode

if TYPE_CHECKING:
    from fedmq.display import Display
    from fedmq.fleet import DeviceRow
    from fedmq.watcher import Watcher

POLL_S = 0.1
REPEAT_S = 1.0
"""Who connects between two commands hears the next."""
METRICS_AGE_S = 2.5
"""So long after the pause, metrics (one a second) tell what was after it."""
AT_REST = frozenset({"idle", "sleeping", "stopped"})


class Lookout:
    """Watches, shows and pauses one federation."""

    def __init__(self, watcher: Watcher, display: Display, broker: str, reference: float) -> None:
        self._watcher = watcher
        self._display = display
        self._broker = broker
        self._reference = reference
        self._request_id = secrets.token_hex(8)
        self._first_pause: float | None = None
        self._next_pause = 0.0

    def look(self, elapsed_s: float, note: str) -> None:
        """Take in what comes within ``POLL_S`` and show it."""
        self._watcher.poll(POLL_S)
        caption = Caption(broker=self._broker, note=note, reference=self._reference, reference_name="one device alone")
        self._display.show(self._watcher.view, caption, elapsed_s, time.monotonic())

    def pause(self) -> None:
        """Tell all devices to begin no new training; to be called again and again, it tells every ``REPEAT_S``."""
        now = time.monotonic()
        if now < self._next_pause:
            return
        self._next_pause = now + REPEAT_S
        view, topics = self._watcher.view, self._watcher.topics
        # With the same id each time: a device obeys it once.
        command = DeviceCommand(federation=view.federation, request_id=self._request_id, action="pause")
        if self._watcher.publish(topics.command_all, encode(command)) and self._first_pause is None:
            self._first_pause = now

    def settled(self) -> bool:
        """Return whether all devices rest with empty outboxes, as their topics say."""
        now = time.monotonic()
        if self._first_pause is None or now < self._first_pause + METRICS_AGE_S:
            return False
        return all(_at_rest(row) for row in self._watcher.view.rows(now))


def _at_rest(row: DeviceRow) -> bool:
    return row.state in AT_REST and not row.waiting
