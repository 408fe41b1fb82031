"""What the store alone can say of a version for its card, beside its line: see ``card_rows_of``."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from aggregator.adapters.restoring import read_meta
from aggregator.adapters.rows import CONTRIBUTION_COLUMNS, contribution_of, metrics_of, plain_of
from aggregator.adapters.term_rows import terms_of_version
from aggregator.buffer import Contribution
from aggregator.records import Aggregation
from protocol.messages import BlobRef, DeltaRef

MAX_STALENESS = 1000
"""Where the terms are not known, updates that were trained from a version are looked for in so many after it."""

MAX_WITHHELD = 20
"""The newest candidates of one parent that were not published."""

_AGGREGATIONS = "SELECT id, outcome, version, base_version, reason, created, metrics FROM aggregations"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRows:
    """See ``CardSources``."""

    blob: BlobRef
    delta: DeltaRef | None
    before: int | None
    aggregation: Aggregation | None
    withheld: tuple[Aggregation, ...]
    trained_from: tuple[Contribution, ...]
    withdrawn: tuple[tuple[int, int], ...]
    terms: dict[str, Any] | None


def card_rows_of(db: sqlite3.Connection, version: int) -> CardRows:
    """Return what there is; the version is known to the table."""
    blob, delta = db.execute("SELECT blob, delta FROM versions WHERE version = ?", (version,)).fetchone()
    (before,) = db.execute("SELECT max(version) FROM versions WHERE version < ?", (version,)).fetchone()
    ended = db.execute(f"{_AGGREGATIONS} WHERE version = ?", (version,)).fetchone()
    parent = ended[3] if ended else before
    query = f"{_AGGREGATIONS} WHERE outcome IN ('withheld', 'withdrawn') AND base_version = ? ORDER BY id DESC LIMIT ?"
    withheld = db.execute(query, (parent, MAX_WITHHELD)).fetchall()
    terms = terms_of_version(db, version)
    within = terms["aggregation"]["max_staleness"] if terms else MAX_STALENESS
    return CardRows(
        blob=plain_of(blob, BlobRef),
        delta=plain_of(delta, DeltaRef) if delta else None,
        before=before,
        aggregation=_aggregation(db, ended) if ended else None,
        withheld=tuple(_aggregation(db, row) for row in reversed(withheld)),
        trained_from=_trained_from(db, version, within),
        withdrawn=plain_of(str(read_meta(db)["withdrawn"]), tuple[tuple[int, int], ...]),
        terms=terms,
    )


def _aggregation(db: sqlite3.Connection, row: tuple[Any, ...]) -> Aggregation:
    query = f"SELECT {CONTRIBUTION_COLUMNS} FROM lineage WHERE aggregation = ? ORDER BY position"  # noqa: S608 - a constant of ours
    return Aggregation(
        outcome=row[1],
        version=row[2],
        base_version=row[3],
        reason=row[4],
        created=row[5],
        metrics=metrics_of(row[6]),
        lineage=tuple(contribution_of(found) for found in db.execute(query, (row[0],))),
    )


def _trained_from(db: sqlite3.Connection, version: int, within: int) -> tuple[Contribution, ...]:
    """Return the updates that were trained from a version: those of ended buffers, then of the open one."""
    ended = (
        f"SELECT {CONTRIBUTION_COLUMNS} FROM lineage WHERE base_version = ? AND aggregation IN"  # noqa: S608 - constants of ours
        " (SELECT id FROM aggregations WHERE base_version BETWEEN ? AND ?) ORDER BY aggregation, position"
    )
    rows = db.execute(ended, (version, version, version + within)).fetchall()
    waiting = f"SELECT {CONTRIBUTION_COLUMNS} FROM journal WHERE base_version = ? ORDER BY position"  # noqa: S608 - a constant of ours
    rows += db.execute(waiting, (version,)).fetchall()
    return tuple(contribution_of(row) for row in rows)
