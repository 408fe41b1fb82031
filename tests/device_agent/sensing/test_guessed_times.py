"""Samples that are taken before the clock is set: never lost, never mixed up, and right as soon as somebody knows."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from device_agent.sensing.adapters import sample_clock
from device_agent.sensing.adapters.reading import extent_of, read
from device_agent.sensing.adapters.recorder import Recorder
from device_agent.sensing.adapters.sample_clock import SampleClock
from device_agent.sensing.adapters.sample_store import Batch, SampleStore
from device_agent.sensing.intake import Intake
from device_agent.sensing.labelling import LabelBoard
from device_agent.sensing.rows import BootTime, Row, Stretch
from device_agent.sensing.sources import MqttSource, SamplesSettings
from protocol.adapters.system_clock import SystemClock
from protocol.clock import Reading

T0 = 1_780_000_000.0
KNOWN = T0 - 1e6
"""What the store knew before: guesses go on from there."""
UNKNOWN = BootTime(boot="one", awake=1000.0, offset=-900.0, dated=False, sure=False)
"""1970, a hundred seconds late; this process began a thousand seconds after the boot."""
PLAUSIBLE = replace(UNKNOWN, offset=T0 - 500.0, dated=True)
SURE = replace(UNKNOWN, offset=T0, dated=True, sure=True)


def guessed(*arrived: float, base: float = KNOWN) -> list[Row]:
    """Return rows that came at these monotonic seconds."""
    return [Row(source="press", channels=("a",), values=(at,), time=base + 1.0 + at, arrived=at) for at in arrived]


def times(folder: Path) -> list[float]:
    return [float(found) for found in read(folder, ("a",)).times]


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    return SampleStore(tmp_path, SamplesSettings(max_age_s=86400.0))


def test_guesses_are_made_right_before_rows_of_which_the_time_is_sure(tmp_path: Path, store: SampleStore) -> None:
    theirs = Row(source="other", channels=("b",), values=(1.0,), time=T0 + 1001.0)
    store.append(Batch(rows=[*guessed(1.0, 2.0), theirs], at=UNKNOWN), None)
    assert store.guessing
    assert not store.mends(UNKNOWN)
    before = extent_of(tmp_path)
    assert store.mends(SURE)
    store.append(
        Batch(rows=[Row(source="press", channels=("a",), values=(3.0,), time=T0 + 1003.0)], at=SURE), T0 + 1003
    )
    assert times(tmp_path) == [T0 + 1001.0, T0 + 1002.0, T0 + 1003.0]
    assert read(tmp_path, ("b",)).times.tolist() == [T0 + 1001.0], "what its sender said is not touched"
    assert not store.mends(SURE), "that was all"
    assert extent_of(tmp_path).labelled == before.labelled + 1, "who has read them reads them again"
    assert store.rows == 4, "by their guessed times they were too old"
    store.close()


def test_a_date_that_can_be_does_until_somebody_is_sure(tmp_path: Path, store: SampleStore) -> None:
    store.append(Batch(rows=guessed(1.0), at=UNKNOWN), None)
    store.append(Batch(rows=guessed(2.0, base=T0 + 499.0), at=PLAUSIBLE), T0 + 502.0)
    assert times(tmp_path) == [T0 + 501.0, T0 + 502.0]
    assert not store.mends(replace(PLAUSIBLE, offset=PLAUSIBLE.offset + 1.0)), "that is slewing"
    store.append(Batch(at=SURE), T0 + 1003.0)
    assert times(tmp_path) == [T0 + 1001.0, T0 + 1002.0]
    store.close()


def test_another_process_of_the_same_boot_makes_them_right(tmp_path: Path, store: SampleStore) -> None:
    store.append(Batch(rows=guessed(1.0), at=UNKNOWN), None)
    store.close()
    again = SampleStore(tmp_path, SamplesSettings())
    assert again.mends(SURE)
    # Its monotonic clock may be any: seconds since boot are stored.
    again.append(Batch(at=replace(SURE, awake=5.0)), T0 + 2000.0)
    assert times(tmp_path) == [T0 + 1001.0]
    again.close()


def test_what_another_boot_left_stays_as_it_was(tmp_path: Path, store: SampleStore) -> None:
    store.append(Batch(rows=guessed(1.0, 2.0), at=UNKNOWN), None)
    store.append(Batch(rows=guessed(0.5, base=KNOWN + 2.0), at=replace(UNKNOWN, boot="two", awake=10.0)), None)
    store.append(Batch(at=replace(SURE, boot="two")), None)
    assert times(tmp_path) == [KNOWN + 2.0, KNOWN + 3.0, T0 + 10.5]
    assert not store.guessing
    store.close()


def test_labels_for_a_time_do_not_reach_rows_that_were_only_guessed_to_be_of_it(
    tmp_path: Path, store: SampleStore
) -> None:
    stretch = Stretch(source=None, start=KNOWN, until=KNOWN + 60.0, label=7.0)
    store.append(Batch(rows=guessed(1.0), at=UNKNOWN), None)
    assert store.append(Batch(stretches=[stretch], at=UNKNOWN), None) == 0
    store.append(Batch(at=SURE), T0)
    right = Stretch(source=None, start=T0 + 1000.0, until=T0 + 1002.0, label=3.0)
    assert store.append(Batch(stretches=[right], at=SURE), T0 + 1003.0) == 1
    assert read(tmp_path, ("a",)).labels.tolist() == [3.0]
    store.close()


def test_what_is_evicted_is_forgotten(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, SamplesSettings(max_rows=1000))
    store.append(Batch(rows=guessed(*(float(n) for n in range(3000))), at=UNKNOWN), None)
    assert store.rows <= 1000
    store.append(Batch(at=SURE), None)
    assert times(tmp_path)[-1] == T0 + 1000.0 + 2999.0
    store.close()


class _Board:
    """A board whose clock says 1970 until it is set."""

    def __init__(self, folder: Path, wait_s: float) -> None:
        self.set = False
        self.folder = folder
        self.clock = SampleClock(SystemClock(folder, wait_s=wait_s, read=self._read))
        self.recorder = Recorder(folder, SamplesSettings(commit_s=0.0), threading.Lock(), self.clock)
        table = MqttSource(topics=["t"], fields={"a": "$"})
        self._intake = Intake("press", table, LabelBoard(), time.monotonic())

    def _read(self) -> Reading:
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        return Reading(wall=time.time() if self.set else since_boot, since_boot=since_boot, synchronized=self.set)

    def measure(self, value: float) -> None:
        at = self.clock.now()
        row = self._intake.take([value], at)
        assert row is not None
        assert self.recorder.put(self._intake, row, at.monotonic_s)


@pytest.fixture
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_clock, "LOOK_EVERY_S", 0.0)


@pytest.mark.usefixtures("_looks_at_once")
def test_rows_that_wait_for_the_clock_are_not_lost_when_the_agent_ends(tmp_path: Path) -> None:
    first = _Board(tmp_path, wait_s=600.0)
    first.measure(1.0)
    first.recorder.attend(time.monotonic() + 10.0)
    assert first.recorder.rows == 0, "it waits in memory"
    begun = time.time()
    first.recorder.close()
    assert times(tmp_path) == [pytest.approx(1.0, abs=60.0)], "nothing was ever known of the time"

    second = _Board(tmp_path, wait_s=600.0)
    second.set = True
    # No row comes: it looks of its own accord.
    assert second.recorder.deadline <= time.monotonic()
    second.recorder.attend(time.monotonic())
    assert times(tmp_path) == [pytest.approx(begun, abs=60.0)]
    assert second.recorder.deadline > time.monotonic() + 3600.0
    second.recorder.close()


@pytest.mark.usefixtures("_looks_at_once")
def test_after_the_wait_rows_are_stored_and_made_right_later(tmp_path: Path) -> None:
    board = _Board(tmp_path, wait_s=0.0)
    board.measure(1.0)
    board.recorder.attend(time.monotonic() + 10.0)
    assert board.recorder.rows == 1
    board.set = True
    board.measure(2.0)
    board.recorder.attend(time.monotonic() + 10.0)
    found = times(tmp_path)
    assert found == [pytest.approx(time.time(), abs=60.0)] * 2
    assert found == sorted(found)
    board.recorder.close()
