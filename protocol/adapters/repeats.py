"""Logging a failure that happens again and again: at first, at widening intervals with a count, and that it is over."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from protocol.repetition import Repetition, Tally

if TYPE_CHECKING:
    from collections.abc import Callable


class Repeats:
    """Paces what it logs itself, since it knows when the failure is over; the log's own pacing lets that through."""

    def __init__(self, log: logging.Logger, subject: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._subject = subject
        self._clock = clock
        self._pace = Repetition(calm_below=0, silent_below=0)
        self._tally = Tally()

    def note(self, reason: str, fault: Exception | None = None) -> None:
        """Log the reason, with the exception's traceback if there is one, unless it was said not long ago."""
        now = self._clock()
        self._tally.note(now)
        level = logging.WARNING if fault is None else logging.ERROR
        verdict = self._pace.note(level, reason, now)
        if verdict.said:
            text = f"{self._subject}: {reason}{verdict.more}"
            self._log.log(level, text, exc_info=fault, extra={"paced": True})

    def tally(self) -> str:
        """Return how often it happened since the last call, as `` after 37 failures in 10 min``; empty: it did not."""
        return self._tally.take(self._clock())

    def over(self) -> None:
        """Take the next one for news again."""
        self._pace.forget()
