"""What time it is for samples, also on boards whose clock is set late, or never."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from device_agent.sensing.rows import BootTime, Moment
from protocol.adapters.system_clock import boot_id

if TYPE_CHECKING:
    from protocol.adapters.system_clock import SystemClock

LOOK_EVERY_S = 1.0
"""Whether the clock is set is asked no more often: that takes a look at a file."""


class SampleClock:
    """Stamps rows. Questions may come from any thread.

    Until the clock can be believed rows wait in memory, and get their times when it is set. When it is still not after
    ``clock.wait_s``, they are stored with times that go on from the newest stored row: right in their distances, and
    never later than the truth. The store remembers which these are, and those that were stored before a time service
    had its say, and mends them when the time is sure.
    """

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._begun = time.monotonic()
        self._base = clock.last_known
        self._boot = boot_id() or secrets.token_hex(8)
        self._set = self._sure = False
        self._looked_at = -LOOK_EVERY_S

    def go_on_from(self, last_time: float) -> None:
        """Take note of the time of the newest stored row."""
        self._base = max(self._base, last_time)

    def now(self) -> Moment:
        """Return the moment."""
        monotonic = time.monotonic()
        if monotonic - self._looked_at >= LOOK_EVERY_S:
            self._set = self._clock.settled()
            self._sure = self._set and self._clock.read().synchronized is not False
            self._looked_at = monotonic
        return Moment(monotonic, time.time() if self._set else self._guess(monotonic), self._set, self._sure)

    @property
    def settled(self) -> bool:
        """Whether rows can be stored: with the right time, or with the best that there will be."""
        moment = self.now()
        return moment.clock_set or moment.monotonic_s >= self._begun + self._clock.wait_s

    def boot_time(self) -> BootTime:
        """Return what the store has to know of the clocks."""
        moment, reading = self.now(), self._clock.read()
        return BootTime(
            boot=self._boot,
            awake=reading.since_boot - time.monotonic(),
            offset=reading.offset,
            dated=moment.clock_set,
            sure=moment.clock_sure,
        )

    def time_of(self, monotonic_s: float) -> float:
        """Return the time of a moment in the life of this process, as well as it is known now."""
        moment = self.now()
        return moment.wall_s - (moment.monotonic_s - monotonic_s)

    def _guess(self, monotonic_s: float) -> float:
        return self._base + 1.0 + (monotonic_s - self._begun)
