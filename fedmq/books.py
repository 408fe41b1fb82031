"""Reads both ends' databases for the audit: read-only, and with SQL of our own, so that it proves something."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from aggregator.records import Counters as AggregatorCounters
from device_agent.records import DurableState
from fedmq.audit import AggregatorBooks, DeviceBooks, Identity

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FLOAT32_BYTES = 4
TAKEN_IN = """
    SELECT device, incarnation, sequence, update_bytes, outcome
        FROM lineage JOIN aggregations ON aggregations.id = lineage.aggregation
    UNION ALL
    SELECT device, incarnation, sequence, update_bytes, 'buffered' FROM journal
"""
VERSIONS = "SELECT version, metrics, length(vector) FROM versions JOIN parameters USING (version) ORDER BY version"
SET_ASIDE = ("set-aside", "withdrawn")
"""Taken out of the open buffer by a rollback, or in a candidate that was withdrawn; all else was folded."""


class BooksError(RuntimeError):
    """A database is missing or cannot be read."""


def device_books(state_dir: Path) -> DeviceBooks:
    """Return what the agent with this state directory has booked; it has to have ended."""
    path = state_dir / "agent.sqlite"
    try:
        with closing(_open(path)) as db:
            meta = {key: bytes(value) for key, value in db.execute("SELECT key, value FROM meta")}
            rows = db.execute("SELECT sequence, survey <> '' FROM outbox").fetchall()
    except (OSError, sqlite3.Error) as exc:
        raise BooksError(f"{path}: {exc}") from exc
    state = msgspec.json.decode(meta["state"], type=DurableState)
    counters = state.counters
    return DeviceBooks(
        device_id=meta["device_id"].decode(),
        incarnation=meta["incarnation"].decode(),
        next_sequence=state.next_sequence,
        created=counters.updates_created,
        accepted=counters.updates_accepted + counters.updates_duplicate,
        refused=counters.updates_stale + counters.updates_rejected,
        dropped=counters.updates_dropped,
        waiting=frozenset(sequence for sequence, is_report in rows if not is_report),
        reports_created=counters.reports_created,
        reports_accepted=counters.reports_accepted + counters.reports_duplicate,
        reports_refused=counters.reports_stale + counters.reports_rejected,
        reports_dropped=counters.reports_dropped,
        reports_waiting=frozenset(sequence for sequence, is_report in rows if is_report),
    )


def all_device_books(state_dirs: Iterable[Path]) -> list[DeviceBooks]:
    """Return the books of those devices that have ever started."""
    return [device_books(state_dir) for state_dir in state_dirs if (state_dir / "agent.sqlite").exists()]


def aggregator_books(state_dir: Path) -> AggregatorBooks:
    """Return what the aggregator with this state directory has booked; it has to have ended."""
    path = state_dir / "aggregator.sqlite"
    try:
        with closing(_open(path)) as db:
            taken_in = db.execute(TAKEN_IN).fetchall()
            versions = db.execute(VERSIONS).fetchall()
            reports = db.execute("SELECT device, incarnation, sequence FROM answers").fetchall()
            (record,) = db.execute("SELECT value FROM meta WHERE key = 'counters'").fetchone()
    except (OSError, sqlite3.Error) as exc:
        raise BooksError(f"{path}: {exc}") from exc
    counters = msgspec.msgpack.decode(record, type=AggregatorCounters)
    sizes = [row[3] for row in taken_in]
    _, newest_metrics, newest_bytes = versions[-1]
    return AggregatorBooks(
        folded=_identities(row for row in taken_in if row[4] not in SET_ASIDE),
        set_aside=_identities(row for row in taken_in if row[4] in SET_ASIDE),
        reports=tuple((device, incarnation, sequence) for device, incarnation, sequence in reports),
        counted_accepted=counters.accepted,
        counted_folded=counters.folded,
        versions=tuple(version for version, _, _ in versions),
        update_bytes=round(sum(sizes) / len(sizes)) if sizes else 0,
        parameters=newest_bytes // FLOAT32_BYTES,
        accuracy=json.loads(newest_metrics).get("accuracy"),
    )


def _identities(rows: Iterable[tuple[str, str, int, int, str]]) -> tuple[Identity, ...]:
    return tuple((device, incarnation, sequence) for device, incarnation, sequence, _, _ in rows)


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
