"""How many rows a source may bring: a bucket of tokens, so that a flood costs neither memory nor disk."""

from __future__ import annotations

BURST_S = 2.0
"""So much of its rate may come at once; at least ten rows."""

MIN_BURST = 10.0


class Pace:
    """A rate with bursts. Times are seconds of one monotonic clock."""

    def __init__(self, rows_per_s: float) -> None:
        self._rate = rows_per_s
        self._size = max(MIN_BURST, rows_per_s * BURST_S)
        self._tokens = self._size
        self._at: float | None = None

    def allows(self, now: float) -> bool:
        """Return whether one more is fine now, and count it if so."""
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._tokens = min(self._size, self._tokens + passed * self._rate)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
