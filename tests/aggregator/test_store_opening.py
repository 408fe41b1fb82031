"""What happens when the store is not there, not ours, in use, or broken."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.adapters.errors import StoreDamaged, StoreError, StoreRefused
from aggregator.adapters.lock import StoreInUse
from aggregator.adapters.opening import KEPT_INSTANCES, KEPT_WRECKS
from aggregator.adapters.registry import open_registry
from aggregator.adapters.schema import DATABASE_NAME, connect
from aggregator.adapters.snapshot import SNAPSHOT_NAME, Snapshot, read_snapshot, write_snapshot
from aggregator.records import Restored, Shelf
from protocol.chunks import digest_of
from tests.support.stores import contribution, is_locked, journal, opened, saved, vector

LAYOUT = "a" * 64


def filled(directory: Path) -> Restored:
    store = opened(directory)
    store.apply([journal(sequence=1), saved(1, (contribution(),)), journal(sequence=2)])
    restored = store.restore()
    store.close()
    return restored


def snapshot(version: int = 7, **changes: object) -> Snapshot:
    parameters = vector(version).tobytes()
    fields = {
        "federation": "test",
        "store_id": "5" * 16,
        "layout": LAYOUT,
        "spec": {},
        "version": version,
        "parameters": parameters,
        "digest": digest_of(parameters),
        "shelf": (Shelf(version=6, digest="b" * 64, chunk_count=2),),
        **changes,
    }
    return Snapshot(**fields)  # type: ignore[arg-type] # some tests give wrong ones


def reopened(directory: Path) -> Restored:
    store = opened(directory)
    try:
        return store.restore()
    finally:
        store.close()


def database(directory: Path) -> Path:
    return directory / "aggregator.sqlite"


# -- not ours ------------------------------------------------------------------------------------------------------


def test_another_federation_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(StoreRefused, match="belongs to federation 'test', the configuration says 'other'"):
        opened(tmp_path, federation="other")
    assert reopened(tmp_path).version.version == 1


def test_another_layout_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(StoreRefused, match=r"set \[model\] back to that, or choose another state_dir"):
        opened(tmp_path, layout="b" * 64)
    assert not is_locked(tmp_path)


def test_another_spec_of_the_same_shape_goes_on_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path)
    store = opened(tmp_path, l2=0.5)
    store.close()
    assert "was changed" in caplog.text
    caplog.clear()
    opened(tmp_path, l2=0.5).close()
    assert not caplog.text
    with open_registry(tmp_path) as registry:
        assert registry.spec() == {"kind": "softmax", "l2": 0.5}


def test_inputs_of_another_meaning_are_refused(tmp_path: Path) -> None:
    opened(tmp_path, features={"window": 10}, meaning="a" * 64).close()
    others: list[dict[str, Any]] = [{"features": {"window": 20}, "meaning": "b" * 64}, {}]
    for other in others:
        with pytest.raises(
            StoreRefused, match=r'"window": 10} there.*Set \[features\] back to that, or choose another'
        ):
            opened(tmp_path, **other)
    assert not is_locked(tmp_path)
    opened(tmp_path, features={"window": 10}, meaning="a" * 64).close()


def test_a_pipeline_for_a_store_of_ready_examples_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(database(tmp_path))) as db, db:
        db.execute("DELETE FROM meta WHERE key IN ('features', 'meaning')")  # as stores were before there were any
    with pytest.raises(StoreRefused, match="ready examples, without"):
        opened(tmp_path, features={"window": 10}, meaning="a" * 64)
    assert reopened(tmp_path).version.version == 1


def test_another_pipeline_of_the_same_meaning_goes_on_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(tmp_path, features={"stride": 10}, meaning="a" * 64).close()
    opened(tmp_path, features={"stride": 5}, meaning="a" * 64).close()
    assert "[features] was changed" in caplog.text
    caplog.clear()
    opened(tmp_path, features={"stride": 5}, meaning="a" * 64).close()
    assert not caplog.text


def test_a_snapshot_of_inputs_of_another_meaning_is_not_gone_on_with(tmp_path: Path) -> None:
    write_snapshot(tmp_path, snapshot(version=6, meaning="a" * 64))
    assert reopened(tmp_path).version.version == 0


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(database(tmp_path))) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreRefused, match=r"newer fedmq \(schema 99, this one knows 6\)"):
        opened(tmp_path)
    with pytest.raises(StoreRefused, match="schema 99"), open_registry(tmp_path):
        pass


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(database(tmp_path))) as db:
        db.execute("CREATE TABLE bookmarks (url)")
    with pytest.raises(StoreRefused, match="another program"):
        opened(tmp_path)
    with closing(sqlite3.connect(database(tmp_path))) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]


def test_a_state_dir_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="file"):
        opened(tmp_path / "file" / "state")


def test_a_registry_without_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="has the aggregator been started"), open_registry(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_registry_of_a_store_that_is_just_being_made(tmp_path: Path) -> None:
    refused = pytest.raises(StoreError, match="starting for the first time; ask again")
    with closing(connect(database(tmp_path))), refused, open_registry(tmp_path):
        pass


# -- in use --------------------------------------------------------------------------------------------------------


def test_two_processes(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.support.stores import opened;"
        "store = opened(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreInUse, match=rf"pid {other.pid}\); stop it first"):
            opened(tmp_path)
        assert is_locked(tmp_path)
        other.send_signal(signal.SIGKILL)
        other.wait()
    # The kernel has let go of it, though nobody said goodbye.
    assert not is_locked(tmp_path)
    assert reopened(tmp_path).version.version == 0


def test_a_failed_opening_lets_go_of_the_directory(tmp_path: Path) -> None:
    filled(tmp_path)
    for _ in range(3):
        with pytest.raises(StoreRefused):
            opened(tmp_path, federation="other")
    assert reopened(tmp_path).version.version == 1


# -- broken --------------------------------------------------------------------------------------------------------


def test_garbage_without_a_snapshot_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = filled(tmp_path)
    database(tmp_path).write_bytes(os.urandom(20_000))

    after = reopened(tmp_path)

    assert after.version.version == 0
    assert after.epoch != before.epoch
    assert after.journal == ()
    assert (tmp_path / "aggregator.sqlite.corrupt-1").stat().st_size == 20_000
    assert any(record.levelno == logging.ERROR and "broken" in record.message for record in caplog.records)


def test_garbage_with_a_snapshot_goes_on_in_a_new_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = filled(tmp_path)
    write_snapshot(tmp_path, snapshot(7))
    database(tmp_path).write_bytes(b"not a database, but long enough to be read as one" * 50)

    after = reopened(tmp_path)

    assert after.version.version == 7
    assert after.version.parameters == vector(7).tobytes()
    assert np.array_equal(after.server.master, vector(7))
    assert after.epoch != before.epoch
    assert after.store_id == "5" * 16  # the session at the broker goes on
    assert [shelf.version for shelf in after.shelf] == [6, 7]
    assert "new epoch" in caplog.text
    assert reopened(tmp_path).epoch == after.epoch


@pytest.mark.parametrize(
    "changes",
    [{"federation": "other"}, {"layout": "b" * 64}, {"parameters": b"12345678"}, {"digest": "0" * 64}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_snapshot_that_does_not_fit_is_not_used(tmp_path: Path, changes: dict[str, object]) -> None:
    write_snapshot(tmp_path, snapshot(7, **changes))
    assert reopened(tmp_path).version.version == 0


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x81\xa1x" * 9, os.urandom(500)])
def test_a_broken_snapshot_is_not_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SNAPSHOT_NAME).write_bytes(content)
    assert read_snapshot(tmp_path, "test", LAYOUT) is None
    assert reopened(tmp_path).version.version == 0


def test_a_store_remembers_who_worked_on_it(tmp_path: Path) -> None:
    starts = [reopened(tmp_path).instances for _ in range(KEPT_INSTANCES + 2)]

    assert len(starts[0]) == 1
    assert starts[1] == (*starts[0], starts[1][-1])
    assert starts[-1] == (*starts[-2][1:], starts[-1][-1])
    assert len(set(starts[-1])) == KEPT_INSTANCES


def test_a_store_that_is_begun_anew_remembers_too(tmp_path: Path) -> None:
    write_snapshot(tmp_path, snapshot(7, instances=("1" * 16, "2" * 16)))

    assert reopened(tmp_path).instances[:-1] == ("1" * 16, "2" * 16)


def test_a_store_from_before_that_was_remembered_is_read(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as db, db:
        db.execute("DELETE FROM meta WHERE key = 'instances'")

    assert len(reopened(tmp_path).instances) == 1


def test_a_snapshot_without_a_database_is_used(tmp_path: Path) -> None:
    write_snapshot(tmp_path, snapshot(7))
    assert reopened(tmp_path).version.version == 7


def test_truncated_to_nothing(tmp_path: Path) -> None:
    filled(tmp_path)
    write_snapshot(tmp_path, snapshot(7))
    database(tmp_path).write_bytes(b"")
    assert reopened(tmp_path).version.version == 7


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_cut_short(tmp_path: Path, keep: float) -> None:
    filled(tmp_path)
    content = database(tmp_path).read_bytes()
    database(tmp_path).write_bytes(content[: int(len(content) * keep)])
    assert reopened(tmp_path).version.version == 0
    assert (tmp_path / "aggregator.sqlite.corrupt-1").exists()


@pytest.mark.parametrize("page", range(1, 10))
def test_a_page_of_nonsense(tmp_path: Path, page: int) -> None:
    filled(tmp_path)
    with database(tmp_path).open("r+b") as file:
        file.seek(page * 8192)
        file.write(os.urandom(8192))
    restored = reopened(tmp_path)
    # Either it was noticed, and all began anew, or the page held nothing that is in use.
    assert restored.version.version in {0, 1}
    assert (restored.version.version == 0) == (tmp_path / "aggregator.sqlite.corrupt-1").exists()


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM meta WHERE key = 'epoch'",
        "DELETE FROM meta WHERE key = 'counters'",
        "UPDATE meta SET value = 'x' WHERE key = 'shelf'",
        "UPDATE meta SET value = x'c1' WHERE key = 'counters'",
        "DELETE FROM parameters",
        "DELETE FROM versions",
        "UPDATE parameters SET vector = zeroblob(length(vector))",
        "DELETE FROM server WHERE name = '0'",
        "UPDATE server SET vector = zeroblob(8)",
        "UPDATE server SET vector = zeroblob(9)",
        "UPDATE journal SET metrics = 'x'",
        "DROP TABLE devices",
    ],
)
def test_content_that_makes_no_sense_is_set_aside(tmp_path: Path, damage: str) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(database(tmp_path))) as db:
        db.execute(damage)
        db.commit()
    assert reopened(tmp_path).version.version == 0
    assert (tmp_path / "aggregator.sqlite.corrupt-1").exists()


def test_wrecks_are_few(tmp_path: Path) -> None:
    for _ in range(KEPT_WRECKS + 3):
        filled(tmp_path)
        database(tmp_path).write_bytes(b"garbage " * 400)
        reopened(tmp_path)
        database(tmp_path).unlink()
    wrecks = sorted(path.name for path in tmp_path.glob("*.corrupt-*"))
    assert wrecks == [f"aggregator.sqlite.corrupt-{number}" for number in range(4, 9)]


def test_damage_while_running_is_told_as_such(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply([saved(1, (contribution(),))])
    store._db.execute("UPDATE parameters SET vector = zeroblob(length(vector))")
    with pytest.raises(StoreDamaged, match="digest"):
        store.restore()
    store.close()
