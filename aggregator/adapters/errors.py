"""What can be wrong with the store."""

from __future__ import annotations

import sqlite3

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_OURS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)


class StoreError(Exception):
    """The disk does not do what it should (full, read-only, failing): nothing of the transaction was written."""


class StoreRefused(Exception):  # noqa: N818 - an answer to the operator
    """This store does not fit this program or this configuration; the text says what to do."""


class ExportFailed(Exception):  # noqa: N818 - an answer to the operator
    """A version cannot be written to a file in the form that was asked for; the text says why and what to do."""


class StoreDamaged(StoreError):  # noqa: N818 - it is a StoreError
    """The database's content is broken: it has to be set aside."""


def translated(exc: sqlite3.Error, path: object) -> Exception:
    """Return what to raise for an error of SQLite's: a fault of ours stays what it is, to be seen and mended."""
    if isinstance(exc, _OURS):
        return exc
    text = f"{path}: {exc}"
    if getattr(exc, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
        return StoreDamaged(text)
    return StoreError(text)
