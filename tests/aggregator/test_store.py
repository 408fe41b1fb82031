"""What the store gives back is what was put in, and a batch is all or nothing."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from msgspec import structs

from aggregator.adapters.registry import NotKept, open_registry
from aggregator.adapters.rows import contribution_of, contribution_row
from aggregator.buffer import Buffer
from aggregator.commands import SaveFleet
from aggregator.configuration import RegistryTable
from aggregator.records import MAX_INCARNATIONS, Counters, DeviceRecord, JournalEntry, ServerState
from protocol import tensors
from protocol.chunks import blob_of
from protocol.messages import DeltaRef
from tests.support.stores import SIZE, contribution, journal, opened, saved, vector, version_record


def buffer_of(entries: tuple[JournalEntry, ...]) -> Buffer:
    buffer = Buffer(SIZE)
    for entry in entries:
        buffer.add(entry.contribution, tensors.decode(entry.codec, entry.delta, SIZE))
    return buffer


def test_a_new_store_holds_version_0(tmp_path: Path) -> None:
    store = opened(tmp_path / "state" / "deep")
    restored = store.restore()
    store.close()

    assert restored.version.version == 0
    assert restored.version.parameters == vector(0).tobytes()
    assert restored.version.blob_bytes == restored.version.parameters
    assert np.array_equal(restored.server.master, vector(0))
    assert restored.journal == ()
    assert len(restored.epoch) == len(restored.store_id) == 16
    assert restored.shelf[0].digest == restored.version.blob.digest


def test_replay_gives_the_same_buffer_bit_for_bit(tmp_path: Path) -> None:
    commands = [journal(f"press-{number % 5}", number) for number in range(1, 41)]
    before = buffer_of(tuple(command.entry for command in commands))
    store = opened(tmp_path)
    for start in range(0, 40, 7):
        store.apply(commands[start : start + 7])
    store.close()

    store = opened(tmp_path)
    restored = store.restore()
    store.close()

    after = buffer_of(restored.journal)
    assert after.contributions == before.contributions
    assert after.sum.total.tobytes() == before.sum.total.tobytes()
    assert after.sum.weight == before.sum.weight


def test_identity_survives_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first = store.restore()
    store.close()

    store = opened(tmp_path)
    again = store.restore()
    store.close()

    assert (again.epoch, again.store_id) == (first.epoch, first.store_id)


def test_a_version_and_all_that_comes_with_it(tmp_path: Path) -> None:
    save = replace(saved(1, (contribution(sequence=1), contribution(sequence=2))), withdrawn=((3, 7), (9, 9)))
    store = opened(tmp_path)
    store.apply([journal(sequence=1), journal(sequence=2)])
    store.apply([save, journal(sequence=3)])
    store.close()

    store = opened(tmp_path)
    restored = store.restore()
    store.close()

    assert save.version
    assert save.server
    assert restored.version == save.version
    assert restored.server.optimizer == "adam"
    assert np.array_equal(restored.server.master, save.server.master)
    for kept, given in zip(restored.server.vectors, save.server.vectors, strict=True):
        assert kept.tobytes() == given.tobytes()
    assert restored.withdrawn == ((3, 7), (9, 9))
    assert restored.shelf == save.shelf
    assert [entry.contribution.sequence for entry in restored.journal] == [3]
    assert list(restored.sequences.values()) == [3]


def test_a_master_that_differs_from_the_version_is_kept(tmp_path: Path) -> None:
    save = saved(1, (contribution(),))
    master = vector(77)
    server = ServerState(master=master, optimizer="plain", vectors=())
    store = opened(tmp_path)
    store.apply([replace(save, server=server)])
    assert np.array_equal(store.restore().server.master, master)
    store.apply([saved(2, (contribution(sequence=2),))])
    assert np.array_equal(store.restore().server.master, vector(1002))
    store.close()


def test_a_delta_and_half_precision_come_back(tmp_path: Path) -> None:
    store = opened(tmp_path)
    values = vector(5).astype(np.float16).astype(np.float32)
    record = version_record(1, values)
    blob_bytes = tensors.encode("f16", values, np.random.default_rng(0))
    record = replace(
        record,
        blob=blob_of(blob_bytes, "f16", 512),
        blob_bytes=blob_bytes,
        delta=DeltaRef(base_version=0, blob=blob_of(b"small", "int8", 512)),
        delta_bytes=b"small",
    )
    store.apply([replace(saved(1, (contribution(),)), version=record)])
    assert store.restore().version == record
    store.close()


def test_what_a_later_end_of_the_buffer_consumes_is_not_journalled_but_counts(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply([journal(sequence=1)])
    store.apply(
        [
            journal(sequence=2),
            saved(1, (contribution(sequence=1), contribution(sequence=2))),
            journal(sequence=3),
            saved(2, (contribution(sequence=3),), "withheld"),
            journal(sequence=4),
        ]
    )
    restored = store.restore()
    with open_registry(tmp_path) as registry:
        accepted = registry.accepted()
        status = registry.status()
    store.close()

    assert [entry.contribution.sequence for entry in restored.journal] == [4]
    assert sorted(sequence for _, _, sequence in accepted) == [1, 2, 3, 4]
    assert restored.version.version == status.version == 1
    assert status.buffered == 1


def test_a_batch_is_all_or_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply([saved(1, (contribution(),))])
    before = store.restore()

    with pytest.raises(sqlite3.IntegrityError):  # a fault of ours must not pass for a full disk
        store.apply([journal(sequence=2), saved(1, ())])

    after = store.restore()
    assert after.journal == before.journal == ()
    assert after.sequences == before.sequences
    store.apply([journal(sequence=2)])
    assert len(store.restore().journal) == 1
    store.close()


def test_a_version_without_server_state_is_a_fault(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(ValueError, match="belong together"):
        store.apply([journal(), replace(saved(1, ()), server=None)])
    assert store.restore().journal == ()
    store.close()


def test_fleet_and_counters(tmp_path: Path) -> None:
    store = opened(tmp_path)
    record = DeviceRecord(device_id="press-01", accepted=3, refusals={"norm": 2}, state="idle", last_seen=12.5)
    counters = Counters(received=5, accepted=3, refusals={"norm": 2}, staleness={"0": 3})
    store.apply([SaveFleet(devices=(record, DeviceRecord(device_id="press-02")), counters=Counters())])
    store.apply([SaveFleet(devices=(record,), counters=counters)])
    restored = store.restore()
    store.close()

    assert restored.devices == (record, DeviceRecord(device_id="press-02"))
    assert restored.counters == counters


def test_old_incarnations_of_a_device_are_forgotten(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply([journal("other", 9)])
    names = [f"{number:016x}" for number in range(MAX_INCARNATIONS + 4)]
    for name in reversed(names):
        store.apply([journal("press-01", 1, name)])
    store.apply([journal("press-01", 2, names[MAX_INCARNATIONS - 1])])
    sequences = store.restore().sequences
    store.close()

    kept = {incarnation for device, incarnation in sequences if device == "press-01"}
    assert kept == set(names[:MAX_INCARNATIONS])
    assert sequences["press-01", names[MAX_INCARNATIONS - 1]] == 2
    assert ("other", "00112233445566aa") in sequences


def test_the_registry_is_bounded(tmp_path: Path) -> None:
    store = opened(tmp_path, RegistryTable(keep_parameters=3, keep_lineage=5))
    for number in range(1, 11):
        store.apply([saved(number, (contribution(sequence=number),))])
    with open_registry(tmp_path) as registry:
        lines = registry.versions()
        accepted = registry.accepted()
        assert [line.version for line in lines] == [6, 7, 8, 9, 10]
        assert [line.version for line in lines if line.has_parameters] == [8, 9, 10]
        assert sorted(sequence for *_, sequence in accepted) == [6, 7, 8, 9, 10]
        with pytest.raises(NotKept, match="no longer kept; parameters are kept of versions 8 to 10"):
            registry.parameters(6)
        with pytest.raises(NotKept, match="there is no version 3"):
            registry.lineage(3)
        assert registry.parameters(9) == vector(1009).tobytes()
    assert store.restore().version.version == 10
    store.close()


def test_withheld_buffers_are_bounded_too(tmp_path: Path) -> None:
    store = opened(tmp_path, RegistryTable(keep_parameters=3, keep_lineage=5))
    for number in range(1, 21):
        store.apply([saved(1, (contribution(sequence=number),), "withheld")])
    with open_registry(tmp_path) as registry:
        assert len(registry.accepted()) == 5
        assert [line.version for line in registry.versions()] == [0]
        assert registry.parameters(0) == vector(0).tobytes()
    store.close()


def test_the_registry_reads_while_the_store_writes(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with open_registry(tmp_path) as registry:
        for number in range(1, 6):
            store.apply([journal(sequence=number), saved(number, (contribution(sequence=number),))])
            assert registry.versions()[-1].version == number
            lineage = registry.lineage(number)
            assert [c.sequence for c in lineage.contributions] == [number]
            assert lineage.outcome == "published"
        with pytest.raises(sqlite3.OperationalError):
            registry._db.execute("DELETE FROM lineage")
    assert store.size_bytes() > 4096
    store.close()


def test_the_registry_of_a_rollback(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply([saved(1, (contribution(),))])
    save = saved(2, (contribution(sequence=2),), "set-aside")
    assert save.version
    store.apply([replace(save, version=replace(save.version, kind="rollback", rolled_back_to=0, num_updates=0))])
    with open_registry(tmp_path) as registry:
        lineage = registry.lineage(2)
        assert lineage.outcome == "set-aside"
        assert lineage.line.rolled_back_to == 0
        assert registry.lineage(0).contributions == ()
        assert registry.spec() == {"kind": "softmax"}
    store.close()


def test_an_empty_batch_costs_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    size = store.size_bytes()
    store.apply([])
    assert store.size_bytes() == size
    store.close()


@hypothesis.given(st.dictionaries(st.text(max_size=64), st.floats(allow_nan=False, allow_infinity=False), max_size=32))
def test_metrics_of_an_update_come_back_bit_for_bit(metrics: dict[str, float]) -> None:
    found = contribution_of(contribution_row(structs.replace(contribution(), metrics=metrics))).metrics
    assert [(name, value.hex()) for name, value in found.items()] == [(n, v.hex()) for n, v in metrics.items()]
