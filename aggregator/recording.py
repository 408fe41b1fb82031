"""A version's record and its place on the shelf, from what was rendered; and the version that a store begins with."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from aggregator.buffer import Buffer
from aggregator.configuration import AggregatorSettings
from aggregator.downlink import Rendition, render
from aggregator.frozen import Carried
from aggregator.records import ServerState, Shelf, VersionKind, VersionRecord
from aggregator.server_optimizer import server_optimizer
from aggregator.stepping import initial_state
from models import Model


def shelf_of(version: int, made: Rendition | VersionRecord, carried: Carried | None = None) -> list[Shelf]:
    """Return the blobs of a version as they will lie on the broker: each version needs what is carried, too."""
    blobs = [made.blob, *([made.delta.blob] if made.delta else []), *([carried.blob] if carried else [])]
    return [Shelf(version=version, digest=blob.digest, chunk_count=blob.chunk_count) for blob in blobs]


def record_of(version: int, kind: VersionKind, made: Rendition, created: float) -> VersionRecord:
    """Return a version without metrics or lineage figures."""
    return VersionRecord(
        version=version,
        kind=kind,
        created=created,
        parameters=made.parameters,
        digest=made.digest,
        blob=made.blob,
        blob_bytes=made.blob_bytes,
        delta=made.delta,
        delta_bytes=made.delta_bytes,
    )


def filled(record: VersionRecord, folded: Buffer, metrics: dict[str, float], step_norm: float) -> VersionRecord:
    """Return a version with its metrics, and the figures of the buffer that it was made of."""
    return replace(
        record, metrics=metrics, num_updates=len(folded), total_weight=folded.sum.weight, step_norm=step_norm
    )


def comparison_name(epoch: str, buffer: Buffer) -> str:
    """Return what the survey is called that compares the candidate which this buffer leads to.

    The same again when the transaction fails and the journal is replayed; another one for any other buffer.
    """
    parts = [f"{line.device_id}/{line.incarnation}/{line.sequence}" for line in buffer.contributions]
    return hashlib.sha256("\n".join([epoch, "candidate", *parts]).encode()).hexdigest()[:16]


def first_version(
    settings: AggregatorSettings, model: Model, created: float, carried: Carried | None = None
) -> tuple[VersionRecord, ServerState, tuple[Shelf, ...]]:
    """Return version 0, the untrained model that the seed gives, with all that a new store has to hold."""
    seed = settings.aggregator.seed
    master = model.init(np.random.default_rng(seed))
    made = render(master, settings.downlink, np.random.default_rng([seed, 0]))
    server = initial_state(master, server_optimizer(settings.aggregation))
    return record_of(0, "initial", made, created), server, tuple(shelf_of(0, made, carried))
