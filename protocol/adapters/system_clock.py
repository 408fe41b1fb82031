"""The clocks of this machine, and the last time that is known to have been, in a file."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.clock import EARLIEST_S, Reading, WallClock, not_set

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = "clock"
"""In ``state_dir``: one line, seconds since 1970. May be deleted at any time."""

TIMESYNC = Path("/run/systemd/timesync")
"""systemd-timesyncd, the time service of Debian and Raspberry Pi OS, makes ``synchronized`` in it once it has the time.

adjtimex(2), which would know of other services, is refused by ``ProtectClock=`` in the units.
"""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

MAX_FILE_BYTES = 64
LATEST_S = 253_402_300_800.0
"""The year 10000: what is in the file may be damaged."""


def read_clocks() -> Reading:
    """Return what the clocks say now."""
    return Reading(
        wall=time.time(), since_boot=time.clock_gettime(time.CLOCK_BOOTTIME), synchronized=_synchronized(TIMESYNC)
    )


def boot_id() -> str:
    """Return the name of this boot; empty where the kernel does not tell."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


class SystemClock:
    """The wall clock, judged. Questions may come from any thread; ``witness`` and ``close`` are the owner's."""

    def __init__(self, state_dir: Path, *, wait_s: float, read: Callable[[], Reading] | None = None) -> None:
        """Read the last known time from ``state_dir``, if it is there; never fails."""
        self._path = state_dir / FILE
        self._read = read or read_clocks
        self._judge = WallClock(_known(self._path), wait_s=wait_s)
        self.wait_s = wait_s

    def read(self) -> Reading:
        """Return what the clocks say now."""
        return self._read()

    @property
    def last_known(self) -> float:
        """The last time that somebody vouched for, in seconds since 1970; 0 = none."""
        return self._judge.last_known

    def plausible(self) -> bool:
        """Whether the clock may be believed; see ``WallClock.plausible``."""
        return self._judge.plausible(self._read())

    def settled(self) -> bool:
        """Whether the clock may be believed, and stays as it is; see ``WallClock.settled``."""
        return self._judge.settled(self._read())

    def complaint(self) -> str:
        """Return in words why the clock cannot be right; empty when it is plausible."""
        reading = self._read()
        return "" if self._judge.plausible(reading) else not_set(reading, self._judge.last_known)

    def witness(self, *, vouched: bool = False) -> None:
        """Take note of the time when somebody vouches for it: a time service, or (``vouched``) the caller.

        Writes the file at most every few hours. A file that cannot be written costs nothing but what it is for.
        """
        reading = self._read()
        if vouched or reading.synchronized:
            self._judge.witness(reading.wall)
            kept = self._judge.keep()
            if kept is not None:
                _write(self._path, kept)


def _synchronized(folder: Path) -> bool | None:
    try:
        return True if (folder / "synchronized").exists() else (False if folder.is_dir() else None)
    except OSError:
        return None


def _known(path: Path) -> float:
    try:
        with path.open("rb") as file:
            known = float(int(file.read(MAX_FILE_BYTES)))
    except (OSError, ValueError):
        return 0.0
    return known if EARLIEST_S <= known < LATEST_S else 0.0


def _write(path: Path, known: float) -> None:
    aside = path.with_name(f"{path.name}.new")
    # Not synced: after a power cut the one before, or none, does nearly as well.
    with contextlib.suppress(OSError):
        aside.write_text(f"{int(known)}\n", encoding="ascii")
        os.replace(aside, path)  # noqa: PTH105 - as everywhere: the moment that counts
