"""The demo's eyes: shows the fleet from its topics, pauses it by a command, and sees when it has settled."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from fedmq.table import Caption
from protocol.messages import DeviceCommand, encode
from protocol.topics import EVERYBODY

if TYPE_CHECKING:
    from fedmq.display import Display
    from fedmq.watcher import Watcher

POLL_S = 0.1
REPEAT_S = 1.0
"""Who connects between two commands hears the next."""
METRICS_AGE_S = 2.5
"""So long after the pause, metrics (one a second) tell what was after it."""
STEADY_S = 6.0
"""An update that was asked to wait for the next version is sent again within five seconds; it may wait for ever now."""
AT_REST = frozenset({"idle", "sleeping", "stopped"})
AT_WORK = frozenset({"training", "fetching", "lost"})


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
        self._picture: list[tuple[object, ...]] = []
        self._steady_since = 0.0

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
        command = DeviceCommand(
            federation=view.federation, request_id=self._request_id, action="pause", target=EVERYBODY, issued=0
        )
        if self._watcher.publish(topics.command_all, encode(command)) and self._first_pause is None:
            self._first_pause = now

    def settled(self) -> bool:
        """Return whether no update is under way any more, as the topics tell.

        That is so when all devices rest with empty outboxes, or when those that have updates left are told to keep
        them for the next version, which will not come: then nothing has changed for ``STEADY_S``.
        """
        now = time.monotonic()
        if self._first_pause is None or now < self._first_pause + METRICS_AGE_S:
            return False
        rows = self._watcher.view.rows(now)
        picture: list[tuple[object, ...]] = [
            (row.device_id, row.state in AT_WORK, row.accepted, row.waiting) for row in rows
        ]
        if picture != self._picture:
            self._picture, self._steady_since = picture, now
        if all(row.state in AT_REST and not row.waiting for row in rows):
            return True
        return not any(row.state in AT_WORK for row in rows) and now >= self._steady_since + STEADY_S
