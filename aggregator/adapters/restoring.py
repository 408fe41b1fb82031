"""Reading the whole state back from the database."""

from __future__ import annotations

import sqlite3

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.adapters.candidate_rows import read_candidate
from aggregator.adapters.deltas import DeltaFiles
from aggregator.adapters.errors import StoreDamaged
from aggregator.adapters.rows import JOURNAL_COLUMNS, VERSION_COLUMNS, journal_entry_of, plain_of, version_of
from aggregator.adapters.survey_rows import open_surveys
from aggregator.downlink import vector_of
from aggregator.records import Counters, DeviceRecord, Findings, Restored, ServerState, Shelf, VersionRecord


def read_meta(db: sqlite3.Connection) -> dict[str, str | bytes]:
    """Return the table ``meta``."""
    return dict(db.execute("SELECT key, value FROM meta").fetchall())


def restored(db: sqlite3.Connection, deltas: DeltaFiles) -> Restored:
    """Return all that a core starts from; raise ``StoreDamaged`` when the content makes no sense, ``sqlite3.Error``."""
    try:
        return _restored(db, deltas, read_meta(db))
    except (KeyError, IndexError, TypeError, ValueError, msgspec.MsgspecError) as exc:
        raise StoreDamaged(f"the store does not hold what belongs there: {type(exc).__name__}: {exc}") from exc


def _restored(db: sqlite3.Connection, deltas: DeltaFiles, meta: dict[str, str | bytes]) -> Restored:
    version = _current_version(db)
    journal = db.execute(f"SELECT {JOURNAL_COLUMNS} FROM journal ORDER BY position")  # noqa: S608 - a constant of ours
    return Restored(
        epoch=_text(meta["epoch"]),
        store_id=_text(meta["store_id"]),
        version=version,
        instances=instances_of(meta),
        generation=int(meta["generation"]),
        issued=int(meta["issued"]),
        server=_server(db, meta, version),
        journal=tuple(journal_entry_of(row, deltas) for row in journal),
        sequences={(d, i): s for d, i, s in db.execute("SELECT device, incarnation, sequence FROM sequences")},
        devices=_devices(db),
        counters=msgspec.msgpack.decode(_bytes(meta["counters"]), type=Counters),
        withdrawn=plain_of(_text(meta["withdrawn"]), tuple[tuple[int, int], ...]),
        shelf=plain_of(_text(meta["shelf"]), tuple[Shelf, ...]),
        candidate=read_candidate(db),
        attempts=_attempts(db, version.version),
        surveys=open_surveys(db),
        # A store from before there were any has none.
        findings=plain_of(_text(meta.get("findings", "{}")), Findings),
    )


def instances_of(meta: dict[str, str | bytes]) -> tuple[str, ...]:
    """Return the processes that worked on the store, the newest last."""
    return tuple(_text(meta.get("instances", "")).split())


def _current_version(db: sqlite3.Connection) -> VersionRecord:
    row = db.execute(f"SELECT {VERSION_COLUMNS} FROM versions ORDER BY version DESC LIMIT 1").fetchone()  # noqa: S608 - a constant of ours
    if row is None:
        raise StoreDamaged("the store holds no version")
    blobs = db.execute("SELECT vector, delta FROM parameters WHERE version = ?", (row[0],)).fetchone()
    if blobs is None:
        raise StoreDamaged(f"the parameters of version {row[0]}, the current one, are missing")
    return version_of(row, *blobs)


def _attempts(db: sqlite3.Connection, version: int) -> int:
    query = "SELECT count(*) FROM aggregations WHERE outcome IN ('withdrawn', 'withheld') AND base_version = ?"
    found: int = db.execute(query, (version,)).fetchone()[0]
    return found


def _server(db: sqlite3.Connection, meta: dict[str, str | bytes], version: VersionRecord) -> ServerState:
    kept: dict[str, bytes] = dict(db.execute("SELECT name, vector FROM server").fetchall())
    master = vector_of(kept.pop("master", version.parameters))
    vectors: list[NDArray[np.float64]] = [
        np.frombuffer(kept[str(index)], dtype="<f8").copy() for index in range(len(kept))
    ]
    if any(vector.size != master.size for vector in vectors):
        raise StoreDamaged("the server optimizer's state has another size than the model")
    return ServerState(master=master.copy(), optimizer=_text(meta["optimizer"]), vectors=tuple(vectors))


def _devices(db: sqlite3.Connection) -> tuple[DeviceRecord, ...]:
    decode = msgspec.msgpack.Decoder(DeviceRecord).decode
    return tuple(decode(record) for (record,) in db.execute("SELECT record FROM devices ORDER BY device"))


def _text(value: str | bytes) -> str:
    if not isinstance(value, str):
        raise StoreDamaged("the store holds bytes where text belongs")
    return value


def _bytes(value: str | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise StoreDamaged("the store holds text where bytes belong")
    return value
