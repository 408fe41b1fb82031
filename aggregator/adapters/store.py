"""The aggregator's memory: one SQLite file, one writer, one transaction for all that a batch of events changed.

Large deltas lie in files beside it (see ``deltas``), which are as much a part of the transaction as the rows.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

import msgspec

from aggregator.adapters.candidate_rows import save_candidate, save_verdict
from aggregator.adapters.deltas import DeltaFiles
from aggregator.adapters.errors import StoreError, translated
from aggregator.adapters.lock import StateLock
from aggregator.adapters.restoring import restored
from aggregator.adapters.rows import (
    CONTRIBUTION_COLUMNS,
    JOURNAL_COLUMNS,
    VERSION_COLUMNS,
    Row,
    aggregation_row,
    contribution_row,
    journal_row,
    json_of,
    place_of,
    version_row,
)
from aggregator.adapters.schema import connect, wal_of
from aggregator.adapters.survey_rows import write_surveys
from aggregator.buffer import Contribution
from aggregator.commands import (
    Journal,
    SaveAggregation,
    SaveAnswer,
    SaveFindings,
    SaveFleet,
    SaveIssued,
    SaveVerdict,
    StoreCommand,
)
from aggregator.configuration import RegistryTable
from aggregator.records import MAX_INCARNATIONS, Answer, Counters, JournalEntry, Restored, ServerState, VersionRecord

_encode_record = msgspec.msgpack.Encoder().encode


class Store:
    """An open store, held under the directory's lock until ``close``. For one thread at a time.

    A transaction has two halves: ``begin`` writes rows in memory, ``commit`` waits for the disk. The second takes no
    decision and holds no interpreter lock while it waits, so that another thread can do it.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, lock: StateLock, limits: RegistryTable) -> None:
        self.path = path
        self._db = db
        self._lock = lock
        self._limits = limits
        self._deltas = DeltaFiles(path)
        named = db.execute(f"SELECT {JOURNAL_COLUMNS} FROM journal WHERE delta_file NOT NULL ORDER BY position")  # noqa: S608 - a constant of ours
        self._deltas.go_on_behind([place for row in named if (place := place_of(row))])
        self._touched: int = db.execute("SELECT coalesce(max(touched), 0) FROM sequences").fetchone()[0]

    def restore(self) -> Restored:
        """Return what the last successful transaction left; raise ``StoreError`` when it cannot be read."""
        try:
            return restored(self._db, self._deltas)
        except sqlite3.Error:
            self._reconnect()
        try:
            return restored(self._db, self._deltas)
        except sqlite3.Error as exc:
            raise translated(exc, self.path) from exc

    def apply(self, commands: Sequence[StoreCommand]) -> None:
        """Carry the commands out, all or none of them; raise ``StoreError`` when none was.

        When it returns they are on the disk. After an error the caller has to ``restore``.
        """
        if commands:
            self.begin(commands)
            self.commit()

    def begin(self, commands: Sequence[StoreCommand]) -> None:
        """Begin a transaction with these commands, for ``commit``; raise ``StoreError`` when nothing was begun."""
        with self._all_or_nothing():
            self._db.execute("BEGIN IMMEDIATE")
            _Transaction(self._db, self._deltas, self._limits, self._touched + 1).write(commands)

    def commit(self) -> None:
        """Put what was begun on the disk; raise ``StoreError`` when nothing of it was written."""
        with self._all_or_nothing():
            self._deltas.flush()
            self._db.execute("COMMIT")
        self._deltas.committed()
        self._touched += 1

    def size_bytes(self) -> int:
        """Return the size of the database with its log."""
        total = self._deltas.size_bytes()
        for path in (self.path, wal_of(self.path)):
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total

    def close(self) -> None:
        """Take the log into the database and let go of the directory."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        self._deltas.close()
        self._lock.release()

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        try:
            yield
        except BaseException as exc:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            self._deltas.dropped()
            if isinstance(exc, sqlite3.Error):
                raise translated(exc, self.path) from exc
            raise

    def _reconnect(self) -> None:
        # An I/O error can leave a connection unusable. Not done without need: on a full disk nothing can be opened.
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        try:
            self._db = connect(self.path)
        except sqlite3.Error as exc:
            raise translated(exc, self.path) from exc


class _Transaction:
    """The statements of one transaction."""

    def __init__(self, db: sqlite3.Connection, deltas: DeltaFiles, limits: RegistryTable, touched: int) -> None:
        self._db = db
        self._deltas = deltas
        self._limits = limits
        self._touched = touched

    def write(self, commands: Sequence[StoreCommand]) -> None:
        """Carry the commands out in their order, save for what a later one of them makes moot."""
        saves = [index for index, command in enumerate(commands) if isinstance(command, SaveAggregation)]
        self._bump([accepted for command in commands if (accepted := _accepted(command)) is not None])
        write_surveys(self._db, commands)
        for command in commands:
            if isinstance(command, SaveAggregation):
                self._save_aggregation(command)
            elif isinstance(command, SaveVerdict):
                self._save_verdict(command)
        if saves:
            self._db.execute("DELETE FROM journal")
            self._prune()
        # What came before the last end of a buffer is in that buffer's lineage: its delta is never needed again.
        rest = commands[saves[-1] + 1 :] if saves else commands
        self._journal([command.entry for command in rest if isinstance(command, Journal)], emptied=bool(saves))
        for command in commands:
            if isinstance(command, SaveFleet):
                self._save_fleet(command)
            elif isinstance(command, SaveIssued):
                put_meta(self._db, {"issued": str(command.issued)})
            elif isinstance(command, SaveFindings):
                put_meta(self._db, {"findings": json_of(command.findings)})

    def _journal(self, entries: list[JournalEntry], *, emptied: bool) -> None:
        places = self._deltas.place([entry.delta for entry in entries], afresh=emptied)
        rows = map(journal_row, entries, places or repeat(None))
        self._insert("journal", JOURNAL_COLUMNS, list(rows))

    def _bump(self, entries: list[Contribution | Answer]) -> None:
        last: dict[tuple[str, str], int] = {}
        for accepted in entries:
            last[accepted.device_id, accepted.incarnation] = accepted.sequence
        rows = [(sequence, self._touched, device, incarnation) for (device, incarnation), sequence in last.items()]
        update = "UPDATE sequences SET sequence = ?, touched = ? WHERE device = ? AND incarnation = ?"
        if rows and self._db.executemany(update, rows).rowcount != len(rows):
            self._bump_new(rows)

    def _bump_new(self, rows: list[tuple[int, int, str, str]]) -> None:
        insert = "INSERT OR IGNORE INTO sequences (sequence, touched, device, incarnation) VALUES (?, ?, ?, ?)"
        self._db.executemany(insert, rows)
        oldest = (
            "DELETE FROM sequences WHERE device = ? AND incarnation IN (SELECT incarnation FROM sequences"
            " WHERE device = ? ORDER BY touched DESC, incarnation LIMIT -1 OFFSET ?)"
        )
        self._db.executemany(
            oldest, [(device, device, MAX_INCARNATIONS) for device in sorted({row[2] for row in rows})]
        )

    def _save_aggregation(self, saved: SaveAggregation) -> None:
        insert = (
            "INSERT INTO aggregations (outcome, version, base_version, reason, created, metrics)"
            " VALUES (?, ?, ?, ?, ?, ?)"
        )
        number = self._db.execute(insert, aggregation_row(saved.aggregation)).lastrowid
        lineage = [
            (number, position, *contribution_row(contribution))
            for position, contribution in enumerate(saved.aggregation.lineage, start=1)
        ]
        self._insert("lineage", f"aggregation, position, {CONTRIBUTION_COLUMNS}", lineage)
        if (saved.version is None) != (saved.server is None):
            raise ValueError("a version and the server state that it leads to belong together")
        if saved.version is not None and saved.server is not None:
            save_version(self._db, saved.version, saved.server)
        if saved.candidate is not None:
            save_candidate(self._db, saved.candidate)
        put_meta(self._db, {"shelf": json_of(saved.shelf), "withdrawn": json_of(saved.withdrawn)})

    def _save_verdict(self, saved: SaveVerdict) -> None:
        if (saved.version is None) != (saved.server is None):
            raise ValueError("a version and the server state that it leads to belong together")
        save_verdict(self._db, saved)
        if saved.version is not None and saved.server is not None:
            save_version(self._db, saved.version, saved.server)
        put_meta(self._db, {"shelf": json_of(saved.shelf)})

    def _save_fleet(self, fleet: SaveFleet) -> None:
        rows = [(device.device_id, _encode_record(device)) for device in fleet.devices]
        self._insert("devices", "device, record", rows, "INSERT OR REPLACE")
        put_meta(self._db, {"counters": _encode_record(fleet.counters)})

    def _prune(self) -> None:
        newest_version = self._db.execute("SELECT max(version) FROM versions").fetchone()[0]
        newest = self._db.execute("SELECT max(id) FROM aggregations").fetchone()[0]
        limits = self._limits
        without_parameters = newest_version - min(limits.keep_parameters, limits.keep_lineage)
        forgotten = newest - limits.keep_lineage
        self._db.execute("DELETE FROM parameters WHERE version <= ?", (without_parameters,))
        self._db.execute("DELETE FROM versions WHERE version <= ?", (newest_version - limits.keep_lineage,))
        self._db.execute("DELETE FROM lineage WHERE aggregation <= ?", (forgotten,))
        self._db.execute("DELETE FROM aggregations WHERE id <= ?", (forgotten,))

    def _insert(self, table: str, columns: str, rows: list[Row], verb: str = "INSERT") -> None:
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self._db.executemany(f"{verb} INTO {table} ({columns}) VALUES ({marks})", rows)


def _accepted(command: StoreCommand) -> Contribution | Answer | None:
    if isinstance(command, Journal):
        return command.entry.contribution
    return command.answer if isinstance(command, SaveAnswer) else None


def save_version(db: sqlite3.Connection, version: VersionRecord, server: ServerState) -> None:
    """Write a version, which becomes the current one, and the server state with it; within a transaction."""
    row = version_row(version)
    marks = ", ".join("?" * len(row))
    terms = "(SELECT nullif(value, '') FROM meta WHERE key = 'terms')"
    db.execute(f"INSERT INTO versions ({VERSION_COLUMNS}, terms) VALUES ({marks}, {terms})", row)  # noqa: S608 - constants of ours
    blobs = (version.version, version.parameters, version.delta_bytes)
    db.execute("INSERT INTO parameters (version, vector, delta) VALUES (?, ?, ?)", blobs)
    vectors = [(str(index), vector.astype("<f8").tobytes()) for index, vector in enumerate(server.vectors)]
    master = server.master.astype("<f4").tobytes()
    if master != version.parameters:
        vectors.append(("master", master))
    db.execute("DELETE FROM server")
    db.executemany("INSERT INTO server (name, vector) VALUES (?, ?)", vectors)
    put_meta(db, {"optimizer": server.optimizer})


def put_meta(db: sqlite3.Connection, values: dict[str, str | bytes]) -> None:
    """Write values of the table ``meta``."""
    db.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", list(values.items()))


def initial_meta(counters: Counters) -> dict[str, str | bytes]:
    """Return the values of ``meta`` that every later transaction keeps up."""
    return {"counters": _encode_record(counters), "withdrawn": "[]", "shelf": "[]"}


__all__ = ["Store", "StoreError", "initial_meta", "put_meta", "save_version"]
