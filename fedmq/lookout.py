"""The demo's eyes: shows the fleet from its topics, has it paused, and sees when it has settled."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.adapters.control import CommandRequest, ControlFailed, NotRunning, SurveyRequest, ask
from aggregator.adapters.errors import StoreError
from aggregator.adapters.registry import NotKept, open_registry
from fedmq.answers import read_answers
from fedmq.table import Caption

if TYPE_CHECKING:
    from pathlib import Path

    from fedmq.display import Display
    from fedmq.strangers import Strangers
    from fedmq.watcher import Watcher

POLL_S = 0.1
REPEAT_S = 1.0
"""Who connects between two commands hears the next."""
METRICS_AGE_S = 2.5
"""So long after the pause, metrics (one a second) tell what was after it."""
STEADY_S = 6.0
"""An update that was asked to wait for the next version is sent again within five seconds; it may wait for ever now."""
AWAY = frozenset({"stopped", "lost", "sleeping"})
AT_REST = frozenset({"idle", "sleeping", "stopped"})
AT_WORK = frozenset({"training", "fetching", "lost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Backdrop:
    """What stays the same in all pictures."""

    broker: str
    reference: float | None
    """What one device alone comes to; None: nothing to compare with."""
    security: str = ""


class Lookout:
    """Watches and shows one federation, and has it paused as an operator would: by its aggregator, in ``state_dir``."""

    def __init__(
        self,
        watcher: Watcher,
        display: Display,
        state_dir: Path,
        backdrop: Backdrop,
        strangers: Strangers | None = None,
        *,
        examined: Path | None = None,
    ) -> None:
        self._watcher = watcher
        self._display = display
        self._state_dir = state_dir
        self._backdrop = backdrop
        self._strangers = strangers
        self._examined = examined
        self.survey = ""
        """In which the fleet says how large its errors are; empty: it was not asked."""
        self._first_pause: float | None = None
        self._next_pause = 0.0
        self._picture: list[tuple[object, ...]] = []
        self._steady_since = 0.0

    def look(self, elapsed_s: float, note: str) -> None:
        """Take in what comes within ``POLL_S`` and show it."""
        self._watcher.poll(POLL_S)
        self._look_at_strangers()
        backdrop = self._backdrop
        caption = Caption(
            broker=backdrop.broker,
            note=note,
            reference=backdrop.reference,
            reference_name="one device alone",
            security=backdrop.security,
            answers=read_answers(self._examined) if self._examined else None,
        )
        self._display.show(self._watcher.view, caption, elapsed_s, time.monotonic())

    def let_strangers_knock(self) -> None:
        """Send them to the broker, if there are any, and they have not been there yet."""
        if self._strangers is not None and not self._strangers.called:
            self._strangers.call()

    @property
    def version(self) -> int:
        """The newest that was heard of."""
        return self._watcher.view.summary().version or 0

    def errors_told(self, *, enough: bool) -> bool:
        """Ask the fleet, once, how large its errors are; return whether everybody who is there has answered.

        Of those who are there one is ``enough``, when it is time.

        To be called again and again: an aggregator that was killed is asked when it is back.
        """
        try:
            if not self.survey:
                self.survey = str(ask(self._state_dir, SurveyRequest(kind="evaluation"))["survey"])
            with open_registry(self._state_dir) as registry:
                answered = registry.survey(self.survey).devices
        except (NotRunning, ControlFailed, StoreError, NotKept):
            return False
        there = sum(row.state not in AWAY for row in self._watcher.view.rows(time.monotonic()))
        return answered >= (1 if enough else max(1, there))

    def _look_at_strangers(self) -> None:
        for knock in self._strangers.poll() if self._strangers is not None else ():
            self._display.say(f"{'✔ refused' if knock.refused else '✘ LET IN'}: {knock.who}")

    def pause(self) -> None:
        """Tell all devices to begin no new training; to be called again and again, it tells every ``REPEAT_S``."""
        now = time.monotonic()
        if now < self._next_pause:
            return
        self._next_pause = now + REPEAT_S
        try:
            ask(self._state_dir, CommandRequest(device=None, action="pause"))
        except (NotRunning, ControlFailed):
            return  # it has been killed just now, or has lost its broker
        if self._first_pause is None:
            self._first_pause = now

    def settled(self) -> bool:
        """Return whether no update is under way any more, as the topics tell, and no stranger.

        That is so when all devices rest with empty outboxes, or when those that have updates left are told to keep
        them for the next version, which will not come: then nothing has changed for ``STEADY_S``.
        """
        now = time.monotonic()
        if self._first_pause is None or now < self._first_pause + METRICS_AGE_S:
            return False
        if self._strangers is not None and not self._strangers.done:
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
