"""The samples on disk: a ring of rows in an SQLite file of its own, bounded in bytes, rows and age.

Rows have numbers that only grow, without gaps, so that the oldest and the newest number tell how many there are. The
newest row is never evicted: after it the next number is known, whatever else has gone.
"""

from __future__ import annotations

import math
import secrets
import sqlite3
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from device_agent.adapters.store import StoreCorruptError, StoreError, StoreWriteError
from device_agent.sensing.adapters import guesses
from device_agent.sensing.adapters.aside import is_corrupt, put_aside

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from device_agent.sensing.rows import BootTime, Row, Stretch
    from device_agent.sensing.sources import SamplesSettings

FILE_NAME = "samples.sqlite"
SCHEMA_VERSION = 1
EVICTED_SHARE = 64
"""Of too many rows one in so many goes: not a few with each commit, which would write more than it frees."""

FREE_SHARE = 4
"""When more than one page in so many is free at the start, the file is made smaller."""

SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE streams (id INTEGER PRIMARY KEY, source TEXT NOT NULL, channels TEXT NOT NULL)",
    # number: the how manieth of its source, without gaps.
    """CREATE TABLE samples (
        id INTEGER PRIMARY KEY, time REAL NOT NULL, stream INTEGER NOT NULL, number INTEGER NOT NULL,
        vals BLOB NOT NULL, label REAL)""",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is written together, or not at all."""

    rows: Sequence[Row] = ()
    stretches: Sequence[Stretch] = ()
    """Labels; they reach the rows of this batch, too."""
    progress: Mapping[str, bytes | None] | None = None
    """Positions of sources after these rows; None takes one back."""
    facts: bytes = b""
    """What is to be told of the sources; empty: as before."""
    at: BootTime | None = None
    """What the clocks say; None: all times are sure."""


class SampleStore:
    """The open store. One thread at a time uses it; ``newest``, ``oldest`` and ``labelled`` may be read by any."""

    def __init__(self, state_dir: Path, settings: SamplesSettings) -> None:
        """Open or create the store; a damaged file is renamed aside (``set_aside``), and a new one made.

        Raise ``StoreError`` when the file was written by a newer version, and ``StoreWriteError`` when the disk does
        not let it be opened: another time it may.
        """
        self.path = state_dir / FILE_NAME
        self.set_aside: Path | None = None
        self.identity = ""
        """Random, made with the file: the same number in another file is another row."""
        self.newest = self.oldest = 0
        """Numbers of rows; 0: there is none. ``newest`` is also how many there have ever been."""
        self.labelled = 0
        """How often labels were attached, or times mended, later."""
        self.guessing = False
        """Whether rows may get other times when somebody says what time it is."""
        self.largest_bytes = 0
        """How much the file has taken up at most since it was opened."""
        self._settings = settings
        self._streams: dict[tuple[str, tuple[str, ...]], int] = {}
        self._numbers: dict[str, int] = {}
        self._kept = guesses.Kept()
        self._open()

    @property
    def last_time(self) -> float:
        """Time of the newest row; 0: there is none."""
        found = self._db.execute("SELECT time FROM samples WHERE id = ?", (self.newest,)).fetchone()
        return float(found[0]) if found else 0.0

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.newest - self.oldest + 1 if self.newest else 0

    @property
    def used_bytes(self) -> int:
        """Bytes of the file that hold something."""
        return (self._pragma("page_count") - self._pragma("freelist_count")) * self._pragma("page_size")

    def verify(self) -> None:
        """Read the whole file; raise ``StoreCorruptError``. Takes seconds for a large one on a slow card."""
        try:
            fine = self._db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
        except sqlite3.Error as exc:
            if not is_corrupt(exc):
                return
            fine = False
        if not fine:
            raise StoreCorruptError(f"{self.path} is damaged")

    def begin_anew(self) -> None:
        """Rename the damaged file, and make a new one."""
        self._db.close()
        self.set_aside = put_aside(self.path)
        self._open()

    def position(self, source: str) -> bytes | None:
        """Return how far the source has been read, as it was stored with the last of its rows."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (f"at:{source}",)).fetchone()
        return bytes(found[0]) if found else None

    def mends(self, at: BootTime) -> bool:
        """Return whether the next ``append`` has better times for rows that are there."""
        return self.guessing and guesses.due(self._kept, at)

    def append(self, batch: Batch, now: float | None) -> int:
        """Write the batch in one transaction, synced to the disk, and evict what is too old, too many or too much.

        Return how many rows got a label later. ``now``: the wall clock, if it is set; without it nothing is too old.
        Raise ``StoreWriteError`` with nothing written, or ``StoreCorruptError``.
        """
        before = self.newest, self.oldest, dict(self._streams), dict(self._numbers)
        kept, moved = self._kept, 0
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if batch.at is not None:
                kept, moved = guesses.settle(self._db, kept, batch.at)
            self._insert(batch.rows, batch.at)
            attached = sum(map(self._attach, batch.stretches))
            self._set_meta({f"at:{name}": value for name, value in (batch.progress or {}).items()})
            if batch.facts:
                self._set_meta({"facts": batch.facts})
            if attached or moved:
                self._set_meta({"labelled": str(self.labelled + 1).encode()})
            self._evict(now)
            guessing = guesses.there_are(self._db)
            if kept != self._kept:
                self._set_meta({guesses.KEY: msgspec.json.encode(kept)})
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            self.newest, self.oldest, self._streams, self._numbers = before
            self._roll_back()
            if is_corrupt(exc):
                raise StoreCorruptError(f"{self.path} is damaged ({exc})") from exc
            raise StoreWriteError(str(exc)) from exc
        self.labelled += bool(attached or moved)
        self.guessing, self._kept = guessing, kept
        return attached

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # -- steps of a transaction

    def _insert(self, rows: Sequence[Row], at: BootTime | None) -> None:
        if not rows:
            return
        first = self.newest + 1
        self._db.executemany(
            "INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)",
            (
                (first + index, row.time, self._stream(row), self._number(row), pack(row.values), _or_null(row.label))
                for index, row in enumerate(rows)
            ),
        )
        if at is not None:
            guesses.remember(self._db, first, rows, at)
        self._set_meta({"numbers": msgspec.json.encode(self._numbers)})
        self.newest = first + len(rows) - 1
        self.oldest = self.oldest or first

    def _number(self, row: Row) -> int:
        number = self._numbers[row.source] = self._numbers.get(row.source, 0) + 1
        return number

    def _stream(self, row: Row) -> int:
        key = (row.source, row.channels)
        if key not in self._streams:
            number = max(self._streams.values(), default=0) + 1
            channels = msgspec.json.encode(row.channels).decode()
            self._db.execute("INSERT INTO streams VALUES (?, ?, ?)", (number, row.source, channels))
            self._streams[key] = number
        return self._streams[key]

    def _attach(self, stretch: Stretch) -> int:
        label = _or_null(stretch.label)
        chosen = "" if stretch.source is None else " AND stream IN (SELECT id FROM streams WHERE source = ?)"
        values: list[Any] = [label, stretch.start, stretch.until]
        done = self._db.execute(
            f"UPDATE samples SET label = ? WHERE time BETWEEN ? AND ? AND id NOT IN ({guesses.UNDATED}){chosen}",  # noqa: S608 - constants
            values if stretch.source is None else [*values, stretch.source],
        )
        return done.rowcount

    def _set_meta(self, values: Mapping[str, bytes | None]) -> None:
        for key, value in values.items():
            if value is None:
                self._db.execute("DELETE FROM meta WHERE key = ?", (key,))
            else:
                self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _evict(self, now: float | None) -> None:
        settings, step = self._settings, max(1, self.rows // EVICTED_SHARE)
        if self.rows > settings.max_rows:
            self._evict_to(self.newest - settings.max_rows + 1 + settings.max_rows // EVICTED_SHARE)
        if now is not None and settings.max_age_s:
            # Bounded in one go: a clock that is wrong for a moment must not cost everything.
            young = self._db.execute(
                "SELECT id FROM samples WHERE time >= ? OR id > ? ORDER BY id LIMIT 1",
                (now - settings.max_age_s, self.oldest + step + 1000),
            ).fetchone()
            self._evict_to(young[0] if young else self.newest)
        while self.used_bytes > settings.max_bytes and self.rows > 1:
            self._evict_to(self.oldest + max(1, self.rows // EVICTED_SHARE))
        self.largest_bytes = max(self.largest_bytes, self._pragma("page_count") * self._pragma("page_size"))

    def _evict_to(self, first: int) -> None:
        """Delete what is before this number, but never the newest row."""
        first = min(first, self.newest)
        if first > self.oldest:
            self._db.execute("DELETE FROM samples WHERE id < ?", (first,))
            guesses.forget(self._db, first)
            self.oldest = first

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            # Nothing was committed; the next BEGIN says what is wrong with the disk.
            return

    # -- opening

    def _open(self) -> None:
        try:
            self._open_file()
        except sqlite3.DatabaseError as exc:
            if isinstance(exc, sqlite3.OperationalError) and not is_corrupt(exc):
                raise StoreWriteError(f"{self.path} cannot be used: {exc}") from exc
            self.set_aside = put_aside(self.path)
            try:
                self._open_file()
            except sqlite3.Error as again:
                raise StoreWriteError(f"{self.path} cannot be made: {again}") from again

    def _open_file(self) -> None:
        # Opened by the worker, used by the sensing thread: never by both at once.
        db = sqlite3.connect(self.path, isolation_level=None, timeout=5.0, check_same_thread=False)
        try:
            self._prepare(db)
            self._streams = {(source, tuple(channels)): number for number, source, channels in streams_of(db)}
            meta = {key: bytes(value) for key, value in db.execute("SELECT key, value FROM meta")}
            self.identity = meta["identity"].decode()
            self.labelled = int(meta.get("labelled", b"0"))
            self._numbers = msgspec.json.decode(meta.get("numbers", b"{}"), type=dict[str, int])
            self.oldest, self.newest = db.execute(
                "SELECT ifnull(min(id), 0), ifnull(max(id), 0) FROM samples"
            ).fetchone()
            self.guessing, self._kept = guesses.there_are(db), guesses.kept_in(db)
        except (KeyError, ValueError, msgspec.DecodeError) as exc:
            db.close()
            raise sqlite3.DatabaseError(f"what is in it makes no sense: {exc}") from exc
        except BaseException:
            db.close()
            raise
        self._db = db

    def _prepare(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was written by a newer version of fedmq (schema {version}, this one knows"
                f" {SCHEMA_VERSION}): install that version again, or move the file away"
            )
        if version == 0:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        # FULL: with less, a power cut would take back more than commit_s, all that the log has not passed on yet.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 1048576")
        db.execute("PRAGMA wal_autocheckpoint = 256")
        if version == 0:
            _create(db)
        db.execute(guesses.TABLE)  # stores made before this was kept have none
        free, pages = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count"))
        if free > pages // FREE_SHARE:
            # Room that a lower limit has freed goes back to the file system. A script, for that is stepped to its end.
            db.executescript("PRAGMA incremental_vacuum")

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])


def pack(values: Sequence[float]) -> bytes:
    """Return the values as little-endian float32, which is how they are stored."""
    return struct.pack(f"<{len(values)}f", *values)


def _or_null(label: float) -> float | None:
    return None if math.isnan(label) else label


def streams_of(db: sqlite3.Connection) -> Iterable[tuple[int, str, list[str]]]:
    """Return number, source and channels of all kinds of rows."""
    for number, source, channels in db.execute("SELECT id, source, channels FROM streams").fetchall():
        yield number, source, msgspec.json.decode(channels, type=list[str])


def refuse_newer(state_dir: Path) -> None:
    """Raise ``StoreError`` when the store was written by a newer version. Reads 100 bytes, and changes nothing."""
    try:
        with (state_dir / FILE_NAME).open("rb") as file:
            head = file.read(64)
    except OSError:
        return
    version = int.from_bytes(head[60:64], "big") if head.startswith(b"SQLite format 3\0") else 0
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{state_dir / FILE_NAME} was written by a newer version of fedmq (schema {version}, this one knows"
            f" {SCHEMA_VERSION}): install that version again, or move the file away"
        )


def _create(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA:
        db.execute(statement)
    db.execute("INSERT INTO meta VALUES ('identity', ?)", (secrets.token_hex(8).encode(),))
    # user_version is part of the transaction: a kill in between leaves an empty file, which is made again.
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")
