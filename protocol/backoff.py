"""How long to wait before the next attempt: full-jitter exponential backoff."""

from __future__ import annotations

import random

_STEADY_CEILINGS = 10
"""A success counts as lasting when it outlived this many times the current ceiling of the waits."""


class Backoff:
    """Waits drawn uniformly from 0 to a ceiling that doubles from ``min_s`` to ``max_s``.

    "Full jitter" of Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): of the usual variants it
    spreads a fleet that was cut off at one moment most evenly. Chance comes from ``rng`` alone.
    """

    def __init__(self, min_s: float, max_s: float, rng: random.Random) -> None:
        if not min_s > 0:
            raise ValueError(f"the shortest ceiling must be above 0, not {min_s}")
        self._min_s = min_s
        self._max_s = max(min_s, max_s)
        self._rng = rng
        self._ceiling_s = min_s

    @property
    def ceiling_s(self) -> float:
        """The longest that the next wait can be."""
        return self._ceiling_s

    def next_s(self) -> float:
        """Return the wait before the next attempt, and double the ceiling of the one after it."""
        wait_s = self._rng.uniform(0.0, self._ceiling_s)
        self._ceiling_s = min(2.0 * self._ceiling_s, self._max_s)
        return wait_s

    def reset(self) -> None:
        """Start again from the shortest ceiling."""
        self._ceiling_s = self._min_s

    def lasted(self, duration_s: float) -> bool:
        """Start again if the success that has just ended was a lasting one; return whether it was.

        Not at once on success: a broker that accepts connections and drops them would be hammered for ever.
        """
        if duration_s < min(_STEADY_CEILINGS * self._ceiling_s, self._max_s):
            return False
        self.reset()
        return True
