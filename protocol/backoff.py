"""How long to wait before the next attempt: full-jitter exponential backoff."""

from __future__ import annotations

import random

_STEADY_CEILINGS = 10
"""A success counts as lasting when it outlived this many times the current ceiling of the waits."""


def full_jitter(rng: random.Random, failures: int, first_s: float, max_s: float) -> float:
    """Return a wait in seconds, uniform from 0 to ``min(max_s, first_s * 2**failures)``.

    "Full jitter" of Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): of the usual variants it
    spreads a fleet that was cut off at one moment most evenly.
    """
    return rng.uniform(0.0, _ceiling_s(failures, first_s, max_s))


def _ceiling_s(failures: int, first_s: float, max_s: float) -> float:
    return min(max_s, first_s * 2.0 ** min(failures, 60))


class Backoff:
    """Waits by ``full_jitter`` for one series of attempts: the ceiling doubles from ``min_s`` to ``max_s``.

    Chance comes from ``rng`` alone.
    """

    def __init__(self, min_s: float, max_s: float, rng: random.Random) -> None:
        if not min_s > 0:
            raise ValueError(f"the shortest ceiling must be above 0, not {min_s}")
        self._min_s = min_s
        self._max_s = max(min_s, max_s)
        self._rng = rng
        self._failures = 0

    @property
    def ceiling_s(self) -> float:
        """The longest that the next wait can be."""
        return _ceiling_s(self._failures, self._min_s, self._max_s)

    def next_s(self) -> float:
        """Return the wait before the next attempt, and double the ceiling of the one after it."""
        wait_s = full_jitter(self._rng, self._failures, self._min_s, self._max_s)
        self._failures += 1
        return wait_s

    def reset(self) -> None:
        """Start again from the shortest ceiling."""
        self._failures = 0

    def lasted(self, duration_s: float) -> bool:
        """Start again if the success that has just ended was a lasting one; return whether it was.

        Not at once on success: a broker that accepts connections and drops them would be hammered for ever.
        """
        if duration_s < min(_STEADY_CEILINGS * self.ceiling_s, self._max_s):
            return False
        self.reset()
        return True
