"""Numbers that must not fall back: over restarts, over a lost store, and with a clock that does."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.adapters.errors import StoreError
from aggregator.adapters.opening import open_store
from aggregator.adapters.snapshot import SNAPSHOT_NAME, Snapshot, write_snapshot
from aggregator.commands import SaveIssued
from aggregator.configuration import RegistryTable
from aggregator.records import Restored
from protocol.chunks import digest_of
from tests.support.stores import founding, vector

NOW = 1.8e9


def restored(directory: Path, clock: float = NOW, issue: int | None = None, *, signed: bool = True) -> Restored:
    store = open_store(directory, replace(founding(), clock=lambda: clock, signed=signed), RegistryTable())
    try:
        if issue is not None:
            store.apply([SaveIssued(issue)])
        return store.restore()
    finally:
        store.close()


def snapshot(directory: Path, generation: int) -> None:
    parameters = vector(7).tobytes()
    write_snapshot(
        directory,
        Snapshot(
            federation="test",
            store_id="5" * 16,
            generation=generation,
            layout="a" * 64,
            spec={},
            version=7,
            parameters=parameters,
            digest=digest_of(parameters),
        ),
    )


def test_an_epoch_is_numbered_by_the_clock_and_keeps_its_number(tmp_path: Path) -> None:
    first, again = restored(tmp_path), restored(tmp_path, NOW + 100)

    assert first.generation == again.generation == int(NOW * 1000)
    assert again.epoch == first.epoch


def test_every_start_has_a_higher_number_also_when_the_clock_falls_back(tmp_path: Path) -> None:
    numbers = [restored(tmp_path, clock).issued for clock in (NOW, NOW + 5, 0.0, NOW + 5, NOW + 6)]

    assert numbers == sorted(set(numbers))
    assert numbers[1] == int((NOW + 5) * 1000)
    assert numbers[-1] == int((NOW + 6) * 1000)


def test_a_commands_number_is_kept(tmp_path: Path) -> None:
    number = int(NOW * 2000)

    assert restored(tmp_path, issue=number).issued == number
    assert restored(tmp_path).issued == number + 1


def test_a_store_begun_anew_goes_on_above_what_the_snapshot_knows(tmp_path: Path) -> None:
    snapshot(tmp_path, generation=int(NOW * 1000) + 77)

    found = restored(tmp_path, NOW)

    assert found.version.version == 7
    assert found.generation == int(NOW * 1000) + 78
    assert found.issued > found.generation


def test_a_clock_that_was_never_set_begins_no_epoch(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"before 2025.*set the clock"):
        restored(tmp_path, clock=3600.0)
    assert restored(tmp_path).generation == int(NOW * 1000), "the refusal left a store behind"
    assert restored(tmp_path, clock=3600.0).version.version == 0, "an existing store works with any clock"


def test_without_signatures_any_clock_will_do(tmp_path: Path) -> None:
    assert restored(tmp_path, clock=3600.0, signed=False).generation == 3_600_000


def test_a_store_from_before_there_were_numbers_gets_the_time_it_was_made(tmp_path: Path) -> None:
    before = restored(tmp_path)
    with closing(sqlite3.connect(tmp_path / "aggregator.sqlite")) as db, db:
        db.execute("DELETE FROM meta WHERE key IN ('generation', 'issued')")
        db.execute("UPDATE meta SET value = '1750000000.25' WHERE key = 'created'")
    assert not (tmp_path / SNAPSHOT_NAME).exists()

    found = restored(tmp_path)

    assert (found.generation, found.epoch) == (1_750_000_000_250, before.epoch)
    assert found.issued == int(NOW * 1000)
