"""The store on real SQLite files, whole and damaged, and in processes that are killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from device_agent.adapters.store import FILE_NAME, SCHEMA_VERSION, Store, StoreError, StoreWriteError, peek
from device_agent.commands import Persist
from device_agent.records import Counters, DurableState, LastTraining, OutboxEntry, OutboxRow, Trained
from tests.support.patience import PATIENCE_S
from tests.support.stores import no_file_larger_than

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def opened(path: Path, device: str = "a", federation: str = "f") -> Store:
    return Store(path, device, federation)


def row(sequence: int, payload: bytes = b"payload", base: int = 0) -> OutboxRow:
    entry = OutboxEntry(sequence=sequence, epoch="e" * 16, base_version=base, size=len(payload))
    return OutboxRow(entry=entry, payload=payload)


def put(sequence: int, payload: bytes = b"payload", deletes: tuple[int, ...] = ()) -> Persist:
    return Persist(state=DurableState(next_sequence=sequence + 1), put=row(sequence, payload), deletes=deletes)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = opened(tmp_path)
    yield found
    found.close()


def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    incarnation, durable, entries = first.restore()
    assert (durable, entries) == (DurableState(), ())
    state = DurableState(
        next_sequence=8,
        trained=Trained(epoch="e" * 16, version=3, count=1),
        paused=True,
        requests=["1" * 16],
        counters=Counters(trainings=7, refusals={"too old": 2}),
    )
    first.persist(Persist(state=state, put=row(7, b"\x00\xff")))
    first.close()
    again = opened(tmp_path)
    assert again.restore() == (incarnation, state, (row(7, b"\x00\xff").entry,))
    assert again.load(7) == b"\x00\xff"
    assert again.load(8) is None
    again.close()


def test_a_transaction_is_whole_or_not_there(store: Store) -> None:
    store.persist(put(1))
    broken = Persist(state=DurableState(next_sequence=99), put=row(1), deletes=())
    with pytest.raises(StoreWriteError):
        store.persist(broken)  # the sequence exists already
    assert store.load(1) == b"payload"
    store.persist(put(2, deletes=(1,)))
    assert store.load(1) is None


def test_writes_are_synchronous_and_logged_ahead(store: Store) -> None:
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_only_what_can_be_learnt_again_is_not_synced(store: Store, tmp_path: Path) -> None:
    store.persist(put(1))
    store.persist(Persist(state=DurableState(next_sequence=2), deletes=(1,), recoverable=True))
    assert store._db.execute("PRAGMA synchronous").fetchone() == (1,)
    assert peek(tmp_path)[2] == ()  # a kill does not take it back: the system has it
    store.persist(Persist(state=DurableState(next_sequence=2, paused=True)))
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_full_disk_fails_the_transaction_and_nothing_else(store: Store, tmp_path: Path) -> None:
    store.persist(put(1))
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreWriteError, match="full"):
        store.persist(put(2, b"x" * 100_000, deletes=(1,)))
    assert store.load(1) == b"payload"
    store._db.execute("PRAGMA max_page_count = 1000000")
    store.persist(put(2, b"x" * 100_000))
    names, durable, entries = peek(tmp_path)
    assert names["device_id"] == "a"
    assert durable.next_sequence == 3
    assert [entry.sequence for entry in entries] == [1, 2]


@pytest.mark.parametrize("damage", [b"", b"this is no database at all" * 200, None])
def test_a_damaged_file_is_put_aside_and_a_new_incarnation_begins(tmp_path: Path, damage: bytes | None) -> None:
    first = opened(tmp_path)
    incarnation = first.restore()[0]
    for sequence in range(1, 30):
        first.persist(put(sequence, os.urandom(3000)))
    first.close()
    path = tmp_path / FILE_NAME
    if damage is None:
        content = bytearray(path.read_bytes())
        content[4096:] = os.urandom(len(content) - 4096)
        path.write_bytes(content)
    else:
        path.write_bytes(damage)
    again = opened(tmp_path)
    assert again.restore()[0] != incarnation
    assert again.restore()[2] == ()
    if damage != b"":
        assert again.set_aside == tmp_path / f"{FILE_NAME}.corrupt-1"
        assert again.set_aside.exists()
    again.persist(put(1))
    again.close()


def test_several_damaged_files_are_all_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / FILE_NAME).write_bytes(b"rubbish" * 1000)
        store = opened(tmp_path)
        assert store.set_aside == tmp_path / f"{FILE_NAME}.corrupt-{number}"
        store.close()
        (tmp_path / FILE_NAME).unlink()


def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(StoreError, match=r"newer version of fedmq \(schema 3, this one knows 2\)"):
        opened(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_file_from_before_reports_goes_on(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.persist(put(1))
    store.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("ALTER TABLE outbox DROP COLUMN survey")
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert [entry.sequence for entry in peek(tmp_path)[2]] == [1]

    store = opened(tmp_path)
    report = OutboxRow(
        entry=OutboxEntry(sequence=2, epoch="e" * 16, base_version=0, size=1, survey="5" * 16), payload=b"r"
    )
    store.persist(Persist(state=DurableState(next_sequence=3, answered=["5" * 16]), put=report))
    store.close()
    store = opened(tmp_path)
    _, durable, entries = store.restore()
    assert durable.answered == ["5" * 16]
    assert [(entry.sequence, entry.kind) for entry in entries] == [(1, "updates"), (2, "reports")]
    store.close()


def as_it_was_before_row_ids(directory: Path, state: DurableState) -> None:
    """Leave a store behind as older builds made it."""
    store = opened(directory)
    store.persist(Persist(state=state, put=row(1)))
    store.close()
    with sqlite3.connect(directory / FILE_NAME) as db:
        db.executescript(
            "ALTER TABLE meta RENAME TO other;"
            "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
            "INSERT INTO meta SELECT * FROM other; DROP TABLE other"
        )
    db.close()


def shape_of_meta(directory: Path) -> str:
    with sqlite3.connect(directory / FILE_NAME) as db:
        found: str = db.execute("SELECT sql FROM sqlite_master WHERE name = 'meta'").fetchone()[0]
    db.close()
    return found


def test_a_file_without_row_ids_is_packed_anew_and_an_older_build_reads_it(tmp_path: Path) -> None:
    state = DurableState(next_sequence=2, requests=["7" * 16])
    as_it_was_before_row_ids(tmp_path, state)
    assert "WITHOUT ROWID" in shape_of_meta(tmp_path)
    incarnation = peek(tmp_path)[0]["incarnation"]

    store = opened(tmp_path)

    assert store.restore() == (incarnation, state, (row(1).entry,))
    store.close()
    assert "WITHOUT ROWID" not in shape_of_meta(tmp_path)
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)  # which older builds take
    db.close()


def test_without_room_to_pack_a_file_anew_it_is_used_as_it_is(tmp_path: Path) -> None:
    state = DurableState(next_sequence=2, requests=["7" * 64] * 700)
    as_it_was_before_row_ids(tmp_path, state)
    with no_file_larger_than(40_000):
        store = opened(tmp_path)
        assert store.restore()[1:] == (state, (row(1).entry,))
        store.persist(put(2))
        store.close()
    assert "WITHOUT ROWID" in shape_of_meta(tmp_path)
    assert [entry.sequence for entry in peek(tmp_path)[2]] == [1, 2]


def pages_logged(directory: Path) -> int:
    """Return how many pages went to the log so far: each has a head of 24 bytes, the log one of 32."""
    return ((directory / f"{FILE_NAME}-wal").stat().st_size - 32) // (4096 + 24)


def busy_state(turn: int) -> DurableState:
    """What a device keeps that took part in all there is, for long; its length is another at each turn."""
    return DurableState(
        next_sequence=turn,
        trained=Trained(epoch="e" * 16, version=turn, count=1),
        requests=[f"{number:016}" for number in range(32)],
        answered=[f"{number:016}" for number in range(64)],
        counters=Counters(trainings=turn, refusals={f"reason {number}": number for number in range(16)}),
        last=LastTraining(num_examples=100, training_s=1 / turn, before={"loss": turn / 8}),
    )


def test_a_version_changes_one_page_of_state_at_a_time(store: Store, tmp_path: Path) -> None:
    steps: list[tuple[int, ...]] = []
    for version in range(1, 30):
        believed, trained, answered = (busy_state(3 * version + step) for step in range(3))
        counts = [pages_logged(tmp_path)]
        for command in (
            Persist(state=believed),
            Persist(state=trained, put=row(version, os.urandom(2800))),
            Persist(state=answered, deletes=(version,), recoverable=True),
        ):
            store.persist(command)
            counts.append(pages_logged(tmp_path))
        steps.append(tuple(after - before for before, after in pairwise(counts)))
    # The state alone; the state and the outbox; the same. No page for what is long, none for the list of what is free.
    assert set(steps[1:]) == {(1, 2, 2)}


@pytest.mark.parametrize(("device", "federation"), [("b", "f"), ("a", "g")])
def test_a_file_of_another_device_is_refused(tmp_path: Path, device: str, federation: str) -> None:
    opened(tmp_path).close()
    with pytest.raises(StoreError, match="belongs to device 'a' of federation 'f'"):
        opened(tmp_path, device, federation)
    opened(tmp_path).close()


def test_two_agents_do_not_share_a_directory(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(StoreError, match=rf"another agent \(process {os.getpid()}\) uses state_dir"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        opened(tmp_path / "file" / "state")


def test_peeking_changes_nothing_and_says_when_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        peek(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / FILE_NAME).write_bytes(b"rubbish" * 1000)
    with pytest.raises(StoreError, match="cannot be read"):
        peek(tmp_path)


WRITER = """
import sys
from pathlib import Path
from device_agent.adapters.store import Store
from device_agent.commands import Persist
from device_agent.records import DurableState, OutboxEntry, OutboxRow

store = Store(Path(sys.argv[1]), "a", "f")
_, durable, entries = store.restore()
sequence, waiting = durable.next_sequence, [entry.sequence for entry in entries]
while True:
    payload = sequence.to_bytes(8, "big") * 500
    entry = OutboxEntry(sequence=sequence, epoch="e" * 16, base_version=0, size=len(payload))
    gone = tuple(waiting[:-3])
    print("try", sequence, *gone, flush=True)
    store.persist(Persist(state=DurableState(next_sequence=sequence + 1), put=OutboxRow(entry=entry, payload=payload),
                          deletes=gone))
    print("done", sequence, flush=True)
    waiting = [*waiting[len(gone):], sequence]
    sequence += 1
"""


def test_killed_at_random_moments_no_sequence_repeats_and_nothing_committed_is_lost(tmp_path: Path) -> None:
    chance = random.Random(7)
    committed: set[int] = set()
    deleted: set[int] = set()
    for _ in range(12):
        lines = _run_and_kill(tmp_path, after_lines=chance.randint(1, 40))
        tried = [[int(word) for word in line.split()[1:]] for line in lines if line.startswith("try")]
        done = [int(line.split()[1]) for line in lines if line.startswith("done")]
        assert not committed & {numbers[0] for numbers in tried}, "a sequence number was given twice"
        store = opened(tmp_path)
        _, durable, entries = store.restore()
        found = {entry.sequence for entry in entries}
        committed |= set(done) | (found & {numbers[0] for numbers in tried})
        for sequence, *gone in tried:
            if sequence in committed:
                deleted |= set(gone)
        assert found == committed - deleted
        assert all(store.load(number) == number.to_bytes(8, "big") * 500 for number in found)
        assert durable.next_sequence == max(committed, default=0) + 1
        store.close()
    assert len(committed) > 20


def _run_and_kill(state_dir: Path, after_lines: int) -> list[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(state_dir)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(after_lines)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines()
    process.stdout.close()
    process.wait()
    # The last line may be cut in half.
    return [line.strip() for line in lines if len(line.split()) > 1]


LIMITED = """
import resource, signal, sys
from pathlib import Path
from device_agent.adapters.model_cache import CacheError, ModelCache
from device_agent.adapters.store import Store, StoreWriteError
from tests.device_agent.harness import manifest
from tests.device_agent.test_store import put

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store, cache = Store(Path(sys.argv[1]), "a", "f"), ModelCache(Path(sys.argv[1]))
store.persist(put(1))
cache.replace(manifest(1, data=b"x" * 100), b"x" * 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
try:
    store.persist(put(2, b"x" * 500_000))
except StoreWriteError as exc:
    print("store:", exc)
try:
    cache.replace(manifest(2, data=b"y" * 500_000), b"y" * 500_000)
except CacheError as exc:
    print("cache:", exc)
print(store.load(1), cache.find().version)
store.persist(put(3, b"small"))
print(store.load(3))
"""


def test_a_disk_that_takes_no_more_bytes_fails_cleanly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("store: ")
    assert lines[1].startswith("cache: ")
    assert lines[2:] == ["b'payload' 1", "b'small'"]
