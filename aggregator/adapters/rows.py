"""Rows of the database from records, and records from rows; nothing here talks to the database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec
import numpy as np

from aggregator.adapters.deltas import DeltaFiles, Place
from aggregator.adapters.errors import StoreDamaged
from aggregator.buffer import Contribution
from aggregator.records import Aggregation, JournalEntry, VersionRecord
from protocol import tensors
from protocol.chunks import blob_of, digest_of
from protocol.messages import BlobRef, DeltaRef

Row: TypeAlias = tuple[Any, ...]

CONTRIBUTION_COLUMNS = (
    "device, incarnation, sequence, base_version, staleness, num_examples, num_steps, weight, update_bytes, metrics,"
    " clip"
)
JOURNAL_COLUMNS = f"{CONTRIBUTION_COLUMNS}, codec, delta, delta_file, delta_offset, delta_size, delta_sum"
VERSION_COLUMNS = (
    "version, kind, created, digest, blob, delta, metrics, num_updates, total_weight, step_norm, rolled_back_to"
)

_PlainT = TypeVar("_PlainT")

# The standard encoder, not msgspec's: a withheld candidate's loss may be infinite, and must come back as that.
_encode_json = json.JSONEncoder(separators=(",", ":")).encode
# An update's metrics are finite, or it would have been refused; and there are many updates.
_encode_finite = msgspec.json.Encoder().encode


def contribution_row(contribution: Contribution) -> Row:
    """Return the values of ``CONTRIBUTION_COLUMNS``."""
    return (
        contribution.device_id,
        contribution.incarnation,
        contribution.sequence,
        contribution.base_version,
        contribution.staleness,
        contribution.num_examples,
        contribution.num_steps,
        contribution.weight,
        contribution.update_bytes,
        _encode_finite(contribution.metrics).decode(),
        contribution.clip,
    )


def contribution_of(row: Row) -> Contribution:
    """Return the contribution in the values of ``CONTRIBUTION_COLUMNS``."""
    return Contribution(
        device_id=row[0],
        incarnation=row[1],
        sequence=row[2],
        base_version=row[3],
        staleness=row[4],
        num_examples=row[5],
        num_steps=row[6],
        weight=row[7],
        update_bytes=row[8],
        metrics=metrics_of(row[9]),
        clip=row[10],
    )


def journal_row(entry: JournalEntry, place: Place | None) -> Row:
    """Return the values of ``JOURNAL_COLUMNS``; the delta is in them if it has no place outside."""
    if place is None:
        where: Row = (entry.delta, None, None, None, None)
    else:
        where = (b"", place.file, place.offset, place.size, place.sum)
    return (*contribution_row(entry.contribution), entry.codec, *where)


def place_of(row: Row) -> Place | None:
    """Return where the delta of a row of ``JOURNAL_COLUMNS`` lies, None when it is in the row."""
    if row[13] is None:
        return None
    return Place(file=row[13], offset=row[14], size=row[15], sum=row[16])


def journal_entry_of(row: Row, deltas: DeltaFiles) -> JournalEntry:
    """Return the entry in such values; raise ``StoreDamaged`` when its delta is not where it should be."""
    place = place_of(row)
    delta = row[12] if place is None else deltas.read(place)
    return JournalEntry(contribution=contribution_of(row), codec=row[11], delta=delta)


def aggregation_row(aggregation: Aggregation) -> Row:
    """Return the values of ``aggregations`` but its id."""
    return (
        aggregation.outcome,
        aggregation.version,
        aggregation.base_version,
        aggregation.reason,
        aggregation.created,
        _encode_json(aggregation.metrics),
    )


def version_row(version: VersionRecord) -> Row:
    """Return the values of ``VERSION_COLUMNS``."""
    return (
        version.version,
        version.kind,
        version.created,
        version.digest,
        json_of(version.blob),
        json_of(version.delta) if version.delta else None,
        _encode_json(version.metrics),
        version.num_updates,
        version.total_weight,
        version.step_norm,
        version.rolled_back_to,
    )


def version_of(row: Row, vector: bytes, delta_bytes: bytes) -> VersionRecord:
    """Return the version; its blob is made anew from the parameters, which is exact for every downlink encoding."""
    if digest_of(vector) != row[3]:
        raise StoreDamaged(f"the parameters of version {row[0]} do not have their digest")
    blob = plain_of(row[4], BlobRef)
    values = np.frombuffer(vector, dtype="<f4")
    blob_bytes = tensors.encode(blob.encoding, values, np.random.default_rng(0))
    return VersionRecord(
        version=row[0],
        kind=row[1],
        created=row[2],
        parameters=vector,
        digest=row[3],
        blob=blob_of(blob_bytes, blob.encoding, blob.chunk_bytes),
        blob_bytes=blob_bytes,
        delta=plain_of(row[5], DeltaRef) if row[5] else None,
        delta_bytes=delta_bytes,
        metrics=metrics_of(row[6]),
        num_updates=row[7],
        total_weight=row[8],
        step_norm=row[9],
        rolled_back_to=row[10],
    )


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Return the metrics as JSON, infinities included."""
    return _encode_json(dict(metrics))


def metrics_of(text: str) -> dict[str, float]:
    """Return the metrics in their JSON."""
    found: dict[str, float] = json.loads(text)
    return found


def json_of(value: Any) -> str:  # noqa: ANN401 - whatever msgspec can write
    """Return the value as JSON text."""
    return msgspec.json.encode(value).decode()


def plain_of(text: str, wanted: type[_PlainT]) -> _PlainT:
    """Return the value in its JSON, or raise ``StoreDamaged``."""
    try:
        return msgspec.json.decode(text, type=wanted)
    except msgspec.DecodeError as exc:
        raise StoreDamaged(f"a {wanted.__name__} cannot be read: {exc}") from exc
