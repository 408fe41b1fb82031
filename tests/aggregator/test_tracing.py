"""From a file to the version that it holds; the log of exports; and the command that shows cards."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.adapters import exports as export_log
from aggregator.adapters.errors import ExportFailed, StoreError
from aggregator.adapters.exports import ExportLog
from aggregator.adapters.registry import open_registry
from aggregator.adapters.tracing import trace
from aggregator.card import Export
from aggregator.card_text import card_text
from aggregator.configuration import RegistryTable
from models.predicting import Origin
from models.tflite.file import TfliteModel
from tests.support.plants import Plant, given


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


# -- from a file to its version --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.npz", "model.tflite"])
def test_an_exported_file_leads_back_to_its_version(plant: Plant, tmp_path: Path, name: str) -> None:
    plant.version((given("a", 0, 0, 30),))
    plant.version((given("a", 1, 0, 30),))
    to = tmp_path / name
    done = plant.export(1, to)
    assert done["sha256"] == hashlib.sha256(to.read_bytes()).hexdigest()
    moved = to.rename(tmp_path / "found")
    assert trace(plant.state_dir, moved).version == 1
    (noted,) = plant.card(1).exports
    assert (noted.sha256, noted.file, noted.weights) == (done["sha256"], str(to), "float32")
    assert noted.parameters == plant.card(1).hashes.parameters
    assert "exports" not in plant.card(1).missing
    assert plant.card(2).missing["exports"]
    plant.export(1, to)
    assert len(plant.card(1).exports) == 1


def test_int8_names_what_it_was_calibrated_with(plant: Plant, tmp_path: Path) -> None:
    plant.version((given("a", 0, 0, 30),))
    calibration = tmp_path / "examples.npz"
    np.savez(calibration, x=np.random.default_rng(0).standard_normal((50, 4)))
    plant.export(1, tmp_path / "m.tflite", int8=True, calibration=calibration)
    (noted,) = plant.card(1).exports
    assert noted.calibration == hashlib.sha256(calibration.read_bytes()).hexdigest()
    assert trace(plant.state_dir, tmp_path / "m.tflite").version == 1


def test_files_that_were_not_exported_here(plant: Plant, tmp_path: Path) -> None:
    plant.version((given("a", 0, 0, 30),))
    parameters = np.full(15, 1, "<f4")
    file = tmp_path / "found"
    file.write_bytes(parameters.tobytes())
    assert "parameters themselves" in trace(plant.state_dir, file).how
    file.write_bytes(b"some head" + parameters.tobytes())
    assert (trace(plant.state_dir, file).version, "ends with" in trace(plant.state_dir, file).how) == (1, True)
    with open_registry(plant.state_dir) as registry:
        federation, epoch = registry.identity()
    model = plant.prepared.model
    origin = Origin(federation=federation, epoch=epoch, version=1)
    file.write_bytes(TfliteModel.export(model, np.zeros(15, np.float32)).patch(parameters, origin).data)
    assert "same bytes" in trace(plant.state_dir, file).how


@pytest.mark.parametrize(
    ("origin", "weights", "says"),
    [
        ({"epoch": "e" * 16}, 1.0, "epoch eeee"),
        ({}, 2.0, "it has other weights"),
        ({"version": 9}, 1.0, "cannot be checked"),
    ],
)
def test_files_that_claim_what_is_not_so(
    plant: Plant, tmp_path: Path, origin: dict[str, Any], weights: float, says: str
) -> None:
    plant.version((given("a", 0, 0, 30),))
    with open_registry(plant.state_dir) as registry:
        federation, epoch = registry.identity()
    claimed = Origin(**{"federation": federation, "epoch": epoch, "version": 1, **origin})
    file = tmp_path / "found.tflite"
    vector = np.full(15, weights, np.float32)
    file.write_bytes(TfliteModel.export(plant.prepared.model, vector, claimed).data)
    with pytest.raises(ExportFailed, match=says):
        trace(plant.state_dir, file)


def test_a_file_of_nothing_known(plant: Plant, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"\xff\xd8" * 1000)
    with pytest.raises(ExportFailed, match="was not exported here, and holds no version"):
        trace(plant.state_dir, file)
    with pytest.raises(FileNotFoundError):
        trace(plant.state_dir, tmp_path / "none")


def test_files_outlive_the_store_that_they_came_from(plant: Plant, tmp_path: Path) -> None:
    plant.version((given("a", 0, 0, 30),))
    plant.export(1, tmp_path / "m.tflite")
    epoch = plant.card().epoch
    for path in plant.state_dir.glob("aggregator.sqlite*"):
        path.unlink()
    plant.put()
    assert plant.card().epoch != epoch
    with pytest.raises(ExportFailed, match=f"is version 1 of epoch {epoch}"):
        trace(plant.state_dir, tmp_path / "m.tflite")


# -- the log of exports ----------------------------------------------------------------------------------------------


def entry(number: int, version: int = 1) -> Export:
    return Export(
        sha256=f"{number:064x}", epoch="e" * 16, version=version, file="/x", format="npz", weights="float32", bytes=1,
        parameters="0" * 64,
    )  # fmt: skip


def test_many_write_the_log_at_once(tmp_path: Path) -> None:
    def write(first: int) -> None:
        for number in range(first, first + 10):
            ExportLog(tmp_path).note(entry(number))

    writers = [threading.Thread(target=write, args=(10 * k,)) for k in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(ExportLog(tmp_path).of_version("e" * 16, 1)) == 40


def test_the_log_forgets_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_log, "KEPT", 5)
    for number in range(9):
        ExportLog(tmp_path).note(entry(number))
    assert [each.sha256 for each in ExportLog(tmp_path).of_version("e" * 16, 1)] == [f"{n:064x}" for n in range(4, 9)]


def test_no_file_without_its_entry(plant: Plant, tmp_path: Path) -> None:
    plant.version((given("a", 0, 0, 30),))
    (plant.state_dir / "exports.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="where the hashes of exported files are kept"):
        plant.export(1, tmp_path / "m.npz")
    assert not (tmp_path / "m.npz").exists()
    (plant.state_dir / "exports.sqlite").unlink()
    with pytest.raises(OSError, match="No such file"):
        plant.export(1, tmp_path / "nowhere" / "m.npz")
    assert plant.card(1).exports == []


def test_a_log_of_another_program_or_time_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "exports.sqlite")) as db:
        db.executescript("CREATE TABLE t (x); PRAGMA user_version = 7")
    with pytest.raises(StoreError, match=r"not written by this version of fedmq \(schema 7\)"):
        ExportLog(tmp_path).note(entry(1))
    with pytest.raises(StoreError, match="schema 7"):
        ExportLog(tmp_path).of_file("0" * 64)


def test_a_log_that_was_only_begun_is_empty(tmp_path: Path) -> None:
    (tmp_path / "exports.sqlite").touch()
    assert ExportLog(tmp_path).of_file("0" * 64) == []
    ExportLog(tmp_path).note(entry(1))
    assert len(ExportLog(tmp_path).of_file(entry(1).sha256)) == 1
    assert (tmp_path / "exports.sqlite").stat().st_uid == os.geteuid()


def test_limits_of_the_registry_are_not_those_of_the_log() -> None:
    assert RegistryTable().keep_lineage <= export_log.KEPT


# -- the command -----------------------------------------------------------------------------------------------------


def run(plant: Plant, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aggregator", *words, "--config", str(plant.config)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command(plant: Plant, tmp_path: Path) -> None:
    plant.version((given("a", 0, 0, 30),))
    assert run(plant, "card").stdout == card_text(plant.card(1))
    assert json.loads(run(plant, "card", "0", "--json").stdout)["version"] == 0
    done = run(plant, "export", "0", "--to", str(tmp_path / "m.npz"))
    assert done.returncode == 0
    traced = run(plant, "card", "--of", str(tmp_path / "m.npz"), "--json")
    found = json.loads(traced.stdout)
    assert (found["card"], found["version"], found["traced"]["version"]) == (1, 0, 0)
    assert "is version 0: exported to" in traced.stderr
    both = run(plant, "card", "1", "--of", str(tmp_path / "m.npz"))
    assert (both.returncode, both.stdout) == (2, "")
    unknown = run(plant, "card", "--of", str(plant.config))
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "was not exported here" in unknown.stderr
    assert run(plant, "card", "9").returncode == 1
