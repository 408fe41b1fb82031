"""The agent's SQLite file: outbox and durable state, one transaction per ``Persist``, one agent per directory."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from typing import IO, TYPE_CHECKING

import msgspec

from device_agent.records import DurableState, OutboxEntry

if TYPE_CHECKING:
    from pathlib import Path

    from device_agent.commands import Persist

FILE_NAME = "agent.sqlite"
LOCK_NAME = "agent.lock"
SCHEMA_VERSION = 2

META = "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL)"
"""With row ids: without, SQLite moves what is longer than a quarter of a page to pages of their own, and then each
transaction writes one to three pages more of the card.
"""

SCHEMA = f"""
{META};
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL,
    base_version INTEGER NOT NULL,
    size INTEGER NOT NULL,
    payload BLOB NOT NULL,
    survey TEXT NOT NULL DEFAULT ''  -- what a report answers, empty for updates
);
"""

UPGRADES = {1: "ALTER TABLE outbox ADD COLUMN survey TEXT NOT NULL DEFAULT ''"}
"""What leads from each older schema to the next one."""

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class StoreError(Exception):
    """The store cannot be used; the text tells the operator what to do."""


class StoreCorruptError(StoreError):
    """The file turned out to be damaged: a new start will put it aside."""


class StoreWriteError(StoreError):
    """A transaction failed and nothing of it was written: disk full, read-only, I/O error."""


class Store:
    """The open store. One thread uses it."""

    def __init__(self, state_dir: Path, device_id: str, federation: str) -> None:
        """Open or create the store; a damaged file is renamed aside (``set_aside`` names it), and a new one made.

        Raise ``StoreError`` when the directory cannot be written, when another agent has it, when the file was
        written by a newer version, or when it belongs to another device.
        """
        self.set_aside: Path | None = None
        self._path = state_dir / FILE_NAME
        self._lock = _locked(state_dir)
        try:
            self._open(device_id, federation)
        except BaseException:
            self._lock.close()
            raise

    def restore(self) -> tuple[str, DurableState, tuple[OutboxEntry, ...]]:
        """Return the incarnation of this outbox, the durable state, and what waits, in ascending sequence."""
        return self._incarnation, self._durable, _entries(self._db)

    def persist(self, command: Persist) -> None:
        """Write the command in one transaction, on disk when this returns; or raise, with nothing written.

        One that is ``recoverable`` is with the system when this returns, and on the disk with the next that is not.
        """
        try:
            # In WAL mode NORMAL only leaves out the sync of the log; what survives is always its beginning.
            self._db.execute(f"PRAGMA synchronous = {'NORMAL' if command.recoverable else 'FULL'}")
            self._db.execute("BEGIN IMMEDIATE")
            self._write(command)
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            self._roll_back()
            if _is_corrupt(exc):
                raise StoreCorruptError(f"{self._path} is damaged ({exc}); the next start puts it aside") from exc
            raise StoreWriteError(str(exc)) from exc

    def load(self, sequence: int) -> bytes | None:
        """Return the bytes of an update; None when there is no such row or it cannot be read."""
        try:
            row = self._db.execute("SELECT payload FROM outbox WHERE sequence = ?", (sequence,)).fetchone()
        except sqlite3.Error:
            return None
        return bytes(row[0]) if row else None

    def close(self) -> None:
        """Close the file and let another agent have the directory."""
        self._db.close()
        self._lock.close()

    def _write(self, command: Persist) -> None:
        if command.deletes:
            self._db.executemany("DELETE FROM outbox WHERE sequence = ?", [(number,) for number in command.deletes])
        if command.put is not None:
            entry = command.put.entry
            self._db.execute(
                "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?)",
                (entry.sequence, entry.epoch, entry.base_version, entry.size, command.put.payload, entry.survey),
            )
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'state'", (msgspec.json.encode(command.state),))

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            # Nothing was committed; the next BEGIN says what is wrong with the disk.
            return

    def _open(self, device_id: str, federation: str) -> None:
        try:
            self._open_file(device_id, federation)
        except (sqlite3.DatabaseError, msgspec.DecodeError, KeyError) as exc:
            if isinstance(exc, sqlite3.OperationalError) and not _is_corrupt(exc):
                raise StoreError(f"{self._path} cannot be used: {exc}") from exc
            self.set_aside = _put_aside(self._path)
            try:
                self._open_file(device_id, federation)
            except sqlite3.Error as again:
                raise StoreError(f"{self._path} cannot be made: {again}") from again

    def _open_file(self, device_id: str, federation: str) -> None:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
        try:
            self._prepare(db, device_id, federation)
            meta = _meta(db)
            self._incarnation = meta["incarnation"].decode()
            self._durable = _durable(db, meta)
        except BaseException:
            db.close()
            raise
        self._db = db

    def _prepare(self, db: sqlite3.Connection, device_id: str, federation: str) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self._path} was written by a newer version of fedmq (schema {version}, this one knows"
                f" {SCHEMA_VERSION}): install that version again, or use another state_dir"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 1048576")
        # Debian's SQLite overwrites what is deleted with zeros: each update would be written twice, the second time for
        # nothing. Flash keeps the old bytes anyhow, and what was in them is this device's own, or sealed.
        db.execute("PRAGMA secure_delete = FAST")
        if version == 0:
            _create(db, device_id, federation)
        elif db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("quick_check found damage")
        meta = _meta(db)
        owner = (meta["device_id"].decode(), meta["federation"].decode())
        if owner != (device_id, federation):
            raise StoreError(
                f"{self._path} belongs to device {owner[0]!r} of federation {owner[1]!r}, the configuration says"
                f" {device_id!r} of {federation!r}: use another state_dir, or remove this one"
            )
        _upgrade(db)
        _repack(db)


def peek(state_dir: Path) -> tuple[dict[str, str], DurableState, tuple[OutboxEntry, ...]]:
    """Read the store without changing anything, also beside a running agent: names, durable state, what waits.

    Raise ``StoreError`` when there is none or it cannot be read.
    """
    path = state_dir / FILE_NAME
    if not path.is_file():
        raise StoreError(f"{path}: there is no such file; has the agent run with this state_dir?")
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)
        try:
            db.execute("BEGIN")
            meta = _meta(db)
            names = {key: meta[key].decode() for key in ("incarnation", "device_id", "federation")}
            return names, _durable(db, meta), _entries(db)
        finally:
            db.close()
    except (sqlite3.Error, msgspec.DecodeError, KeyError) as exc:
        raise StoreError(f"{path} cannot be read: {exc}") from exc


def _locked(state_dir: Path) -> IO[str]:
    path = state_dir / LOCK_NAME
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
    except OSError as exc:
        raise StoreError(f"state_dir {state_dir} cannot be written: {exc.strerror or exc}") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        owner = lock.read(16).strip()
        lock.close()
        who = f"another agent (process {owner})" if owner else "another agent"
        raise StoreError(f"{who} uses state_dir {state_dir}: one agent per directory") from exc
    try:
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
    except OSError:
        # The number is for people only; a full disk must not keep the agent from sending what it has.
        return lock
    return lock


def _create(db: sqlite3.Connection, device_id: str, federation: str) -> None:
    meta = {
        "incarnation": secrets.token_hex(8).encode(),
        "device_id": device_id.encode(),
        "federation": federation.encode(),
        "state": msgspec.json.encode(DurableState()),
    }
    # user_version is part of the transaction: a kill in between leaves an empty file, which is made again.
    db.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA.split(";"):
        if statement.strip():
            db.execute(statement)
    db.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")


def _upgrade(db: sqlite3.Connection) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    for older in range(version, SCHEMA_VERSION):
        db.execute(UPGRADES[older])
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")


def _repack(db: sqlite3.Connection) -> None:
    """Have ``meta`` as ``META`` says in a file of an older build, which can use it like this as well: no new schema."""
    sql = db.execute("SELECT sql FROM sqlite_master WHERE name = 'meta'").fetchone()[0]
    if "WITHOUT ROWID" not in sql:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("ALTER TABLE meta RENAME TO narrow")
        db.execute(META)
        db.execute("INSERT INTO meta SELECT key, value FROM narrow")
        db.execute("DROP TABLE narrow")
        db.execute("COMMIT")
    except sqlite3.OperationalError:
        # No room: it stays as it is, which only costs pages, and a full disk keeps nobody from sending.
        if db.in_transaction:
            db.execute("ROLLBACK")


def _meta(db: sqlite3.Connection) -> dict[str, bytes]:
    return {key: bytes(value) for key, value in db.execute("SELECT key, value FROM meta")}


def _durable(db: sqlite3.Connection, meta: dict[str, bytes]) -> DurableState:
    state = msgspec.json.decode(meta["state"], type=DurableState)
    newest = db.execute("SELECT max(sequence) FROM outbox").fetchone()[0] or 0
    return msgspec.structs.replace(state, next_sequence=max(state.next_sequence, newest + 1))


def _entries(db: sqlite3.Connection) -> tuple[OutboxEntry, ...]:
    # Of a store that was not upgraded yet, who only looks at it finds updates.
    survey = "survey" if db.execute("PRAGMA user_version").fetchone()[0] > 1 else "''"
    rows = db.execute(f"SELECT sequence, epoch, base_version, size, {survey} FROM outbox ORDER BY sequence")  # noqa: S608 - constants of ours
    return tuple(
        OutboxEntry(sequence=sequence, epoch=epoch, base_version=base, size=size, survey=survey)
        for sequence, epoch, base, size, survey in rows
    )


def _is_corrupt(exc: sqlite3.Error) -> bool:
    code = getattr(exc, "sqlite_errorcode", None)
    return (code & 0xFF) in _CORRUPT if code is not None else False


def _put_aside(path: Path) -> Path:
    """Rename the damaged file and its companions; the evidence is kept, and the newest of them is found by number."""
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
