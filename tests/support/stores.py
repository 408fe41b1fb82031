"""Small records for tests of the aggregator's store, and a store to put them into."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.adapters.lock import StateLock, StoreInUse
from aggregator.adapters.opening import FirstVersion, Founding, open_store
from aggregator.adapters.store import Store
from aggregator.buffer import Contribution
from aggregator.commands import Journal, SaveAggregation
from aggregator.configuration import DownlinkTable, RegistryTable
from aggregator.downlink import render
from aggregator.recording import record_of, shelf_of
from aggregator.records import Aggregation, JournalEntry, Outcome, ServerState, VersionRecord
from protocol import tensors

SIZE = 48
INCARNATION = "00112233445566aa"


def vector(seed: int, size: int = SIZE) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def version_record(number: int, values: NDArray[np.float32], **fields: Any) -> VersionRecord:
    made = render(values, DownlinkTable(), np.random.default_rng(0))
    record = record_of(number, fields.pop("kind", "aggregate"), made, 1.7e9 + number)
    return replace(record, **fields)


def first(number: int = 0, values: NDArray[np.float32] | None = None) -> FirstVersion:
    master = vector(0) if values is None else values
    record = version_record(number, master, kind="initial")
    return record, ServerState(master=master, optimizer="plain", vectors=()), tuple(shelf_of(number, record))


def founding(
    federation: str = "test",
    layout: str = "a" * 64,
    features: dict[str, Any] | None = None,
    meaning: str = "",
    **spec: Any,
) -> Founding:
    return Founding(
        features=features or {},
        meaning=meaning,
        federation=federation,
        layout=layout,
        spec={"kind": "softmax", **spec},
        begin=first,
        go_on=lambda number, parameters: first(number, np.frombuffer(parameters, "<f4")),
    )


def opened(directory: Path, limits: RegistryTable | None = None, **changes: Any) -> Store:
    return open_store(directory, founding(**changes), limits or RegistryTable())


def contribution(device: str = "press-01", sequence: int = 1, incarnation: str = INCARNATION) -> Contribution:
    return Contribution(
        device_id=device,
        incarnation=incarnation,
        sequence=sequence,
        base_version=0,
        staleness=sequence % 3,
        num_examples=10 + sequence,
        num_steps=4,
        weight=(10 + sequence) / (1 + sequence % 3) ** 0.5,
        update_bytes=100,
        metrics={"loss": 1.0 / sequence, "accuracy": 0.1},
    )


def journal(device: str = "press-01", sequence: int = 1, incarnation: str = INCARNATION) -> Journal:
    delta = tensors.encode("int8", vector(sequence), np.random.default_rng(sequence))
    return Journal(JournalEntry(contribution=contribution(device, sequence, incarnation), codec="int8", delta=delta))


def saved(number: int, lineage: tuple[Contribution, ...], outcome: Outcome = "published") -> SaveAggregation:
    """Return the end of a buffer: with version ``number`` unless it is withheld."""
    withheld = outcome == "withheld"
    values = vector(1000 + number)
    aggregation = Aggregation(
        outcome=outcome,
        base_version=number - 1,
        version=None if withheld else number,
        reason="too far" if withheld else "",
        created=1.7e9 + number,
        lineage=lineage,
        metrics={"loss": float("inf")} if withheld else {"loss": 0.5},
    )
    if withheld:
        return SaveAggregation(aggregation=aggregation)
    weight = sum(c.weight for c in lineage)
    metrics = {"accuracy": 0.5 + number / 100, "loss": 0.5}
    record = version_record(number, values, metrics=metrics, num_updates=len(lineage), total_weight=weight)
    moments = (vector(number).astype(np.float64) / 3, np.arange(SIZE) / 7)
    server = ServerState(master=values, optimizer="adam", vectors=moments)
    return SaveAggregation(
        aggregation=aggregation, version=record, server=server, shelf=tuple(shelf_of(number, record)), withdrawn=()
    )


def is_locked(directory: Path) -> bool:
    """Return whether somebody works on the store in this directory."""
    try:
        StateLock(directory).release()
    except StoreInUse:
        return True
    return False


@contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    """Let the kernel refuse to make this process's files grow beyond the size: to SQLite, a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
