"""A sensor that hangs: it goes on sending, and always the same."""

from __future__ import annotations

MIN_VALUES = 3
"""Fewer, however far apart, prove nothing."""


class FreezeWatch:
    """Watches one channel that cannot stand still.

    It is frozen when at least three values in a row, over at least ``freeze_s``, were exactly the same; the first other
    value ends that. Missing values say nothing. Times are those of the rows, so that a backlog is judged as it was.
    """

    def __init__(self, freeze_s: float) -> None:
        self._freeze_s = freeze_s
        self._value: float | None = None
        self._since = 0.0
        self._count = 0
        self.frozen = False

    def see(self, value: float, time: float) -> bool:
        """Take in a value that is there; return whether the channel is frozen, this value included."""
        if value != self._value:
            self._value, self._since, self._count = value, time, 0
        self._since = min(self._since, time)
        self._count += 1
        self.frozen = self._count >= MIN_VALUES and time - self._since >= self._freeze_s
        return self.frozen
