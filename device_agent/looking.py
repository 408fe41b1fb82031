"""The look at the data file, from time to time."""

from __future__ import annotations

from device_agent.commands import CheckData

SLACK = 0.1
"""By this share of its interval it may be late."""


class Look:
    """Says when to look whether there are other data; never with an interval of 0."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._at: float | None = None

    def begin(self, now: float) -> None:
        """Look for the first time after one interval."""
        if self._interval_s > 0:
            self._at = now + self._interval_s

    def due(self, now: float) -> list[CheckData]:
        """Look, if it is time."""
        if self._at is None or now < self._at:
            return []
        self._at = now + self._interval_s
        return [CheckData()]

    @property
    def deadline(self) -> float | None:
        """When it has to be done at the latest."""
        # Nobody waits for it: when something else wakes the board soon, one wake-up is enough for both.
        return None if self._at is None else self._at + SLACK * self._interval_s
