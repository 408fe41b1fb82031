"""Deltas beside the database: the same bits as in it, whatever fails in between, and no file that grows for ever."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aggregator.adapters import deltas
from aggregator.adapters.deltas import FROM_BYTES, SUFFIXES, sum_of
from aggregator.adapters.errors import StoreDamaged, StoreError
from aggregator.adapters.store import Store
from aggregator.commands import Journal
from aggregator.records import JournalEntry
from tests.support.stores import contribution, no_file_larger_than, opened, saved


def large(sequence: int, size: int = 100_003) -> Journal:
    delta = np.random.default_rng(sequence).bytes(size)
    return Journal(JournalEntry(contribution=contribution(sequence=sequence), codec="f32", delta=delta))


def batch(first: int, count: int = 3) -> list[Journal]:
    return [large(sequence) for sequence in range(first, first + count)]


def files(directory: Path) -> list[Path]:
    return [directory / f"aggregator.sqlite{suffix}" for suffix in SUFFIXES]


def entries(store: Store) -> list[JournalEntry]:
    return list(store.restore().journal)


def wanted(commands: Sequence[Journal]) -> list[JournalEntry]:
    return [command.entry for command in commands]


def test_many_bytes_lie_beside_the_database_and_few_in_it(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply([large(1, FROM_BYTES - 1)])
    assert not any(path.exists() for path in files(tmp_path))
    before = store.size_bytes()
    store.apply(batch(2))
    assert files(tmp_path)[0].stat().st_size >= 3 * 100_003
    assert store.size_bytes() < before + 5 * 100_003
    store.apply([large(5, 10)])
    store.close()

    store = opened(tmp_path)
    assert entries(store) == wanted([large(1, FROM_BYTES - 1), *batch(2), large(5, 10)])
    store.apply(batch(6))
    assert entries(store)[-3:] == wanted(batch(6))
    store.close()


def test_the_files_are_used_again_with_each_version(tmp_path: Path) -> None:
    store = opened(tmp_path)
    sequence = 0
    for version in range(1, 9):
        commands = batch(sequence + 1)
        store.apply([*commands, saved(version, ()), *batch(sequence + 4)])
        assert entries(store) == wanted(batch(sequence + 4))
        store.apply(batch(sequence + 7))
        assert entries(store) == wanted(batch(sequence + 4, 6))
        sequence += 9
    assert all(path.stat().st_size < 7 * 100_003 for path in files(tmp_path))
    store.close()


def test_a_file_that_became_long_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas, "KEPT_BYTES", 400_000)
    store = opened(tmp_path)
    store.apply(batch(1))
    store.apply(batch(4))
    assert files(tmp_path)[0].stat().st_size > 600_000
    store.apply([saved(1, ()), *batch(7)])
    assert files(tmp_path)[0].stat().st_size == 400_000
    assert entries(store) == wanted(batch(7))
    store.close()


def test_a_disk_that_is_full_for_the_deltas(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply(batch(1))
    with no_file_larger_than(files(tmp_path)[0].stat().st_size + 150_000):
        for _ in range(2):
            with pytest.raises(StoreError, match="deltas-0"):
                store.apply(batch(4))
            assert entries(store) == wanted(batch(1))
        with pytest.raises(StoreError, match="deltas-1"):
            store.apply([saved(1, ()), *batch(4, 6)])
        assert entries(store) == wanted(batch(1))
    store.apply(batch(4))
    assert entries(store) == wanted(batch(1, 6))
    store.close()


def test_a_disk_that_is_full_for_the_database_only(tmp_path: Path) -> None:
    store = opened(tmp_path)
    sequence = 0
    while (tmp_path / "aggregator.sqlite-wal").stat().st_size < 4_000_000:
        sequence += 1
        store.apply([large(sequence, FROM_BYTES - 1)])
    kept = entries(store)
    bits = {path: path.read_bytes() for path in files(tmp_path) if path.exists()}
    assert not bits
    with no_file_larger_than((tmp_path / "aggregator.sqlite-wal").stat().st_size):
        for _ in range(2):
            with pytest.raises(StoreError):
                store.apply([saved(1, ()), *batch(sequence + 1)])
            assert entries(store) == kept
    store.apply(batch(sequence + 1))
    assert entries(store) == kept + wanted(batch(sequence + 1))
    store.close()
    store = opened(tmp_path)
    assert entries(store) == kept + wanted(batch(sequence + 1))
    store.close()


def test_nothing_that_a_row_names_is_overwritten_whatever_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "FROM_BYTES", 500)
    chance = random.Random(7)
    store = opened(tmp_path)
    journal: list[Journal] = []
    sequence = version = 0
    for _ in range(150):
        commands = [large(sequence + n + 1, chance.randrange(400)) for n in range(chance.randrange(1, 8))]
        ends = chance.random() < 0.3
        if chance.random() < 0.3:
            store.begin([*([saved(version + 1, ())] if ends else []), *commands])
            store._deltas.flush()  # the process dies here, between the file and the database
            store._db.execute("ROLLBACK")
            store._deltas.dropped()
        else:
            store.apply([*([saved(version + 1, ())] if ends else []), *commands])
            journal = commands if ends else journal + commands
            version += ends
            sequence += len(commands)
        if chance.random() < 0.3:
            store.close()
            store = opened(tmp_path)
        assert entries(store) == wanted(journal)
    store.close()


@pytest.mark.parametrize("harm", ["missing", "cut", "other"])
def test_files_that_do_not_belong_to_the_database(tmp_path: Path, harm: str) -> None:
    store = opened(tmp_path)
    store.apply(batch(1))
    store.close()
    file = files(tmp_path)[0]
    match harm:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(file.read_bytes()[:-1])
        case _:
            file.write_bytes(file.read_bytes()[1:] + b"x")

    store = opened(tmp_path)

    assert entries(store) == []
    assert (tmp_path / "aggregator.sqlite.corrupt-1").exists()
    assert (tmp_path / "aggregator.sqlite.corrupt-1-deltas-0").exists() == (harm != "missing")
    store.apply(batch(1))
    assert entries(store) == wanted(batch(1))
    store.close()


def test_damage_that_shows_while_it_runs(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply(batch(1))
    files(tmp_path)[0].write_bytes(bytes(400_000))
    with pytest.raises(StoreDamaged, match="deltas-0"):
        store.restore()
    store.close()


def test_a_store_of_the_first_schema_goes_on(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply([large(1, 1000)])
    before = store.restore()
    store.close()
    with closing(sqlite3.connect(tmp_path / "aggregator.sqlite")) as db:
        for column in ("delta_file", "delta_offset", "delta_size", "delta_sum", "clip"):
            db.execute(f"ALTER TABLE journal DROP COLUMN {column}")
        db.execute("ALTER TABLE lineage DROP COLUMN clip")
        db.executescript("DROP TABLE surveys; DROP TABLE answers; DROP TABLE terms; DROP TABLE candidate")
        db.execute("ALTER TABLE versions DROP COLUMN terms")
        db.execute("PRAGMA user_version = 1")
        db.commit()

    store = opened(tmp_path)
    assert store.restore().journal == before.journal
    store.apply(batch(2))
    store.close()
    store = opened(tmp_path)
    assert entries(store) == wanted([large(1, 1000), *batch(2)])
    store.close()


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 40_000])
def test_the_sum_is_what_it_says(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    padded = data + bytes(-size % 8)
    words = [int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8)]
    assert sum_of(data) % 2**64 == sum(words) % 2**64
    assert -(2**63) <= sum_of(data) < 2**63
