"""Between two questions whether to stop lies a bounded piece of work, however large a file or store is."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from device_agent.adapters import data as files
from device_agent.adapters.collected import collect
from device_agent.adapters.leaving import TaskLeftError
from device_agent.adapters.supply import Supply
from device_agent.sensing.adapters import reading
from device_agent.sensing.adapters.reading import extent_of
from device_agent.sensing.adapters.sample_store import Batch, SampleStore
from device_agent.sensing.rows import Row
from device_agent.sensing.sources import MqttSource, SamplesSettings
from device_agent.settings import AgentSettings, DataSettings, DeviceSettings
from models import Pipeline, build
from models import pieces as cutting

if TYPE_CHECKING:
    from device_agent.adapters.data import Samples

ROWS, WIDTH = 5000, 40
MODEL = build({"kind": "softmax", "inputs": WIDTH, "outputs": 3})
RNG = np.random.default_rng(8)


class Asked:
    """Counts the questions, and says yes from one of them on."""

    def __init__(self, stop_at: int = 10**9) -> None:
        self.count = 0
        self._stop_at = stop_at

    def __call__(self) -> bool:
        self.count += 1
        return self.count >= self._stop_at


def settings(folder: Path, **fields: Any) -> AgentSettings:
    device = DeviceSettings(id="a", federation="f", state_dir=str(folder))
    return AgentSettings(device=device, data=DataSettings(holdout_fraction=0.3, **fields))


def same(found: Samples, wanted: Samples) -> None:
    for side in ("train", "holdout"):
        for name in ("x", "y"):
            ours, theirs = (getattr(getattr(one, side), name) for one in (found, wanted))
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["npz", "packed npz", "npz of float64", "csv"])
def test_a_file_is_read_in_pieces_and_left_between_any_two(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = RNG.normal(size=(ROWS, WIDTH)).astype(np.float64 if kind == "npz of float64" else np.float32)
    y = RNG.integers(0, 3, ROWS)
    path = tmp_path / f"samples.{kind.rsplit(maxsplit=1)[-1] if 'float64' not in kind else 'npz'}"
    if kind == "csv":
        header = ",".join([*(f"f{number}" for number in range(WIDTH)), "label"])
        np.savetxt(path, np.column_stack([x, y]), delimiter=",", header=header, comments="", fmt="%.9g")
    else:
        (np.savez_compressed if kind == "packed npz" else np.savez)(path, x=x, y=y)
    wanted = files.load_samples(path, settings(tmp_path, path=str(path)).data, MODEL)

    monkeypatch.setattr(cutting, "PIECE_BYTES", 4096)
    asked = Asked()
    same(files.load_samples(path, settings(tmp_path, path=str(path)).data, MODEL, asked), wanted)
    # Checked, hashed, and written once to one side or the other; read besides.
    assert asked.count >= 3 * 4 * ROWS * WIDTH // 4096
    for stop_at in sorted({1, 2, 3, *range(4, asked.count, 29), asked.count}):
        with pytest.raises(TaskLeftError):
            files.load_samples(path, settings(tmp_path, path=str(path)).data, MODEL, Asked(stop_at))


def test_an_archive_is_never_read_on_for_long_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever NumPy and zipfile do: of the file no more than half a megabyte is taken at once."""
    path = tmp_path / "samples.npz"
    np.savez(path, x=RNG.normal(size=(20_000, WIDTH)).astype(np.float32), y=RNG.integers(0, 3, 20_000))
    asked, taken = Asked(), []
    read = files._Asking.read

    def noted(file: Any, size: int = -1) -> bytes:
        before, found = asked.count, read(file, size)
        assert asked.count == before + 1
        taken.append(len(found))
        return found

    monkeypatch.setattr(files._Asking, "read", noted)
    files.load_samples(path, settings(tmp_path, path=str(path)).data, MODEL, asked)
    assert sum(taken) >= 4 * 20_000 * WIDTH
    assert max(taken) <= 2**19


def test_samples_that_were_left_are_read_again_for_the_next_task(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, x=RNG.normal(size=(ROWS, WIDTH)).astype(np.float32), y=RNG.integers(0, 3, ROWS))
    whole = Asked()
    fresh = Supply(settings(tmp_path, path=str(path)))
    wanted = fresh.begin(MODEL, None, None, whole)

    supply = Supply(settings(tmp_path, path=str(path)))
    for stop_at in sorted({1, whole.count // 2, whole.count}):  # the last question is within the digest
        with pytest.raises(TaskLeftError):
            supply.begin(MODEL, None, None, Asked(stop_at))
    same(supply.begin(MODEL, None), wanted)
    assert supply.digest == fresh.digest


def _filled(folder: Path, rows: int) -> AgentSettings:
    store = SampleStore(folder, SamplesSettings())
    values = RNG.normal(size=(rows, 2)).tolist()
    made = [
        Row(source="s", channels=("a", "b"), values=tuple(row), time=1.78e9 + at, label=float(at // 50 % 3))
        for at, row in enumerate(values)
    ]
    store.append(Batch(rows=made), None)
    store.close()
    return AgentSettings(
        device=DeviceSettings(id="a", federation="f", state_dir=str(folder)),
        data=DataSettings(holdout_fraction=0.3),
        sources={"s": MqttSource(topics=["t"], fields={"a": "a", "b": "b"})},
    )


def test_a_store_becomes_windows_in_pieces_and_is_left_between_any_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _filled(tmp_path, 6000)
    model = build({"kind": "softmax", "inputs": 4, "outputs": 3})
    declared = {"channels": ["a", "b"], "max_gap_s": 5.0, "window": 64, "stride": 2, "compute": ["mean", "deviation"]}
    pipeline = Pipeline.from_data(declared | {"label": "majority", "standardize": "device"})
    wanted = collect(config, pipeline, model, extent_of(tmp_path), None)

    monkeypatch.setattr(cutting, "PIECE_BYTES", 4096)
    asked = Asked()
    same(collect(config, pipeline, model, extent_of(tmp_path), None, asked), wanted)
    assert asked.count > 6000 // 2048 + 6000 * 64 // 2**16
    for stop_at in range(1, asked.count + 1, 3):
        with pytest.raises(TaskLeftError):
            collect(config, pipeline, model, extent_of(tmp_path), None, Asked(stop_at))


def test_a_question_to_the_store_that_takes_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _filled(tmp_path, 3000)
    monkeypatch.setattr(reading, "ASK_EVERY_STEPS", 50)
    asked = Asked(20)
    with pytest.raises(TaskLeftError):
        reading.read(tmp_path, ["a"], limit=2000, stopped=asked)
    assert asked.count < 60, "it was given up before the first rows came"
    assert len(reading.read(tmp_path, ["a"], limit=2000, stopped=Asked())) == 2000


def test_other_faults_of_the_store_are_still_told(tmp_path: Path) -> None:
    _filled(tmp_path, 100)
    with sqlite3.connect(tmp_path / "samples.sqlite") as db:
        db.execute("DROP TABLE samples")
    db.close()
    with pytest.raises(reading.SamplesError, match="cannot be read: no such table"):
        reading.read(tmp_path, ["a"], stopped=Asked())
