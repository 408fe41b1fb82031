"""SIGKILL at any moment, and disks that fill up."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import defaultdict
from itertools import count
from pathlib import Path

import pytest

from aggregator.adapters.errors import StoreError
from aggregator.adapters.registry import open_registry
from aggregator.adapters.store import Store
from tests.support.stores import INCARNATION, contribution, journal, no_file_larger_than, opened, saved


def check_books(directory: Path) -> tuple[int, int]:
    """Every accepted update is in lineage or journal exactly once; return how many, and the version."""
    with open_registry(directory) as registry:
        accepted = registry.accepted()
        sequences = registry.sequences()
        versions = [line.version for line in registry.versions()]
    assert len(set(accepted)) == len(accepted)
    assert versions == list(range(len(versions)))
    by_device = defaultdict(list)
    for device, incarnation, sequence in accepted:
        by_device[device, incarnation].append(sequence)
    assert by_device.keys() == sequences.keys()
    for key, last in sequences.items():
        assert sorted(by_device[key]) == list(range(1, last + 1))
    return len(accepted), versions[-1]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    chance = random.Random(5)
    for life in range(8):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.support.store_writer", str(tmp_path), str(life)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        ) as writer:
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"
            said = "0 0"
            for _ in range(chance.randint(1, 40)):
                said = writer.stdout.readline()
            writer.kill()
            # The kill may have cut the last line.
            whole = [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
            said = (whole or [said])[-1]
        safe_updates, safe_version = map(int, said.split())

        accepted, version = check_books(tmp_path)

        # What was said to be safe is there; a last batch may be there of which it could not tell any more.
        assert safe_updates <= accepted <= safe_updates + 12
        assert safe_version <= version <= safe_version + 12
        store = opened(tmp_path)
        restored = store.restore()
        assert restored.version.version == version
        for entry in restored.journal:
            assert entry == journal(entry.contribution.device_id, entry.contribution.sequence).entry
        store.close()


def fill(store: Store, first: int) -> int:
    """Store updates until the store refuses one; return the last that it took."""
    for sequence in count(first):
        try:
            store.apply([journal(sequence=sequence)])
        except StoreError:
            return sequence - 1
    raise AssertionError


def test_a_full_disk_and_then_room_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply([journal(sequence=1)])
    before = store.restore()
    with no_file_larger_than(store.size_bytes()):
        done = fill(store, first=2)
        # What it holds is what was stored, and it can be read while the disk is full.
        restored = store.restore()
        assert restored.sequences == {("press-01", INCARNATION): done}
        assert len(restored.journal) == done
        with pytest.raises(StoreError):
            store.apply([saved(1, tuple(contribution(sequence=s) for s in range(1, done + 1)))])

    store.apply([journal(sequence=done + 1)])
    store.apply([saved(1, tuple(contribution(sequence=s) for s in range(1, done + 2)))])
    assert store.restore().epoch == before.epoch
    store.close()
    assert check_books(tmp_path) == (done + 1, 1)


def test_a_full_disk_at_the_start(tmp_path: Path) -> None:
    with no_file_larger_than(1000), pytest.raises(StoreError):
        opened(tmp_path / "new")
    store = opened(tmp_path / "new")
    assert store.restore().version.version == 0
    store.close()


def test_a_disk_that_cannot_be_written_to(tmp_path: Path) -> None:
    store = opened(tmp_path / "state")
    store.apply([journal(sequence=1)])
    store._db.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match="readonly"):
        store.apply([journal(sequence=2)])
    store._db.execute("PRAGMA query_only = OFF")
    store.apply([journal(sequence=2)])
    store.close()
    assert check_books(tmp_path / "state") == (2, 0)
