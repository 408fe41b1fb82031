"""Logging a failure that happens again and again: once, and then how often."""

from __future__ import annotations

import logging


class Repeats:
    """Logs a reason when it changes, and how often the one before had come; silence in between."""

    def __init__(self, log: logging.Logger, subject: str) -> None:
        self._log = log
        self._subject = subject
        self._reason = ""
        self._count = 0

    def note(self, reason: str, fault: Exception | None = None) -> None:
        """Log the reason, with the exception's traceback if there is one, unless it is the same as before."""
        if reason == self._reason:
            self._count += 1
            return
        self._flush()
        self._reason, self._count = reason, 0
        if fault is not None:
            self._log.error("%s: %s", self._subject, reason, exc_info=fault)
        else:
            self._log.warning("%s: %s", self._subject, reason)

    def over(self) -> None:
        """Log how often it had come, and take the next one for news again."""
        self._flush()
        self._reason = ""

    def _flush(self) -> None:
        if self._count:
            self._log.warning("%s: %s (%d more times)", self._subject, self._reason, self._count)
            self._count = 0
