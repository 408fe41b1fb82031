"""Files that grow, rotate, are cut and hold rubbish; archives of arrays."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent.sensing.adapters.archives import Archive
from device_agent.sensing.adapters.growing import GrowingFile
from device_agent.sensing.labelling import LabelBoard
from device_agent.sensing.lines import CsvLines, JsonLines
from device_agent.sensing.rows import Moment, Row
from device_agent.sensing.sources import CsvSource, JsonlSource, NpzSource

AT = Moment(100.0, 1_780_000_000.0)
T0 = 1_770_000_000
HEAD = "time,v,state\n"


class Tail:
    """A source on a file, and what it has brought so far."""

    def __init__(self, path: Path, kind: str = "csv", **table: Any) -> None:
        self.path = path
        self.kind = kind
        self.table = {"fields": {"v": "v"}, "time": "time"} | table
        self.rows: list[Row] = []
        self.stored: bytes | None = None
        self.restart()

    def restart(self) -> None:
        board = LabelBoard()
        if self.kind == "csv":
            csv = CsvSource(path=str(self.path), **self.table)
            self.file = GrowingFile("log", csv, CsvLines("log", csv, board, 0.0))
        else:
            jsonl = JsonlSource(path=str(self.path), **self.table)
            self.file = GrowingFile("log", jsonl, JsonLines("log", jsonl, board, 0.0))
        self.file.resume(self.stored)

    def poll(self) -> list[float]:
        """Read all there is; return the values that came."""
        found: list[Row] = []
        self.file.next_at = 0.0
        while self.file.next_at <= AT.monotonic_s:
            got = self.file.poll(AT)
            if got is not None:
                rows, self.stored = got
                found += rows
        self.rows += found
        return [row.values[0] for row in found]

    @property
    def refused(self) -> dict[str, int]:
        return self.file.reader.intake.refused

    def faults(self) -> tuple[str, ...]:
        return self.file.reader.intake.faults(AT.monotonic_s)

    def write(self, text: str | bytes, *, mode: str = "ab") -> None:
        with self.path.open(mode) as file:
            file.write(text.encode() if isinstance(text, str) else text)


def line(n: int) -> str:
    return f"{T0 + n},{n},ok\n"


@pytest.fixture
def log(tmp_path: Path) -> Tail:
    return Tail(tmp_path / "log.csv")


@pytest.mark.parametrize("restarts", [False, True])
def test_lines_come_once_as_they_are_written_also_in_halves(log: Tail, *, restarts: bool) -> None:
    assert log.poll() == []
    assert log.faults() == ("there is no such file",)
    log.write(HEAD + line(0) + line(1) + f"{T0 + 2},")
    assert log.poll() == [0, 1]
    assert log.faults() == ()
    for text, values in [("2", []), (",ok", []), ("\n", [2]), (line(3), [3]), ("", [])]:
        if restarts:
            log.restart()
        log.write(text)
        assert log.poll() == values
    assert [row.time for row in log.rows] == [T0, T0 + 1, T0 + 2, T0 + 3]
    assert log.refused == {}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_rotated_file_is_read_to_its_end_and_then_the_new_one(log: Tail, *, restarts: bool) -> None:
    log.write(HEAD + line(0))
    assert log.poll() == [0]
    log.write(line(1) + f"{T0 + 2},2,ok")  # its last line has no end, and gets none any more
    log.path.rename(log.path.with_name("log.csv.1"))
    log.write(HEAD + line(3))
    if restarts:
        log.restart()
    assert log.poll() == [1, 2, 3]
    log.write(line(4))
    if restarts:
        log.restart()
    assert log.poll() == [4]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_file_that_was_rotated_several_times_meanwhile(log: Tail, *, restarts: bool) -> None:
    log.write(HEAD + line(0))
    assert log.poll() == [0]
    log.write(line(1))
    for turn in range(2, 5):
        for number in range(turn, 0, -1):
            older = log.path.with_name(f"log.csv.{number}" if number > 1 else "log.csv")
            if older.exists():
                older.rename(log.path.with_name(f"log.csv.{number + 1}"))
        log.write(HEAD + line(turn))
        os.utime(log.path, ns=(0, time.time_ns() + turn * 10**9))
    log.path.with_name("log.csv.9.gz").write_bytes(b"packed")
    if restarts:
        log.restart()
    assert log.poll() == [1, 2, 3, 4]
    assert log.refused == {}


def test_a_file_that_was_renamed_goes_on_until_there_is_a_new_one(log: Tail) -> None:
    log.write(HEAD + line(0))
    log.poll()
    moved = log.path.rename(log.path.with_name("log.csv.1"))
    with moved.open("a") as file:
        file.write(line(1))
    assert log.poll() == [1]
    log.write(HEAD + line(2))
    assert log.poll() == [2]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_file_that_is_copied_and_cut(log: Tail, *, restarts: bool) -> None:
    log.write(HEAD + line(0))
    assert log.poll() == [0]
    log.write(line(1))
    log.path.with_name("log.csv.1").write_bytes(log.path.read_bytes())
    log.write(HEAD + line(2), mode="r+b")
    os.truncate(log.path, len(HEAD + line(2)))
    if restarts:
        log.restart()
    assert log.poll() == [1, 2]
    # Cut, and grown beyond where we were before anybody looked.
    log.write(HEAD + "".join(map(line, range(3, 9))), mode="r+b")
    if restarts:
        log.restart()
    assert log.poll() == [3, 4, 5, 6, 7, 8]


def test_a_file_that_is_gone_is_told_and_taken_up_again(log: Tail) -> None:
    log.write(HEAD + line(0))
    log.poll()
    log.path.unlink()
    log.restart()
    assert log.poll() == []
    assert log.faults() == ("there is no such file",)
    log.write(HEAD + line(1))
    assert log.poll() == [1]
    assert log.faults() == ()


def test_rubbish_is_counted_with_its_line(log: Tail) -> None:
    log.write(HEAD + line(0) + "\n" + "x,y\n" + f"{T0},much,ok\n" + ",3,ok\n" + f'"{T0 + 1}","1","ok"\r\n')
    log.write(b"\xff\xfe\x00,\x80,\n" + line(2).encode())
    assert log.poll() == [0, 1, 2]
    assert log.refused == {
        "another number of values than columns": 1,
        "v: no number": 1,
        "no time": 1,
        "a time that is neither ISO 8601 nor a number": 1,
    }
    assert log.file.reader.intake.take_news() == [
        "another number of values than columns: line 4",
        "v: no number: line 5",
        "no time: line 6",
        "a time that is neither ISO 8601 nor a number: line 8",
    ]


def test_a_header_may_change_on_the_way(log: Tail) -> None:
    log.write(HEAD + line(0) + "v,extra,time\n" + f"1,x,{T0 + 1}\n")
    assert log.poll() == [0, 1]
    log.restart()
    log.write(f"2,x,{T0 + 2}\n" + "time,w\n" + f"{T0 + 3},3\n")
    assert log.poll() == [2]
    assert log.faults() == ("no column 'v'",)
    log.write(HEAD + line(4))
    assert log.poll() == [4]
    assert log.faults() == ()


def test_lines_before_any_header_are_refused(log: Tail) -> None:
    log.write(line(0) + line(1) + line(2))
    assert log.poll() == []
    assert log.refused == {"no header before it": 3}
    assert log.faults() == ("nothing can be used: no header before it",)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("size", [100_000, 400_000])
def test_a_line_without_end_is_left_out(log: Tail, size: int, *, restarts: bool) -> None:
    log.write(HEAD + line(0) + "z" * size)
    assert log.poll() == [0]
    if restarts:
        log.restart()
    log.write("z\n" + line(1))
    assert log.poll() == [1]
    assert sum(log.refused.values()) == (0 if restarts and size > 200_000 else 1)


def test_a_long_file_is_read_in_blocks(log: Tail) -> None:
    log.write(HEAD + "".join(map(line, range(50_000))))
    assert log.poll() == [float(n) for n in range(50_000)]


def test_only_a_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.csv")
    log = Tail(tmp_path / "log.csv")
    assert log.poll() == []
    assert log.faults() == ("cannot be read: it is no file",)


def test_json_lines(tmp_path: Path) -> None:
    log = Tail(tmp_path / "log.jsonl", "jsonl", fields={"v": "in.v[0]"}, time="t", label="l")
    first = json.dumps({"t": T0, "in": {"v": [1, 2]}, "l": 3})
    log.write(f"\ufeff{first}\r\n\n{{\n[1]\n" + json.dumps({"t": T0 + 1, "in": {"v": [5]}}))
    assert log.poll() == [1]
    assert log.rows[0].label == 3
    assert log.refused == {"no JSON": 1, "no time": 1}
    log.write("\n")
    assert log.poll() == [5]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_label_in_a_file_may_hold_until_the_next(tmp_path: Path, *, restarts: bool) -> None:
    log = Tail(tmp_path / "log.csv", label="state", label_holds=True, labels={"ok": 0, "bad": 1})
    log.write(HEAD + f"{T0},0,\n" + f"{T0},1,bad\n" + f"{T0},2,\n")
    log.poll()
    if restarts:
        log.restart()
    log.write(f"{T0},3,\n" + f"{T0},4,ok\n" + f"{T0},5,what\n")
    log.poll()
    labels = [row.label for row in log.rows]
    assert math.isnan(labels[0])
    assert labels[1:] == [1, 1, 1, 0, 0]


# -- archives ------------------------------------------------------------------------------------------------------


class Shelf:
    """A source on an archive."""

    def __init__(self, path: Path, **table: Any) -> None:
        self.table = NpzSource(path=str(path), **table)
        self.stored: bytes | None = None
        self.restart()

    def restart(self) -> None:
        self.file = Archive("shelf", self.table, LabelBoard(), 0.0)
        self.file.resume(self.stored)

    def poll(self, most: int = 1000) -> list[Row]:
        found: list[Row] = []
        self.file.next_at = 0.0
        while self.file.next_at <= AT.monotonic_s and most > 0:
            most -= 1
            got = self.file.poll(AT)
            if got is not None:
                rows, self.stored = got
                found += rows
        return found


TIMES = T0 + np.arange(5000) / 10


def test_an_archive_is_read_once_per_content_also_over_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    x = np.arange(15_000, dtype=">f4").reshape(5000, 3)
    np.savez_compressed(path, x=x, t=TIMES, y=np.arange(5000) % 3)
    shelf = Shelf(path, fields={"a": "x[0]", "c": "x[2]"}, time="t", label="y")
    found = shelf.poll(most=2)
    assert len(found) == 2048
    shelf.restart()
    found += shelf.poll()
    assert [row.values for row in found] == [(float(a), float(c)) for a, _, c in x]
    assert [row.time for row in found] == pytest.approx(TIMES.tolist())
    assert [row.label for row in found] == [n % 3 for n in range(5000)]
    assert shelf.poll() == []
    os.utime(path)
    shelf.restart()
    assert shelf.poll() == []
    np.savez(path, x=x + 1, t=TIMES, y=np.zeros(5000))
    assert len(shelf.poll()) == 5000


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i8", "u1", "u4", "?"])
def test_arrays_of_all_kinds_of_numbers(tmp_path: Path, kind: str) -> None:
    values = np.array([0, 1, 1], kind)
    np.savez(tmp_path / "a.npz", v=values, t=TIMES[:3].astype("M8[s]").astype("M8[ms]"))
    found = Shelf(tmp_path / "a.npz", fields={"v": "v"}, time="t").poll()
    assert [row.values[0] for row in found] == [0, 1, 1]
    assert found[0].time == T0


def test_without_times_the_last_row_is_as_old_as_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", v=np.array([1.0, np.nan, 3.0]))
    os.utime(tmp_path / "a.npz", (T0, T0))
    found = Shelf(tmp_path / "a.npz", fields={"v": "v"}, interval_s=10).poll()
    assert [(row.time, row.values[0]) for row in found] == [(T0 - 20, 1.0), (T0, 3.0)]


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"t": TIMES}, "has no array 'v'; it has ['t']"),
        ({"t": TIMES, "v": TIMES[:5]}, "its arrays have 5, 5000 rows"),
        ({"t": TIMES, "v": np.array(["a"] * 5000)}, "array 'v' holds U1"),
        ({"t": TIMES, "v": np.zeros((5000, 2))}, "array 'v' has 2 columns; 'v' is none of them"),
        ({"t": TIMES, "v": np.zeros((5000, 2, 2))}, "is no plain array of numbers"),
        ({"t": TIMES, "v": np.zeros((2, 5000)).T}, "is stored by columns"),
    ],
)
def test_archives_that_do_not_fit_are_named(tmp_path: Path, arrays: dict[str, Any], fault: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    shelf = Shelf(tmp_path / "a.npz", fields={"v": "v"}, time="t")
    assert shelf.poll() == []
    (told,) = shelf.file.intake.faults(0.0)
    assert fault[:60] in told


@pytest.mark.parametrize("content", [None, b"", b"rubbish" * 100, b"PK\x03\x04rubbish"])
def test_archives_that_are_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    shelf = Shelf(path, fields={"v": "v"}, time="t")
    assert shelf.poll() == []
    assert shelf.file.intake.faults(0.0)
    np.savez(path, v=TIMES[:2], t=TIMES[:2])
    assert len(shelf.poll()) == 2
    assert shelf.file.intake.faults(0.0) == ()
