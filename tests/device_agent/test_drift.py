"""The watch over samples: what is new is judged once, before it is trained on; what is kept survives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent.adapters.data import Samples, load_samples
from device_agent.adapters.drift_file import DriftFile
from device_agent.adapters.drifting import DriftWatch
from device_agent.adapters.leaving import TaskLeftError
from device_agent.drift import MAX_EXAMPLES, MAX_JUDGED, DriftSeen
from device_agent.settings import AgentSettings
from models import Dataset, Standardization, build
from protocol.settings import settings_from

MODEL = build({"kind": "softmax", "inputs": 2, "outputs": 2})
GOOD = np.array([[-4.0, 4.0], [0.0, 0.0]], np.float32)
"""Weights that tell the classes by their first feature."""


def parameters() -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.zeros(MODEL.layout.size, np.float32)
    MODEL.layout.views(vector)["dense0.weight"][...] = GOOD
    return vector


def settings(folder: Path, **drift: Any) -> AgentSettings:
    data = {
        "device": {"id": "a", "federation": "f", "state_dir": str(folder)},
        "data": {"path": str(folder / "data.npz")},
        "drift": drift,
    }
    return settings_from(data, AgentSettings, "test")


def rows(seed: int, count: int, moved: float = 0.0) -> tuple[Any, Any]:
    """Return examples of two classes; ``moved`` ones lie elsewhere, where the model takes one class for the other."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    x = rng.normal(0.0, 1.0, (count, 2)).astype(np.float32)
    x[:, 0] += np.where(y == 1, 2.0, -2.0) + moved
    return x, y


class Watched:
    """A device with a file of examples."""

    def __init__(self, folder: Path, **drift: Any) -> None:
        self.folder, self.settings = folder, settings(folder, **drift)
        self.x, self.y = rows(0, 1000)
        self.restart()

    def restart(self) -> None:
        self.watch = DriftWatch(self.settings, DriftFile(self.folder))

    def append(self, seed: int, count: int, moved: float = 0.0) -> None:
        x, y = rows(seed, count, moved)
        self.x, self.y = np.concatenate([self.x, x]), np.concatenate([self.y, y])

    def samples(self) -> Samples:
        np.savez(self.folder / "data.npz", x=self.x, y=self.y)
        return load_samples(self.folder / "data.npz", self.settings.data, MODEL)

    def look(self) -> DriftSeen:
        return self.watch.look(MODEL, parameters(), self.samples(), {})


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_file_that_grows(watched: Watched) -> None:
    assert watched.look() == DriftSeen()  # all of it is what there was
    assert watched.look() == DriftSeen()
    watched.append(1, 100)
    first = watched.look()
    assert (first.judged, first.drifting) == (100, False)
    assert watched.look() == first  # nothing is judged twice
    watched.append(2, 100, moved=8.0)
    seen = watched.look()
    assert (seen.judged, seen.drifting, seen.alarms) == (200, True, 1)
    assert seen.error_new is not None
    assert seen.error_earlier is not None
    assert seen.error_new > 10 * seen.error_earlier


def test_a_file_that_is_replaced(watched: Watched) -> None:
    watched.look()
    watched.x, watched.y = rows(7, 300)
    seen = watched.look()
    assert (seen.judged, seen.drifting) == (MAX_JUDGED, False)
    watched.x, watched.y = rows(8, 300, moved=8.0)
    assert watched.look().drifting
    watched.x, watched.y = rows(9, 20)  # shorter than what was looked at
    assert watched.look().judged == 2 * MAX_JUDGED + 20


def test_what_is_known_survives_a_restart(watched: Watched) -> None:
    watched.look()
    watched.append(1, 100, moved=8.0)
    seen = watched.look()  # an alarm is written at once
    watched.restart()
    assert watched.look() == seen
    watched.append(2, 20, moved=8.0)
    assert watched.look().judged == 120


def test_between_alarms_the_disk_is_left_alone(watched: Watched) -> None:
    watched.look()
    written = (watched.folder / "drift").stat().st_mtime_ns
    for seed in range(1, 6):
        watched.append(seed, 20)
        watched.look()
    assert (watched.folder / "drift").stat().st_mtime_ns == written
    assert (watched.folder / "drift").stat().st_size <= 16 * 1024
    watched.restart()  # as if killed: what was not written is judged again
    assert watched.look().judged == 100


def test_over_when_the_errors_are_back_and_a_new_alarm_is_another(watched: Watched) -> None:
    watched.look()
    for turn, moved in enumerate((8.0, 0.0, 8.0, 0.0), start=1):
        watched.append(turn, 200, moved=moved)
        seen = watched.look()
        assert (seen.drifting, seen.alarms) == (moved > 0, (turn + 1) // 2)


def test_what_lasts_becomes_normal(tmp_path: Path) -> None:
    watched = Watched(tmp_path, relearn_examples=150)
    watched.look()
    for turn in range(1, 5):
        watched.append(turn, 100, moved=8.0)
        seen = watched.look()
    assert not seen.drifting
    watched.append(9, 100, moved=8.0)
    seen = watched.look()
    assert (seen.drifting, seen.alarms) == (False, 1)


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: data[:-4] + b"abcd", lambda _data: b""])
def test_a_damaged_file_is_put_aside(watched: Watched, damage: Callable[[bytes], bytes]) -> None:
    watched.look()
    path = watched.folder / "drift"
    path.write_bytes(damage(path.read_bytes()))
    watched.restart()
    watched.append(1, 50, moved=8.0)
    assert watched.look() == DriftSeen()  # as a new device
    assert (watched.folder / "drift.aside").exists()


def test_what_was_forgotten_does_not_come_back(watched: Watched) -> None:
    file = DriftFile(watched.folder)
    watched.watch = DriftWatch(watched.settings, file)
    watched.look()
    watched.append(1, 100, moved=8.0)
    assert watched.look().drifting
    file.forget()
    assert not list(watched.folder.glob("drift*"))
    assert watched.look() == DriftSeen()


def test_switched_off_or_without_examples_held_out_nothing_is_said(tmp_path: Path, watched: Watched) -> None:
    off = DriftWatch(settings(tmp_path, enabled=False), DriftFile(tmp_path))
    assert off.look(MODEL, parameters(), watched.samples(), {}) == DriftSeen()
    assert watched.watch.look(MODEL, parameters(), replace(watched.samples(), holdout=None), {}) == DriftSeen()
    unknown = replace(watched.samples(), train_ends=np.empty(0))
    assert watched.watch.look(MODEL, parameters(), unknown, {}) == DriftSeen()
    assert not (tmp_path / "drift").exists()


def test_other_inputs_begin_anew(watched: Watched) -> None:
    watched.look()
    watched.append(1, 50, moved=8.0)
    assert watched.watch.look(MODEL, parameters(), watched.samples(), {"window": 5}) == DriftSeen()


def test_a_look_that_is_stopped_has_judged_nothing(watched: Watched) -> None:
    before = watched.look()
    watched.append(1, 100, moved=8.0)
    with pytest.raises(TaskLeftError):
        watched.watch.look(MODEL, parameters(), watched.samples(), {}, lambda: True)
    assert watched.watch.look(MODEL, parameters(), watched.samples(), {}) != before
    assert watched.look().judged == 100


def windows(ends: Any, x: Any, y: Any, **more: Any) -> Samples:
    held = np.arange(len(x)) % 4 == 0
    return Samples(
        train=Dataset.for_model(MODEL, x[~held], y[~held]),
        holdout=Dataset.for_model(MODEL, x[held], y[held]),
        train_ends=ends[~held],
        holdout_ends=ends[held],
        **more,
    )


def test_of_windows_that_overlap_one_counts(tmp_path: Path) -> None:
    watch = DriftWatch(settings(tmp_path), DriftFile(tmp_path))
    x, y = rows(0, 300)
    ends = 1.7e9 + np.arange(300.0)
    watch.look(MODEL, parameters(), windows(ends[:200], x[:200], y[:200], lasts=9.0), {})
    seen = watch.look(MODEL, parameters(), windows(ends, x, y, lasts=9.0), {})
    assert seen.judged == 10  # every tenth


def test_features_that_the_device_standardizes_are_kept_as_they_were(tmp_path: Path) -> None:
    watch = DriftWatch(settings(tmp_path), DriftFile(tmp_path))
    x, y = rows(0, 300)
    judged = []
    for count, seed in ((200, 1), (300, 2)):
        constants = Standardization.of(100.0 * rows(seed, 50)[0] + seed)
        standardized = (100.0 * x[:count]).astype(np.float32)
        constants.apply(standardized)
        given = windows(np.arange(float(count)), standardized, y[:count], constants=constants)
        seen = watch.look(MODEL, parameters(), given, {})
        judged.append((seen.judged, seen.drifting))
    assert judged == [(0, False), (100, False)]
    head = DriftFile(tmp_path).read()
    assert head is not None
    kept = np.frombuffer(head[1]["earlier"], "<f4").reshape(-1, 3)
    assert np.abs(kept[:, 0]).max() > 100.0  # in the units of the sensor


def test_what_is_kept_has_a_bound(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for seed in range(1, 8):
        watched.append(seed, 1000)
        watched.restart()
        watched.look()
    head = DriftFile(tmp_path).read()
    assert head is not None
    assert head[0].arrays == {"earlier": 3 * MAX_EXAMPLES, "since": 0}
