"""The candidate in the database: kept beside the current version until it is decided on."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
import numpy as np

from aggregator.adapters.errors import StoreDamaged
from aggregator.adapters.rows import VERSION_COLUMNS, metrics_text, version_of, version_row
from aggregator.commands import SaveVerdict
from aggregator.records import CandidateRecord, ServerState


def save_candidate(db: sqlite3.Connection, candidate: CandidateRecord) -> None:
    """Write a candidate; within a transaction."""
    server, version = candidate.server, candidate.version
    state = {
        "optimizer": server.optimizer,
        "master": server.master.astype("<f4").tobytes(),
        "vectors": [vector.astype("<f8").tobytes() for vector in server.vectors],
    }
    packed = msgspec.msgpack.encode(state)
    row = (candidate.survey, *version_row(version), version.parameters, version.delta_bytes, packed)
    db.execute("DELETE FROM candidate")
    marks = ", ".join("?" * len(row))
    db.execute(f"INSERT INTO candidate (survey, {VERSION_COLUMNS}, vector, delta_bytes, state) VALUES ({marks})", row)  # noqa: S608 - constants of ours


def save_verdict(db: sqlite3.Connection, saved: SaveVerdict) -> None:
    """Write what became of the candidate, save for the version that it is; within a transaction."""
    number = saved.version.version if saved.version else None
    db.execute(
        "UPDATE aggregations SET outcome = ?, reason = ?, metrics = ?, version = ? WHERE outcome = 'candidate'",
        (saved.outcome, saved.reason, metrics_text(saved.metrics), number),
    )
    db.execute("DELETE FROM candidate")


def read_candidate(db: sqlite3.Connection) -> CandidateRecord | None:
    """Return the candidate, if one is tried; raise ``StoreDamaged`` when it makes no sense."""
    row = db.execute(f"SELECT survey, vector, delta_bytes, state, {VERSION_COLUMNS} FROM candidate").fetchone()  # noqa: S608 - a constant of ours
    if row is None:
        return None
    survey, vector, delta_bytes, packed = row[:4]
    state: dict[str, Any] = msgspec.msgpack.decode(packed)
    master = np.frombuffer(state["master"], "<f4").copy()
    vectors = tuple(np.frombuffer(data, "<f8").copy() for data in state["vectors"])
    if any(each.size != master.size for each in vectors) or master.nbytes != len(vector):
        raise StoreDamaged("the candidate's server state has another size than the model")
    server = ServerState(master=master, optimizer=state["optimizer"], vectors=vectors)
    return CandidateRecord(survey=survey, version=version_of(row[4:], vector, delta_bytes), server=server)
