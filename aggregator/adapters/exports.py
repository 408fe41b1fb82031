"""What was exported: the SHA-256 of every file that was made of a version, so that a file can be traced back to it.

A small database of its own beside the store: commands of operators write to it while the aggregator runs, and a file
found on a device years later may be of an epoch whose store was lost.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from aggregator.adapters.errors import StoreError
from aggregator.card import Export

EXPORTS_NAME = "exports.sqlite"
SCHEMA_VERSION = 1
APPLICATION_ID = 0x666D7165
"""``fmqe``."""

KEPT = 200_000
"""So many files are remembered: some 60 MB. The oldest go."""

BUSY_S = 10.0
"""So long a command waits for another one's transaction, of milliseconds."""

_TABLE = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS exports (
    position INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL, epoch TEXT NOT NULL, version INTEGER NOT NULL,
    file TEXT NOT NULL, format TEXT NOT NULL, weights TEXT NOT NULL, bytes INTEGER NOT NULL,
    parameters TEXT NOT NULL, calibration TEXT NOT NULL, made REAL NOT NULL,
    UNIQUE (sha256, epoch, version)
);
CREATE INDEX IF NOT EXISTS exports_of_version ON exports (epoch, version);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_COLUMNS = ", ".join(Export.__struct_fields__)


class ExportLog:
    """The exports of one state directory. Any process and thread may use it; each call is a transaction."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / EXPORTS_NAME

    def note(self, export: Export) -> None:
        """Remember a file; on the disk when this returns. Raise ``StoreError``, naming what is wrong.

        The same bytes of the same version again are one entry: that of the last time.
        """
        marks = ", ".join("?" * len(Export.__struct_fields__))
        row = tuple(getattr(export, name) for name in Export.__struct_fields__)
        with self._opened(writing=True) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute(f"INSERT OR REPLACE INTO exports ({_COLUMNS}) VALUES ({marks})", row)  # noqa: S608 - constants of ours
            db.execute("DELETE FROM exports WHERE position <= (SELECT max(position) FROM exports) - ?", (KEPT,))
            db.execute("COMMIT")

    def forget(self, export: Export) -> None:
        """Take back what could not be written after all."""
        identity = (export.sha256, export.epoch, export.version)
        with self._opened(writing=True) as db:
            db.execute("DELETE FROM exports WHERE sha256 = ? AND epoch = ? AND version = ?", identity)

    def of_version(self, epoch: str, version: int) -> list[Export]:
        """Return the files made of a version, the newest last; raise ``StoreError``."""
        return self._found("epoch = ? AND version = ?", (epoch, version))

    def of_file(self, sha256: str) -> list[Export]:
        """Return the versions that a file with this digest was made of, the newest last; raise ``StoreError``."""
        return self._found("sha256 = ?", (sha256,))

    def _found(self, where: str, values: tuple[object, ...]) -> list[Export]:
        if not self._path.exists():
            return []
        query = f"SELECT {_COLUMNS} FROM exports WHERE {where} ORDER BY position"  # noqa: S608 - constants of ours
        with self._opened(writing=False) as db:
            # Without a schema: somebody is about to write the first one.
            rows = db.execute(query, values).fetchall() if _schema(db) else []
        return [Export(**dict(zip(Export.__struct_fields__, row, strict=True))) for row in rows]

    @contextmanager
    def _opened(self, *, writing: bool) -> Iterator[sqlite3.Connection]:
        try:
            if writing:
                _make(self._path)
            mode = "rw" if writing else "ro"
            uri = f"{self._path.absolute().as_uri()}?mode={mode}"
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_S)) as db:
                db.execute("PRAGMA synchronous = FULL")
                if writing and _schema(db) == 0:
                    db.executescript(_TABLE)
                _check(db, self._path)
                yield db
        except (sqlite3.Error, OSError) as exc:
            raise StoreError(f"{self._path}, where the hashes of exported files are kept: {exc}") from exc


def _make(path: Path) -> None:
    """Make an empty file for its directory's owner: the aggregator must be able to write what root has begun."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        owner = path.parent.stat()
        if os.geteuid() == 0:
            os.fchown(file, owner.st_uid, owner.st_gid)
    finally:
        os.close(file)


def _schema(db: sqlite3.Connection) -> int:
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    return found


def _check(db: sqlite3.Connection, path: Path) -> None:
    application = db.execute("PRAGMA application_id").fetchone()[0]
    if (application, _schema(db)) not in {(APPLICATION_ID, SCHEMA_VERSION), (0, 0)}:
        raise sqlite3.DatabaseError(f"not written by this version of fedmq (schema {_schema(db)}); move {path} away")
