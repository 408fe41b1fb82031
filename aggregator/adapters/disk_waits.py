"""How long to wait for a disk that does not take what is stored, and when it is said that it does again."""

from __future__ import annotations

from protocol.repetition import Tally

RETRY_MIN_S = 1.0
RETRY_MAX_S = 10.0
"""A full disk is tried again after waits that double between these."""


class DiskWaits:
    """One series of failures after the other."""

    def __init__(self) -> None:
        self._wait_s = RETRY_MIN_S
        self._failures = Tally()

    def failed(self, now: float) -> None:
        """Count a failure."""
        self._failures.note(now)

    def next_s(self) -> float:
        """Return the wait before the next attempt, and double the one after it."""
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, RETRY_MAX_S)
        return wait_s

    def works(self, now: float) -> str:
        """Begin with the shortest wait again; return how often it failed, in words, or nothing."""
        self._wait_s = RETRY_MIN_S
        return self._failures.take(now)
