"""The terms of versions in the database: one row for each that there ever were, named by its SHA-256."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from protocol.chunks import digest_of


def note_terms(db: sqlite3.Connection, terms: dict[str, Any]) -> None:
    """Have the versions from now on be of these terms; forget those that no version is of any more.

    Without terms nothing is noted of the versions to come.
    """
    content = json.dumps(terms, sort_keys=True)
    name = digest_of(content.encode()) if terms else ""
    if terms:
        db.execute("INSERT OR IGNORE INTO terms (digest, content) VALUES (?, ?)", (name, content))
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('terms', ?)", (name,))
    used = "SELECT DISTINCT terms FROM versions WHERE terms NOT NULL"
    db.execute(f"DELETE FROM terms WHERE digest <> ? AND digest NOT IN ({used})", (name,))  # noqa: S608 - a constant of ours


def terms_of_version(db: sqlite3.Connection, version: int) -> dict[str, Any] | None:
    """Return under which terms a version was made; None for one from before they were noted."""
    query = "SELECT content FROM versions JOIN terms ON versions.terms = terms.digest WHERE version = ?"
    row = db.execute(query, (version,)).fetchone()
    if row is None:
        return None
    found: dict[str, Any] = json.loads(row[0])
    return found
