"""The keystore's index: one SQLite file. What is not in it has not happened; each of its transactions is one step."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from typing import TYPE_CHECKING, Any

from fedmq.provision.names import Role, Subject
from fedmq.provision.records import Certificate, Crl, Federation, FederationKey, KeyKind, KeyPlace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

FORMAT = 1

_SCHEMA = """
CREATE TABLE federation (
  only INTEGER PRIMARY KEY CHECK (only = 1), name TEXT NOT NULL, hosts TEXT NOT NULL, port INTEGER NOT NULL,
  suite TEXT NOT NULL, made INTEGER NOT NULL, ca BLOB NOT NULL
) STRICT;
CREATE TABLE certificate (
  serial TEXT PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL, issued INTEGER NOT NULL, not_before INTEGER NOT NULL,
  not_after INTEGER NOT NULL, pem BLOB NOT NULL, key BLOB, current INTEGER NOT NULL, revoked INTEGER
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_current ON certificate (role, name) WHERE current = 1;
CREATE INDEX bearer ON certificate (role, name);
CREATE TABLE key (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, place TEXT NOT NULL, private BLOB NOT NULL, public BLOB NOT NULL,
  made INTEGER NOT NULL, UNIQUE (kind, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE crl (
  only INTEGER PRIMARY KEY CHECK (only = 1), pem BLOB NOT NULL, number INTEGER NOT NULL, next_update INTEGER NOT NULL
) STRICT;
"""

_COLUMNS = "serial, role, name, issued, not_before, not_after, pem, key, current, revoked"


class IndexDamagedError(RuntimeError):
    """The file is not what we wrote, or was written by a newer fedmq."""


class Index:
    """The open index. ``sqlite3.Error`` comes out as ``IndexDamagedError``."""

    def __init__(self, path: Path) -> None:
        with contextlib.suppress(FileExistsError):  # made by us, for sqlite3 would let the umask decide who reads it
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
            self._db.executescript("PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as exc:
            raise IndexDamagedError(f"{path}: {exc}; restore it from a backup") from exc
        if version > FORMAT:
            raise IndexDamagedError(f"{path}: written by a newer fedmq (format {version}); upgrade this one")
        self.made = version != 0
        """Whether it has its tables: an interrupted ``init`` leaves an empty file."""

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything within one step, on the disk when it is left; nothing of it when that raises."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            raise IndexDamagedError(f"{self._path}: {exc}") from exc

    def make(self, federation: Federation) -> None:
        """Make the tables, in a transaction."""
        for statement in _SCHEMA.split(";"):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {FORMAT}")
        self.put_federation(federation)
        self.made = True

    # -- the federation

    def put_federation(self, federation: Federation) -> None:
        """Write whose keystore this is."""
        self._db.execute(
            "INSERT OR REPLACE INTO federation VALUES (1, ?, ?, ?, ?, ?, ?)",
            (
                federation.name,
                json.dumps(federation.hosts),
                federation.port,
                federation.suite,
                federation.made,
                federation.ca,
            ),
        )

    def federation(self) -> Federation:
        """Return whose keystore this is."""
        ((name, hosts, port, suite, made, ca),) = self._rows(
            "SELECT name, hosts, port, suite, made, ca FROM federation"
        )
        return Federation(name=name, hosts=tuple(json.loads(hosts)), port=port, suite=suite, made=made, ca=ca)

    # -- certificates

    def add(self, certificates: Iterable[Certificate]) -> None:
        """Write new certificates as the current ones of their bearers; the ones before stay, as older ones."""
        for one in certificates:
            self._db.execute("UPDATE certificate SET current = 0 WHERE role = ? AND name = ?", one.subject)
            row = (
                f"{one.serial:x}",
                *one.subject,
                one.issued,
                one.not_before,
                one.not_after,
                one.pem,
                one.key,
                1,
                None,
            )
            self._db.execute(f"INSERT INTO certificate ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608 - our own column names

    def revoke(self, serials: Iterable[int], when: int) -> None:
        """Mark certificates as revoked; the moment of those that are already stays."""
        rows = [(when, f"{serial:x}") for serial in serials]
        self._db.executemany("UPDATE certificate SET revoked = ? WHERE serial = ? AND revoked IS NULL", rows)

    def certificates(self, role: Role | None = None, name: str | None = None) -> list[Certificate]:
        """Return those of a bearer, of a role, or all, the oldest first."""
        text = f"SELECT {_COLUMNS} FROM certificate WHERE role = ifnull(?, role) AND name = ifnull(?, name)"  # noqa: S608 - as above
        return [_certificate(row) for row in self._rows(f"{text} ORDER BY role, name, issued, current", (role, name))]

    def current(self, subject: Subject) -> Certificate | None:
        """Return a bearer's newest certificate."""
        text = f"SELECT {_COLUMNS} FROM certificate WHERE role = ? AND name = ? AND current = 1"  # noqa: S608 - as above
        return next((_certificate(row) for row in self._rows(text, subject)), None)

    def by_serial(self, serial: int) -> Certificate | None:
        """Return the certificate with this number."""
        text = f"SELECT {_COLUMNS} FROM certificate WHERE serial = ?"  # noqa: S608 - as above
        return next((_certificate(row) for row in self._rows(text, (f"{serial:x}",))), None)

    def revoked_subjects(self) -> list[Subject]:
        """Return the clients all of whose certificates are revoked."""
        text = "SELECT role, name FROM certificate WHERE role != 'broker' GROUP BY role, name"
        return [Subject(*row) for row in self._rows(f"{text} HAVING count(*) = count(revoked) ORDER BY role, name")]

    def latest_issue(self) -> int:
        """Return when the newest certificate was made."""
        return int(self._rows("SELECT ifnull(max(issued), 0) FROM certificate")[0][0])

    # -- keys

    def put_key(self, key: FederationKey) -> None:
        """Write a key, in a place that is free."""
        row = (key.id, key.kind, key.place, key.private, key.public, key.made)
        self._db.execute("INSERT INTO key (id, kind, place, private, public, made) VALUES (?, ?, ?, ?, ?, ?)", row)

    def move_key(self, kind: KeyKind, place: KeyPlace, to: KeyPlace) -> None:
        """Move a key to a place that is free."""
        self._db.execute("UPDATE key SET place = ? WHERE kind = ? AND place = ?", (to, kind, place))

    def drop_key(self, kind: KeyKind, place: KeyPlace) -> None:
        """Delete a key; its bytes are overwritten."""
        self._db.execute("DELETE FROM key WHERE kind = ? AND place = ?", (kind, place))

    def keys(self, kind: KeyKind) -> list[FederationKey]:
        """Return the keys of a kind."""
        rows = self._rows("SELECT id, place, private, public, made FROM key WHERE kind = ? ORDER BY made", (kind,))
        return [
            FederationKey(kind=kind, id=id_, place=place, private=private, public=public, made=made)
            for id_, place, private, public, made in rows
        ]

    # -- the list of revoked ones

    def put_crl(self, crl: Crl) -> None:
        """Replace the list."""
        self._db.execute("INSERT OR REPLACE INTO crl VALUES (1, ?, ?, ?)", (crl.pem, crl.number, crl.next_update))

    def crl(self) -> Crl:
        """Return the list."""
        ((pem, number, next_update),) = self._rows("SELECT pem, number, next_update FROM crl")
        return Crl(pem=pem, number=number, next_update=next_update)

    def _rows(self, text: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._db.execute(text, values).fetchall()
        except sqlite3.Error as exc:
            raise IndexDamagedError(f"{self._path}: {exc}; restore it from a backup") from exc


def _certificate(row: tuple[Any, ...]) -> Certificate:
    serial, role, name, issued, not_before, not_after, pem, key, current, revoked = row
    return Certificate(
        serial=int(serial, 16),
        subject=Subject(role, name),
        issued=issued,
        not_before=not_before,
        not_after=not_after,
        pem=pem,
        key=key,
        current=bool(current),
        revoked=revoked,
    )
