"""The aggregator's database: tables, pragmas, and the ways to open it.

What outside readers may rely on (open it with ``mode=ro``; it can be read while the aggregator runs):

* The identity of an update is ``(device, incarnation, sequence)``. ``lineage`` and ``journal`` together hold every
  accepted identity exactly once: an update lies in ``journal`` while its buffer is open, and in ``lineage`` once that
  buffer has ended, as a version, withheld, set aside by a rollback, or as a candidate (``aggregations.outcome``), which
  becomes a version or is withdrawn. Nothing else leaves either table, save lineage older than
  ``registry.keep_lineage`` aggregations.
* ``sequences`` holds the last accepted sequence of each device and incarnation, in the same transaction.
* ``versions`` are consecutive from the first one of the epoch; ``meta.epoch`` names the history that they belong to.

Metrics are JSON objects; ``devices.record`` and ``meta`` values are msgpack or text, private to the aggregator.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

DATABASE_NAME = "aggregator.sqlite"
SCHEMA_VERSION = 6
APPLICATION_ID = 0x666D7161
"""``fmqa``: tells our file from any other SQLite database, before anything is read from it."""

PAGE_BYTES = 8192
"""An int8 delta of 10k parameters takes two pages, one of float32 five: those of small batches, see ``deltas``."""

WAL_PAGES = 2000
"""The log is taken into the database each 16 MB: often enough that no commit waits long for it (some 20 ms)."""

WAL_KEPT_BYTES = 64 * 1024 * 1024
"""After a long read held up that work, the log is cut to this again."""

TABLES = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};

CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;

-- The open buffer, in the order in which it was folded. The delta comes behind what others read: they skip its pages.
-- It is empty when the bytes lie in a file beside the database (see ``deltas``); the last columns say where.
CREATE TABLE journal (
    position INTEGER PRIMARY KEY,
    device TEXT NOT NULL, incarnation TEXT NOT NULL, sequence INTEGER NOT NULL,
    base_version INTEGER NOT NULL, staleness INTEGER NOT NULL,
    num_examples INTEGER NOT NULL, num_steps INTEGER NOT NULL,
    weight REAL NOT NULL, update_bytes INTEGER NOT NULL, metrics TEXT NOT NULL, clip REAL NOT NULL DEFAULT 1.0,
    codec TEXT NOT NULL, delta BLOB NOT NULL,
    delta_file INTEGER, delta_offset INTEGER, delta_size INTEGER, delta_sum INTEGER
);

CREATE TABLE sequences (
    device TEXT NOT NULL, incarnation TEXT NOT NULL, sequence INTEGER NOT NULL,
    touched INTEGER NOT NULL,  -- grows with each transaction: which incarnations of a device are the newest
    PRIMARY KEY (device, incarnation)
) WITHOUT ROWID;

CREATE TABLE devices (device TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE aggregations (
    id INTEGER PRIMARY KEY,
    outcome TEXT NOT NULL, version INTEGER, base_version INTEGER NOT NULL,
    reason TEXT NOT NULL, created REAL NOT NULL, metrics TEXT NOT NULL
);

CREATE TABLE lineage (
    aggregation INTEGER NOT NULL, position INTEGER NOT NULL,
    device TEXT NOT NULL, incarnation TEXT NOT NULL, sequence INTEGER NOT NULL,
    base_version INTEGER NOT NULL, staleness INTEGER NOT NULL,
    num_examples INTEGER NOT NULL, num_steps INTEGER NOT NULL,
    weight REAL NOT NULL, update_bytes INTEGER NOT NULL, metrics TEXT NOT NULL, clip REAL NOT NULL DEFAULT 1.0,
    PRIMARY KEY (aggregation, position)
) WITHOUT ROWID;

CREATE TABLE versions (
    version INTEGER PRIMARY KEY,
    kind TEXT NOT NULL, created REAL NOT NULL, digest TEXT NOT NULL,
    blob TEXT NOT NULL, delta TEXT,  -- references as JSON
    metrics TEXT NOT NULL, num_updates INTEGER NOT NULL, total_weight REAL NOT NULL, step_norm REAL NOT NULL,
    rolled_back_to INTEGER,
    terms TEXT  -- null: from before they were noted
);

-- Under which terms versions were made: JSON, named by its SHA-256.
CREATE TABLE terms (digest TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;

-- Questions to the fleet, the newest last; "closed" is null while they are asked. "total" is the sum of the answers:
-- msgpack, private to the aggregator.
CREATE TABLE surveys (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL, fraction REAL NOT NULL, min_examples INTEGER NOT NULL,
    opened REAL NOT NULL, closed REAL, total BLOB NOT NULL
);

-- Who has answered which. "figures" is JSON: of an evaluation, what this device's held-out examples gave.
CREATE TABLE answers (
    survey TEXT NOT NULL, device TEXT NOT NULL, incarnation TEXT NOT NULL, sequence INTEGER NOT NULL,
    version INTEGER NOT NULL, examples INTEGER NOT NULL, figures TEXT NOT NULL,
    PRIMARY KEY (survey, device)
) WITHOUT ROWID;

-- Apart from versions, so that old ones can go without rewriting rows: float32 little-endian, and the encoded delta.
CREATE TABLE parameters (version INTEGER PRIMARY KEY, vector BLOB NOT NULL, delta BLOB NOT NULL);

-- The one version that is tried before it is published, if there is one: as "versions" and "parameters" have it, with
-- the survey that compares it, and the server state that it would lead to ("state", msgpack).
CREATE TABLE candidate (
    survey TEXT NOT NULL, version INTEGER NOT NULL,
    kind TEXT NOT NULL, created REAL NOT NULL, digest TEXT NOT NULL,
    blob TEXT NOT NULL, delta TEXT,
    metrics TEXT NOT NULL, num_updates INTEGER NOT NULL, total_weight REAL NOT NULL, step_norm REAL NOT NULL,
    rolled_back_to INTEGER,
    vector BLOB NOT NULL, delta_bytes BLOB NOT NULL, state BLOB NOT NULL
);

-- What the next step starts from: "master" (float32; absent when it equals the current version's parameters) and the
-- server optimizer's vectors "0", "1", ... (float64).
CREATE TABLE server (name TEXT PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID;
"""

UPGRADES = {
    1: (
        "ALTER TABLE journal ADD COLUMN delta_file INTEGER",
        "ALTER TABLE journal ADD COLUMN delta_offset INTEGER",
        "ALTER TABLE journal ADD COLUMN delta_size INTEGER",
        "ALTER TABLE journal ADD COLUMN delta_sum INTEGER",
    ),
    2: (
        "ALTER TABLE journal ADD COLUMN clip REAL NOT NULL DEFAULT 1.0",
        "ALTER TABLE lineage ADD COLUMN clip REAL NOT NULL DEFAULT 1.0",
    ),
    3: tuple(re.findall(r"CREATE TABLE (?:surveys|answers) .*?;", TABLES, re.DOTALL)),
    4: (
        "ALTER TABLE versions ADD COLUMN terms TEXT",
        *re.findall(r"CREATE TABLE terms .*?;", TABLES, re.DOTALL),
    ),
    5: tuple(re.findall(r"CREATE TABLE candidate .*?;", TABLES, re.DOTALL)),
}
"""What leads from each older schema to the next one."""

TABLE_NAMES = frozenset(re.findall(r"CREATE TABLE (\w+)", TABLES))


def tables_of(schema: int) -> frozenset[str]:
    """Return the tables that a database of this schema has."""
    later = {"surveys": 4, "answers": 4, "terms": 5, "candidate": 6}
    return frozenset(name for name in TABLE_NAMES if later.get(name, 0) <= schema)


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection for the one writer, in autocommit mode; the file is made if it is not there.

    Any thread may use it, one at a time.
    """
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    try:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = WAL")
        # FULL: a commit is on the disk when it returns, power cut or not. Devices forget what we have accepted.
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
        db.execute("PRAGMA cache_size = -16384")
        db.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        db.close()
        raise
    return db


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Return a connection that only reads, beside a running aggregator or without one.

    Raise ``FileNotFoundError`` when there is no database, ``sqlite3.Error`` when it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no database at {path}")
    try:
        return _opened(path, "mode=ro")
    except sqlite3.OperationalError:
        # A directory that we may not write to, and nobody has the database open: then nothing can change under us.
        if wal_of(path).exists():
            raise
        return _opened(path, "mode=ro&immutable=1")


def upgrade(db: sqlite3.Connection) -> None:
    """Bring an older database to ``SCHEMA_VERSION``, in one transaction; nothing in it is lost."""
    (found,) = db.execute("PRAGMA user_version").fetchone()
    if found == SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for version in range(found, SCHEMA_VERSION):
            for statement in UPGRADES[version]:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def wal_of(path: Path) -> Path:
    """Return the name of the database's write-ahead log."""
    return path.with_name(path.name + "-wal")


def _opened(path: Path, options: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, isolation_level=None, timeout=5.0)
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        db.close()
        raise
    return db
