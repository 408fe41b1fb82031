"""Rows on their way to the disk: bounded, in order, together with the positions of the files they came from."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace

from device_agent.sensing.rows import Row, Stretch

MAX_ROWS = 8192
"""About 2 MB. A disk that takes nothing for a while costs samples beyond these, never memory."""

WRITE_AT = 4096
"""So many are written at once, without waiting for ``commit_s``."""

MAX_STRETCHES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be written in one transaction."""

    rows: list[Row] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    progress: dict[str, bytes | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.rows or self.stretches or self.progress)


class Waiting:
    """Not thread-safe: its owner has a lock."""

    def __init__(self) -> None:
        self._load = Load()
        self._writing = Load()
        self.since: float | None = None
        """Monotonic seconds at which the oldest of what waits came; None: nothing waits."""

    @property
    def full(self) -> bool:
        """Whether no more rows are taken from those who can wait."""
        return len(self._load.rows) + len(self._writing.rows) >= MAX_ROWS

    @property
    def pressing(self) -> bool:
        """Whether there is so much that it is not to wait."""
        return len(self._load.rows) >= WRITE_AT

    @property
    def size(self) -> int:
        """How many rows wait."""
        return len(self._load.rows) + len(self._writing.rows)

    def put(self, item: Row | Stretch, now: float) -> bool:
        """Take what somebody sent; False: there is no room for it."""
        if isinstance(item, Row):
            if self.full:
                return False
            self._load.rows.append(item)
        else:
            if len(self._load.stretches) >= MAX_STRETCHES:
                return False
            self._load.stretches.append(item)
        self._begin(now)
        return True

    def put_read(self, rows: list[Row], source: str, position: bytes, now: float) -> None:
        """Take what was read from a file up to the position. Look at ``full`` before reading."""
        self._load.rows.extend(rows)
        self._load.progress[source] = position
        self._begin(now)

    def take(self) -> Load:
        """Return everything, to be written: again what could not be written the last time, and what came since."""
        before, now = self._writing, self._load
        self._writing = Load(
            rows=before.rows + now.rows,
            stretches=before.stretches + now.stretches,
            progress=before.progress | now.progress,
        )
        self._load = Load()
        self.since = None
        return self._writing

    def written(self) -> None:
        """Forget what was taken: it is on the disk."""
        self._writing = Load()

    def not_written(self, now: float) -> None:
        """Have what was taken wait again: it is not on the disk."""
        self._begin(now)

    def forget(self, sources: Container[str]) -> None:
        """Drop what came from these: it will be read again from the beginning."""
        for load in (self._writing, self._load):
            load.rows[:] = [row for row in load.rows if row.source not in sources]
            load.progress.clear()

    def _begin(self, now: float) -> None:
        if self.since is None:
            self.since = now


def mended(rows: list[Row], time_of: Callable[[float], float]) -> list[Row]:
    """Return the rows, with the best times that there are now for those that came while the clock was not sure.

    ``time_of`` takes monotonic seconds.
    """
    return [row if row.arrived is None else replace(row, time=time_of(row.arrived)) for row in rows]
