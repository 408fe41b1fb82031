"""How long devices are asked to wait, told in their receipts."""

from __future__ import annotations

MIN_RETRY_S = 0.05
MAX_RETRY_S = 60.0
BUSY = 0.5
"""Fill of the inbox from which devices are asked to slow down."""
BUSY_WAIT_S = 10.0
MAX_REST_S = 86_400.0
"""However low the wanted rate: a device that is told to come back in a year never does."""


class Pace:
    """Follows how fast versions come, and spreads the fleet when a rate is set or the inbox fills."""

    def __init__(self, updates_per_s: float) -> None:
        self._target_rate = updates_per_s
        self._last_version_at: float | None = None
        self._version_interval_s = 1.0

    def version_made(self, now: float) -> None:
        """Take the time between versions into a running mean (weight 1/4 for the newest)."""
        if self._last_version_at is not None:
            self._version_interval_s += 0.25 * (now - self._last_version_at - self._version_interval_s)
        self._last_version_at = now

    def retry_after_s(self) -> float:
        """Return when a device that has its share of the open version should try again: about half a version later."""
        return min(MAX_RETRY_S, max(MIN_RETRY_S, self._version_interval_s / 2))

    def next_after_s(self, online: int, load: float) -> float:
        """Return the rest between a device's receipt and its next training, for ``online`` devices at this load."""
        spread = online / self._target_rate if self._target_rate else 0.0
        congestion = BUSY_WAIT_S * (load - BUSY) / (1.0 - BUSY) if load > BUSY else 0.0
        return min(MAX_REST_S, spread + congestion)
