"""What the wall clock is worth: boards without a battery start in 1970, or on the day on which they were switched off.

Pure: what the clocks say comes in as a ``Reading`` (``protocol.adapters.system_clock`` takes it). Deadlines never ask
here, they use the monotonic clock; this is for what does mean the date: certificates, hours, times of samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct

EARLIEST_S = 1_735_689_600
"""2025-01-01: nothing of this program was there before, so a clock that says less has not been set."""

SLACK_S = 300.0
"""So far a clock may be behind what it said before: a time server corrects what a cheap crystal got wrong."""

JUMP_S = 2.0
"""A clock that moved so far against the time since boot was set, by somebody or a time server; slewing is less."""

KEEP_EVERY_S = 6 * 3600.0
"""The last known time is written so often: four small files a day are nothing to a memory card."""

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class ClockSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[clock]`` table of both configuration files."""

    wait_s: Annotated[float, Meta(ge=0, le=1e7)] = 120.0
    """How long what needs the date waits for a clock that is not set, before it goes on as well as it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the clocks say at one moment; seconds."""

    wall: float
    """Since 1970, by CLOCK_REALTIME: may be anything."""
    since_boot: float
    """By CLOCK_BOOTTIME: only grows, also while the board is suspended; begins anew with each boot."""
    synchronized: bool | None
    """Whether a time service says that the clock is right; False: it says not yet; None: nobody says anything."""

    @property
    def offset(self) -> float:
        """What is to be added to a time since boot to have it since 1970, if the wall clock is right."""
        return self.wall - self.since_boot


class WallClock:
    """Judges readings by the last time that is known to have been; remembers that. One for a process."""

    def __init__(self, last_known: float = 0.0, *, wait_s: float = 120.0) -> None:
        """``last_known``: what ``keep`` said last, also before this boot; 0 when nothing did."""
        self.last_known = last_known
        self._kept = last_known
        self._wait_s = wait_s
        self._begun: float | None = None

    def plausible(self, reading: Reading) -> bool:
        """Whether it can be that late: not before this program was made, nor before a time that has been.

        A time service that is content is believed, whatever was known before.
        """
        return reading.wall >= EARLIEST_S and (
            reading.synchronized is True or reading.wall >= self.last_known - SLACK_S
        )

    def settled(self, reading: Reading) -> bool:
        """Whether it is plausible and is not about to be corrected, as far as one can know.

        A board without a battery starts with a date that was right once. Where a time service runs, it gets ``wait_s``
        from the first question on to set the clock; afterwards a plausible one has to do.
        """
        if self._begun is None:
            self._begun = reading.since_boot
        if not self.plausible(reading):
            return False
        return reading.synchronized is not False or reading.since_boot - self._begun >= self._wait_s

    def witness(self, wall: float) -> None:
        """Take note that somebody vouches for this time: a time service, or a broker whose certificate is valid now.

        It may be less than what was known: then that was wrong.
        """
        if wall >= EARLIEST_S:
            self.last_known = wall

    def keep(self) -> float | None:
        """Return the time to write down, now and then; None while what is written will do."""
        if not self._kept - SLACK_S <= self.last_known < self._kept + KEEP_EVERY_S:
            self._kept = self.last_known
            return self.last_known
        return None


def jumped(before: Reading, now: Reading) -> bool:
    """Return whether the wall clock was set between two readings of one boot."""
    return abs(now.offset - before.offset) > JUMP_S


def not_set(reading: Reading, last_known: float) -> str:
    """Return in words, for a clock that is not plausible, what it says and why that cannot be."""
    floor = max(EARLIEST_S, last_known)
    why = "it was later already" if last_known > EARLIEST_S else "this program is younger"
    return f"the clock says {moment(reading.wall)}, and cannot be right: {why} ({moment(floor)})"


def utc(seconds: float) -> datetime:
    """Return the time so many seconds after 1970; raise ``OverflowError`` or ``ValueError`` for what no calendar has.

    By addition: ``fromtimestamp`` and ``gmtime`` know nothing after 2038 on many 32-bit systems, where certificates
    last longer than that.
    """
    return _BEGINNING + timedelta(seconds=seconds)


def moment(seconds: float) -> str:
    """Return ``2025-01-31 12:00 UTC``."""
    try:
        return utc(seconds).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError):
        return f"{seconds:.0f} s since 1970"
