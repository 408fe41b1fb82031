"""What a link told its owner, for tests to wait for."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.link import LinkEvent

E = TypeVar("E")


class Inbox:
    """A ``deliver`` that keeps all events. Set ``react`` to do something in the link's thread before they are kept."""

    def __init__(self) -> None:
        self.react: Callable[[LinkEvent], bool] = lambda _event: True
        self._events: list[LinkEvent] = []
        self._changed = threading.Condition()
        self._seen: dict[type, int] = {}
        self._skipped = 0

    def __call__(self, event: LinkEvent) -> bool:
        taken = self.react(event)
        if taken:
            with self._changed:
                self._events.append(event)
                self._changed.notify_all()
        return taken

    def wait(
        self, kind: type[E], where: Callable[[E], bool] = lambda _event: True, *, timeout_s: float = PATIENCE_S
    ) -> E:
        """Return the next event of the kind for which ``where`` holds; others of the kind before it count as seen."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                while (place := max(self._seen.get(kind, 0), self._skipped)) < len(self._events):
                    event = self._events[place]
                    self._seen[kind] = place + 1
                    if isinstance(event, kind) and where(event):
                        return event
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise AssertionError(f"no such {kind.__name__} within {timeout_s} s; all: {self._events[-20:]}")
                self._changed.wait(left_s)

    def skip(self) -> None:
        """Count everything so far as seen: what is waited for is yet to come."""
        with self._changed:
            self._skipped = len(self._events)

    def all(self, kind: type[E]) -> list[E]:
        """Return all events of the kind so far, seen or not."""
        with self._changed:
            return [event for event in self._events if isinstance(event, kind)]

    def last(self, kind: type[E], where: Callable[[E], bool] = lambda _event: True) -> E | None:
        """Return the newest event of the kind for which ``where`` holds, seen or not; None: there was none."""
        with self._changed:
            return next((event for event in reversed(self._events) if isinstance(event, kind) and where(event)), None)
