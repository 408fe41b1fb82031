"""The ring of rows on disk: bounds, kills, damage, disks that are full or cannot be written."""

from __future__ import annotations

import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent.adapters.store import StoreCorruptError, StoreError, StoreWriteError
from device_agent.sensing.adapters.reading import SamplesError, extent_of, read
from device_agent.sensing.adapters.sample_store import FILE_NAME, SCHEMA_VERSION, Batch, SampleStore, refuse_newer
from device_agent.sensing.rows import Row, Stretch
from device_agent.sensing.sources import SamplesSettings
from tests.support.patience import PATIENCE_S

T0 = 1_780_000_000.0


def rows(first: int, count: int, source: str = "press", label: float = math.nan, step: float = 1.0) -> list[Row]:
    return [
        Row(source=source, channels=("a", "b"), values=(float(n), math.nan), time=T0 + n * step, label=label)
        for n in range(first, first + count)
    ]


def opened(folder: Path, **settings: Any) -> SampleStore:
    return SampleStore(folder, SamplesSettings(**settings))


def numbers(folder: Path) -> list[float]:
    return [float(value) for value in read(folder, ("a",)).values[:, 0]]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append(Batch(rows=rows(0, 3, label=2.0), progress={"file": b"17"}), T0)
    store.append(
        Batch(rows=[Row(source="room", channels=("c",), values=(0.1,), time=T0 + 1.5)], progress={"file": None}), T0
    )
    store.close()
    again = opened(tmp_path)
    assert (again.rows, again.newest, again.oldest, again.position("file")) == (4, 4, 1, None)
    again.close()
    series = read(tmp_path, ("c", "a"))
    assert series.channels == ("c", "a")
    assert series.times.tolist() == [T0, T0 + 1, T0 + 1.5, T0 + 2]
    np.testing.assert_array_equal(series.values[:, 1], np.array([0, 1, np.nan, 2], np.float32))
    np.testing.assert_array_equal(series.values[:, 0], np.array([np.nan, np.nan, 0.1, np.nan], np.float32))
    np.testing.assert_array_equal(series.labels, [2, 2, np.nan, 2])
    assert series.ids.tolist() == [round(time * 1e6) for time in series.times]


def test_of_one_source_rows_are_numbered_without_gaps_whoever_else_writes(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for turn in range(3):
        store.append(Batch(rows=[*rows(turn * 5, 5), *rows(turn * 5, 2, source="other")]), T0)
        store.close()
        store = opened(tmp_path)
    store.close()
    database = sqlite3.connect(tmp_path / FILE_NAME)
    found = database.execute("SELECT number FROM samples JOIN streams ON stream = streams.id WHERE source = 'press'")
    assert [number for (number,) in found] == list(range(1, 16))
    database.close()


def test_the_same_rows_can_be_read_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append(Batch(rows=rows(0, 50)), T0)
    extent = extent_of(tmp_path)
    before = read(tmp_path, ("a", "b"), upto=extent.newest, limit=20)
    store.append(Batch(rows=rows(50, 50)), T0)
    after = read(tmp_path, ("a", "b"), upto=extent.newest, limit=20)
    np.testing.assert_array_equal(before.values, after.values)
    assert before.ids.tolist() == after.ids.tolist() == list(range(31, 51))
    assert extent_of(tmp_path).newest == 100
    store.close()


def test_rows_from_before_a_clock_was_set_back_are_kept_and_those_after_left_out(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append(Batch(rows=[*rows(10, 3), *rows(0, 2), *rows(13, 1)]), T0)
    store.close()
    assert numbers(tmp_path) == [10, 11, 12, 13]


def test_the_oldest_rows_go_first_and_the_count_goes_on(tmp_path: Path) -> None:
    store = opened(tmp_path, max_rows=100)
    for first in range(0, 1000, 50):
        store.append(Batch(rows=rows(first, 50)), T0)
        assert store.rows <= 100
    assert store.newest == 1000
    assert numbers(tmp_path) == [float(n) for n in range(1000 - store.rows, 1000)]
    store.close()
    assert opened(tmp_path, max_rows=100).newest == 1000


def test_bytes_are_bounded(tmp_path: Path) -> None:
    store = opened(tmp_path, max_bytes=200_000, max_age_s=0)
    for first in range(0, 40_000, 1000):
        store.append(Batch(rows=rows(first, 1000)), T0)
        assert store.used_bytes <= 200_000
    assert (tmp_path / FILE_NAME).stat().st_size <= 300_000
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 200_000 + 2_000_000
    assert store.rows > 3000
    store.close()


def test_a_smaller_limit_gives_room_back(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append(Batch(rows=rows(0, 40_000)), None)
    store.close()
    before = (tmp_path / FILE_NAME).stat().st_size
    for _ in range(2):
        store = opened(tmp_path, max_bytes=100_000)
        store.append(Batch(rows=rows(40_000, 1)), None)
        store.close()
    assert (tmp_path / FILE_NAME).stat().st_size < before / 4


def test_what_is_too_old_goes_a_bit_at_a_time_but_never_the_newest_row(tmp_path: Path) -> None:
    store = opened(tmp_path, max_age_s=100.0)
    store.append(Batch(rows=rows(0, 10_000, step=0.001)), T0)
    assert store.rows == 10_000
    store.append(Batch(), None)  # the clock is not set: nothing is old
    assert store.rows == 10_000
    store.append(Batch(), T0 + 1000)
    assert 8000 < store.rows < 10_000  # a clock that is wrong once does not cost everything
    for _ in range(40):
        store.append(Batch(), T0 + 1000)
    assert (store.rows, store.newest) == (1, 10_000)
    store.close()


def test_labels_come_later_for_a_stretch_of_one_source_or_of_all(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append(Batch(rows=[*rows(0, 5), *rows(0, 5, source="other")]), T0)
    stretch = Stretch(source="press", start=T0 + 1, until=T0 + 2, label=7.0)
    assert store.append(Batch(stretches=[stretch]), T0) == 2
    everybody = Stretch(source=None, start=T0 + 4, until=T0 + 9, label=1.0)
    # Rows of the same batch are labelled, too.
    assert store.append(Batch(rows=rows(5, 1), stretches=[everybody]), T0) == 3
    assert extent_of(tmp_path).labelled == 2
    assert store.append(Batch(stretches=[Stretch(source="press", start=T0, until=T0 + 1, label=math.nan)]), T0) == 2
    store.close()
    again = opened(tmp_path)
    assert again.labelled == 3
    found = again._db.execute("SELECT label FROM samples WHERE stream = 1 ORDER BY id").fetchall()
    assert [label for (label,) in found] == [None, None, 7.0, None, 1.0, 1.0]
    again.close()


def test_reading_is_bounded_and_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="no such file"):
        read(tmp_path, ("a",))
    store = opened(tmp_path)
    assert len(read(tmp_path, ("a",))) == 0
    store.append(Batch(rows=rows(0, 5000)), T0)
    assert len(read(tmp_path, ("a",), limit=700)) == 700
    assert len(read(tmp_path, ("nobody",))) == 0
    store.close()
    (tmp_path / FILE_NAME).write_bytes(b"rubbish" * 1000)
    with pytest.raises(SamplesError, match="cannot be read"):
        read(tmp_path, ("a",))


def test_every_commit_is_synced_and_logged_ahead(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_a_commit_writes_little(tmp_path: Path) -> None:
    """What a memory card has to bear: pages of 4 KB, a few for each commit."""
    store = opened(tmp_path)
    store.append(Batch(rows=rows(0, 100)), T0)
    wal = tmp_path / f"{FILE_NAME}-wal"
    sizes = []
    for turn in range(1, 30):
        store.append(Batch(rows=rows(turn * 100, 10), progress={"f": b"x" * 50}, facts=b"y" * 200), T0)
        sizes.append(wal.stat().st_size)
    grown = [b - a for a, b in pairwise(sizes)]
    assert sum(grown) / len(grown) <= 3 * 4120
    store.close()


def test_a_full_disk_fails_the_batch_and_nothing_else(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append(Batch(rows=rows(0, 10), progress={"f": b"1"}), T0)
    pages = store._pragma("page_count")
    store._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StoreWriteError, match="full"):
        store.append(Batch(rows=rows(10, 5000, source="new"), progress={"f": b"2"}), T0)
    assert (store.rows, store.position("f")) == (10, b"1")
    store._db.execute("PRAGMA max_page_count = 1000000")
    store.append(Batch(rows=rows(10, 5000, source="new"), progress={"f": b"2"}), T0)
    assert (store.rows, store.position("f")) == (5010, b"2")
    store.close()


@pytest.mark.parametrize("damage", [b"rubbish" * 1000, b"SQLite format 3\0" + b"\xff" * 5000, "inside"])
def test_a_damaged_file_is_put_aside(tmp_path: Path, damage: bytes | str) -> None:
    store = opened(tmp_path)
    store.append(Batch(rows=rows(0, 5000)), T0)
    identity = store.identity
    store.close()
    path = tmp_path / FILE_NAME
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    else:
        content = bytearray(path.read_bytes())
        content[3 * 4096 :] = os.urandom(len(content) - 3 * 4096)
        path.write_bytes(content)
    again = opened(tmp_path)
    if again.set_aside is None:
        with pytest.raises(StoreCorruptError):
            again.verify()
        again.begin_anew()
    assert again.set_aside == tmp_path / f"{FILE_NAME}.corrupt-1"
    assert again.set_aside.exists()
    assert again.identity != identity
    again.append(Batch(rows=rows(0, 3)), T0)
    again.verify()
    again.close()
    assert numbers(tmp_path) == [0, 1, 2]


def test_only_the_last_damaged_files_are_kept(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / FILE_NAME).write_bytes(f"rubbish {number} ".encode() * 1000)
        opened(tmp_path).close()
    kept = sorted(path.name for path in tmp_path.glob("*.corrupt-?"))
    assert kept == [f"{FILE_NAME}.corrupt-{number}" for number in (1, 2, 3)]
    assert (tmp_path / f"{FILE_NAME}.corrupt-1").read_bytes().startswith(b"rubbish 5")


def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    for open_it in (lambda: opened(tmp_path), lambda: refuse_newer(tmp_path)):
        with pytest.raises(StoreError, match=r"newer version of fedmq \(schema 2, this one knows 1\)"):
            open_it()
    with pytest.raises(SamplesError, match="schema 2"):
        read(tmp_path, ("a",))
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_a_directory_that_is_not_there_fails_as_a_disk_does(tmp_path: Path) -> None:
    with pytest.raises(StoreWriteError, match="cannot be used"):
        opened(tmp_path / "nowhere")


WRITER = """
import sys
from itertools import pairwise
from pathlib import Path
from device_agent.sensing.adapters.sample_store import Batch, SampleStore
from device_agent.sensing.sources import SamplesSettings
from tests.device_agent.sensing.test_sample_store import T0, rows

store = SampleStore(Path(sys.argv[1]), SamplesSettings(max_rows=2000))
at = int(store.position("file") or b"0")
while True:
    store.append(Batch(rows=rows(at, 37), progress={"file": str(at + 37).encode()}), T0)
    at += 37
    print(at, flush=True)
"""


def test_killed_at_random_moments_every_row_is_there_once_and_the_position_fits(tmp_path: Path) -> None:
    chance = random.Random(5)
    promised = 0
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(chance.randint(1, 30))]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read().splitlines()
        process.stdout.close()
        process.wait()
        promised = max([promised, *(int(line) for line in said if line.strip())])
        store = opened(tmp_path, max_rows=2000)
        position = int(store.position("file") or b"0")
        assert position >= promised
        assert store.newest == position
        assert numbers(tmp_path) == [float(n) for n in range(position - store.rows, position)]
        store.verify()
        store.close()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from device_agent.adapters.store import StoreWriteError
from device_agent.sensing.adapters.sample_store import Batch, SampleStore
from device_agent.sensing.sources import SamplesSettings
from tests.device_agent.sensing.test_sample_store import T0, rows

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = SampleStore(Path(sys.argv[1]), SamplesSettings())
store.append(Batch(rows=rows(0, 100), progress={"f": b"100"}), T0)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
try:
    store.append(Batch(rows=rows(100, 20_000), progress={"f": b"20100"}), T0)
except StoreWriteError as exc:
    print("refused:", exc)
print(store.rows, store.position("f"))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.append(Batch(rows=rows(100, 20_000), progress={"f": b"20100"}), T0)
store.verify()
print(store.rows, store.position("f"))
"""


def test_a_disk_that_takes_no_more_bytes_fails_cleanly_and_goes_on_later(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("refused: ")
    assert lines[1:] == ["100 b'100'", "20100 b'20100'"]
