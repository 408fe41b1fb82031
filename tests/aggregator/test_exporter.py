"""Every version as a file, beside the aggregator's work."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from aggregator.adapters.exporter import TfliteExporter
from aggregator.adapters.registry import open_registry
from aggregator.configuration import DownlinkTable, RegistryTable
from aggregator.downlink import render, vector_of
from aggregator.recording import record_of
from aggregator.records import VersionRecord
from fedmq.embedded_broker import EmbeddedBroker
from models import build
from models.predicting import Origin
from models.tflite.file import TfliteModel
from tests.support.aggregators import HandDevice, Running, write_config
from tests.support.links import Links

MODEL = build({"kind": "softmax", "inputs": 3, "outputs": 2})


def version(number: int) -> VersionRecord:
    master = np.full(MODEL.layout.size, number, np.float32)
    return record_of(number, "initial", render(master, DownlinkTable(), np.random.default_rng(0)), 0.0)


def export(tmp_path: Path, folder: Path, numbers: list[int], keep: int = 3) -> None:
    for number in numbers:
        settings = RegistryTable(export_tflite=str(folder), keep_exports=keep)
        exporter = TfliteExporter(settings, MODEL, "mill", "00e1", tmp_path)
        exporter.note(version(number))
        exporter.close()


def test_versions_appear_and_the_oldest_go(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "notes.txt").touch()
    (folder / "version-mine.tflite").touch()
    export(tmp_path, folder, [1, 2, 9, 10, 11])
    names = [f"version-{number:08}.tflite" for number in (9, 10, 11)]
    assert sorted(path.name for path in folder.iterdir()) == [
        "current.tflite",
        "notes.txt",
        *names,
        "version-mine.tflite",
    ]
    file = TfliteModel.parse((folder / "current.tflite").read_bytes(), MODEL)
    assert file.origin == Origin(federation="mill", epoch="00e1", version=11)
    assert file.data == (folder / names[-1]).read_bytes()


def test_only_the_newest_waits(tmp_path: Path) -> None:
    exporter = TfliteExporter(
        RegistryTable(export_tflite=str(tmp_path), keep_exports=1000), MODEL, "mill", "00e1", tmp_path
    )
    for number in range(500):
        exporter.note(version(number))
    exporter.close()
    file = TfliteModel.parse((tmp_path / "current.tflite").read_bytes(), MODEL)
    assert file.origin.version == 499


def test_a_folder_that_cannot_be_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        export(tmp_path, tmp_path / "file", [1, 2])
    assert [record.getMessage().split(" is not in ")[0] for record in caplog.records] == ["version 1", "version 2"]


def test_without_a_folder_there_is_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exporter = TfliteExporter(RegistryTable(), MODEL, "mill", "00e1", tmp_path)
    exporter.note(version(1))
    exporter.close()
    assert not list(tmp_path.iterdir())


def test_a_running_aggregator_writes_its_versions(broker: EmbeddedBroker, links: Links, tmp_path: Path) -> None:
    more = '[registry]\nexport_tflite = "models"\nkeep_exports = 2'
    with Running(write_config(tmp_path, broker.port, goal=1, more=more)) as running:
        device = HandDevice(links(broker.port))
        manifest = device.manifest()
        for sequence in (1, 2, 3):
            device.send(manifest, sequence)
            assert device.receipt(sequence).status == "accepted"
        assert running.stop() == 0
    model = running.prepared.model
    file = TfliteModel.parse((tmp_path / "models" / "current.tflite").read_bytes(), model)
    assert file.origin == Origin(federation="test", epoch=manifest.epoch, version=3)
    with open_registry(running.prepared.state_dir) as registry:
        parameters = vector_of(registry.parameters(3)).astype(np.float32)
    assert file.data == TfliteModel.export(model, parameters, file.origin).data
    assert len(list((tmp_path / "models").glob("version-*.tflite"))) <= 2
