"""Rows whose time is not sure, in the sample store: shifted when somebody says what time it is, in the same boot.

A row of this kind has an entry beside it, with the seconds since boot at which it came. Those are right against each
other whatever is done to the date, so once that is sure, one offset makes all of them right. What a boot leaves that
was never told the time stays as it was guessed: nobody knows any more when that boot was. All within the transactions
of the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from protocol.clock import JUMP_S

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from device_agent.sensing.rows import BootTime, Row

# since_boot: NULL for rows of a boot that is over. dated: the clock said a date that can be, perhaps not the right one.
TABLE = """CREATE TABLE IF NOT EXISTS guesses (
    id INTEGER PRIMARY KEY, since_boot REAL, dated INTEGER NOT NULL)"""

KEY = "guesses"

UNDATED = "SELECT id FROM guesses WHERE NOT dated"
"""Rows whose time was not even on a clock: no label for a stretch of time is meant for them."""


class Kept(Struct, frozen=True, kw_only=True):
    """What is known of the rows that are no surer than a guess; kept in the store, under ``KEY``."""

    boot: str = ""
    """Of which boot they are."""
    offset: float | None = None
    """Seconds from that boot's beginning to 1970 by which their times were made; None: no clock knew."""


def kept_in(db: sqlite3.Connection) -> Kept:
    """Return what is kept; raise ``msgspec.DecodeError``."""
    found = db.execute("SELECT value FROM meta WHERE key = ?", (KEY,)).fetchone()
    return Kept() if found is None else msgspec.json.decode(bytes(found[0]), type=Kept)


def there_are(db: sqlite3.Connection) -> bool:
    """Return whether rows wait for the right time, of this boot or of the one before."""
    return db.execute("SELECT 1 FROM guesses WHERE since_boot IS NOT NULL LIMIT 1").fetchone() is not None


def settle(db: sqlite3.Connection, kept: Kept, at: BootTime) -> tuple[Kept, int]:
    """Give the rows of this boot better times, if there are any; return what to keep, and how many rows were moved.

    Call it before rows are added, so that those come behind. Rows of an earlier boot are left as they are, for good.
    """
    if kept.boot != at.boot:
        db.execute("DELETE FROM guesses WHERE dated AND since_boot IS NOT NULL")
        db.execute("UPDATE guesses SET since_boot = NULL WHERE since_boot IS NOT NULL")
        kept = Kept(boot=at.boot)
    if not at.dated or not due(kept, at):
        return kept, 0
    # What is hardly wrong was only slewed, and is better left alone than moved against its neighbours.
    moved = db.execute(
        "UPDATE samples SET time = found.since_boot + ? FROM guesses AS found WHERE found.id = samples.id"
        " AND found.since_boot IS NOT NULL AND abs(found.since_boot + ? - samples.time) > ?",
        (at.offset, at.offset, JUMP_S),
    ).rowcount
    if at.sure:
        db.execute("DELETE FROM guesses WHERE since_boot IS NOT NULL")
    else:
        db.execute("UPDATE guesses SET dated = 1 WHERE since_boot IS NOT NULL AND NOT dated")
    return Kept(boot=at.boot, offset=at.offset), moved


def due(kept: Kept, at: BootTime) -> bool:
    """Return whether ``settle`` has something to do for rows that are there."""
    known = kept.boot == at.boot and kept.offset is not None and abs(kept.offset - at.offset) <= JUMP_S
    return at.sure or (at.dated and not known)


def remember(db: sqlite3.Connection, first: int, rows: Sequence[Row], at: BootTime) -> None:
    """Note which of these rows, numbered from ``first`` on, have times that are not sure."""
    if at.sure:
        return
    db.executemany(
        "INSERT INTO guesses VALUES (?, ?, ?)",
        (
            (first + index, row.arrived + at.awake, at.dated)
            for index, row in enumerate(rows)
            if row.arrived is not None
        ),
    )


def forget(db: sqlite3.Connection, first: int) -> None:
    """Forget rows that are evicted: all before this number."""
    db.execute("DELETE FROM guesses WHERE id < ?", (first,))
