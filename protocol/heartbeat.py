"""Whether a silent connection is still alive: when to ping, and when to give it up."""

from __future__ import annotations

from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["alive", "ping", "dead"]


class Heartbeat:
    """The clock-free half of MQTT's keep-alive, for links so slow that a ping waits behind a chunk for a minute.

    A ping is due when either direction was quiet for 0.75 keep-alives; the connection is dead when the ping is not
    answered within as much again: 1.5 in all, the patience that MQTT asks of brokers. While the ping itself waits
    behind other bytes, those have to move on: each time the peer's TCP takes some, the patience begins anew.
    """

    def __init__(self, keepalive_s: float, now: float) -> None:
        self._patience_s = 0.75 * keepalive_s
        self._last_in = now
        self._last_out = now
        self._taken = 0
        self._ping_end: int | None = None
        self._delivered = False

    def received(self, now: float) -> bool:
        """Note that bytes came in: whatever they are, they answer a ping. Return whether one was unanswered.

        Then ``next_check`` is later than it was: who keeps the timer would wake up for nothing.
        """
        awaited = self._ping_end is not None
        self._last_in = now
        self._ping_end = None
        return awaited

    def check(self, now: float, taken_bytes: int) -> Verdict:
        """Judge the connection; ``taken_bytes`` is how much the peer's TCP has acknowledged since the beginning."""
        progress = taken_bytes > self._taken
        self._taken = taken_bytes
        if self._ping_end is None:
            if progress:
                self._last_out = now
            return "ping" if now >= self._ping_at else "alive"
        if progress and not self._delivered:
            self._last_out = now
            self._delivered = taken_bytes >= self._ping_end
        return "dead" if now >= self._last_out + self._patience_s else "alive"

    def pinged(self, now: float, end_bytes: int) -> None:
        """Note that a ping was written; ``end_bytes`` is the position in the outgoing bytes at which it ends."""
        self._ping_end = end_bytes
        self._delivered = False
        self._last_out = now

    def next_check(self, now: float) -> float:
        """Return when to call ``check`` again."""
        if self._ping_end is None:
            return max(self._ping_at, now)
        # Progress is only seen when somebody looks.
        return now + self._patience_s / 4

    @property
    def _ping_at(self) -> float:
        return min(self._last_in, self._last_out) + self._patience_s
