"""What is checked before the service starts: the model, the plan, the schedule, the evaluation data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.adapters.preparing import prepare
from aggregator.adapters.snapshot import INTERVAL_S, SnapshotKeeper, read_snapshot
from aggregator.manifests import History, manifest_of
from models import Model
from protocol.packing import decode_manifest, encode
from protocol.settings import ConfigurationError
from tests.aggregator.harness import fresh, settings_with
from tests.support.aggregators import write_config
from tests.support.stores import version_record


def changed(config: Path, old: str, new: str) -> Path:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    return config


def fault_of(config: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        prepare(config)
    text = str(caught.value)
    assert text.startswith(f"{config}: ")
    return text


def test_a_sound_configuration(tmp_path: Path) -> None:
    prepared = prepare(write_config(tmp_path))
    assert prepared.model.layout.size == 15
    assert prepared.evaluate(np.zeros(15, np.float32)) == {}
    version, server, shelf = prepared.founding.begin()
    assert version.version == 0
    assert server.master.size == 15
    assert shelf[0].digest == version.blob.digest


FEATURES = """
[features]
channels = ["t", "h"]
max_gap_s = 60
window = 10
compute = ["mean", "slope"]
"""


def test_a_pipeline_that_feeds_the_model_is_part_of_what_the_store_is(tmp_path: Path) -> None:
    plain, prepared = prepare(write_config(tmp_path)), prepare(write_config(tmp_path, more=FEATURES))
    assert prepared.pipeline is not None
    assert prepared.founding.features == prepared.pipeline.to_data()
    assert prepared.founding.meaning == prepared.pipeline.digest
    record = prepared.founding.begin()[0]
    history = History(epoch="e" * 16, generation=1, issued=1)
    manifest = manifest_of(prepared.settings, prepared.model, history, record)
    assert decode_manifest(encode(manifest)).features == prepared.pipeline.to_data()
    assert (plain.pipeline, plain.founding.features, plain.founding.meaning) == (None, {}, "")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"slope"', '"gradient"', "[features]: features: compute has 'gradient', allowed is one of 'mean'"),
        ('["mean", "slope"]', '["mean"]', "2 features of 2 channels make 2 inputs; the model's inputs are 4"),
        ('["mean", "slope"]', '["mean", "slope"]\ncorrelation = true', "4 features of 2 channels and 1 correlations"),
        ('["mean", "slope"]', '"raw"', "10 rows or steps of 2 channels make 20 inputs; the model's inputs are 4"),
        (
            "window = 10",
            'window = 10\ntarget = "self"',
            "makes 4 values to learn by a reconstruction; the",
        ),
        ('"h"]', '"h", "' + "x" * 4000 + '"]', "allowed is a list of 1 to 64 different texts of 1 to 128"),
    ],
)
def test_pipelines_that_do_not_fit_are_refused_with_both_numbers(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert says in fault_of(changed(write_config(tmp_path, more=FEATURES), old, new))


def test_a_pipeline_that_is_too_long_for_a_manifest_is_refused(tmp_path: Path) -> None:
    names = [f"{number:0100d}" for number in range(40)]
    config = changed(write_config(tmp_path, more=FEATURES), '["t", "h"]', json.dumps(names))
    changed(config, "inputs = 4", "inputs = 80")
    assert "at most 4096 are allowed: make the description of [model]" in fault_of(config)


def test_going_on_from_a_snapshot_keeps_number_and_parameters(tmp_path: Path) -> None:
    prepared = prepare(write_config(tmp_path, more='[downlink]\nencoding = "f16"'))
    parameters = np.arange(15, dtype="<f4").tobytes()
    version, server, _ = prepared.founding.go_on(41, parameters)
    assert (version.version, version.kind, version.parameters) == (41, "initial", parameters)
    assert server.master.tobytes() == parameters


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('kind = "softmax"', 'kind = "magic"', "[model]: "),
        ("inputs = 4", "inputs = 0", "[model]: "),
        ("learning_rate = 0.1", "learning_rate = -1.0", "[training]: "),
        ("learning_rate = 0.1", 'learning_rat = 0.1\noptimizer = "sgd"', "[training]: "),
        (
            'kind = "softmax"\ninputs = 4\noutputs = 3\n[training]\n',
            'kind = "mlp"\ninputs = 4\nhidden = [8192]\noutputs = 3\n[training]\nbatch_size = 65536\n',
            "[training]: training: batch_size is 65536, allowed is at most ",
        ),
        ("goal = 1000", "goal = 0", "no version would ever be made"),
        ("goal = 1000", 'cron = "x * * * *"', "schedule.cron: "),
        ("goal = 1000", 'cron = "0 0 31 2 *"', "never comes"),
        ("[participation]", '[participation]\ncodec = "zip"', "allowed are f16, f32, int8"),
        ("[broker]", '[broker]\npassword_file = "/nowhere/password"', "/nowhere/password"),
    ],
)
def test_faults_are_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert says in fault_of(changed(write_config(tmp_path), old, new))


def evaluation(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "evaluation.npz"
    np.savez(path, **arrays)
    return write_config(tmp_path, more=f'[evaluation]\npath = "{path}"')


X = np.ones((6, 4), np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])


def test_evaluation(tmp_path: Path) -> None:
    prepared = prepare(evaluation(tmp_path, x=X, y=Y))
    metrics = prepared.evaluate(np.zeros(15, np.float32))
    assert metrics["loss"] == pytest.approx(np.log(3))
    assert 0.0 <= metrics["accuracy"] <= 1.0


def test_evaluating_what_has_gone_astray_warns_nobody(tmp_path: Path) -> None:
    prepared = prepare(evaluation(tmp_path, x=X * 1e30, y=Y))
    with np.errstate(all="raise"):
        assert prepared.evaluate(np.full(15, 3e38, np.float32))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": X}, "no array 'y'; it has x"),
        ({"x": X, "y": Y[:3]}, "evaluation.npz"),
        ({"x": X[:, :3], "y": Y}, "evaluation.npz"),
        ({"x": X, "y": Y + 1}, "evaluation.npz"),
        ({"x": X * np.nan, "y": Y}, "evaluation.npz"),
        ({"x": np.array([{}] * 6, dtype=object), "y": Y}, "no NPZ file of plain arrays"),
    ],
)
def test_evaluation_data_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    text = fault_of(evaluation(tmp_path, **arrays))
    assert "evaluation.path" in text
    assert says in text


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04garbage", b"\x93NUMPY\x01\x00"])
def test_evaluation_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "evaluation.npz"
    path.write_bytes(content)
    assert "evaluation.path" in fault_of(write_config(tmp_path, more=f'[evaluation]\npath = "{path}"'))


def test_an_array_file_is_not_enough(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.npy"
    np.save(path, X)
    assert "evaluation.path" in fault_of(write_config(tmp_path, more=f'[evaluation]\npath = "{path}"'))
    text = fault_of(write_config(tmp_path, more='[evaluation]\npath = "/nowhere.npz"'))
    assert "/nowhere.npz cannot be read: No such file" in text


def keeper_in(directory: Path, model: Model) -> SnapshotKeeper:
    return SnapshotKeeper(directory, "test", model, fresh(settings_with(), model, "5" * 16))


def test_snapshots_are_not_written_too_often(tmp_path: Path) -> None:
    model = prepare(write_config(tmp_path)).model
    keeper = keeper_in(tmp_path, model)

    def kept() -> int:
        snapshot = read_snapshot(tmp_path, "test", model.layout.digest)
        return snapshot.version if snapshot else -1

    keeper.write_if_due(0.0)
    assert kept() == -1
    for number in (1, 2, 3):
        keeper.note(version_record(number, np.zeros(15, np.float32)), ())
        keeper.write_if_due(100.0 + number)
    assert kept() == 1
    assert keeper.wait_s(103.0) == pytest.approx(INTERVAL_S - 2.0)
    keeper.write_if_due(101.0 + INTERVAL_S)
    assert kept() == 3
    keeper.note(version_record(4, np.zeros(15, np.float32)), ())
    keeper.write()
    assert kept() == 4


def test_a_snapshot_that_cannot_be_written_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = prepare(write_config(tmp_path)).model
    directory = tmp_path / "later"
    keeper = keeper_in(directory, model)
    keeper.note(version_record(1, np.zeros(15, np.float32)), ())
    keeper.write_if_due(0.0)
    assert "cannot write the snapshot: version 1" in caplog.text
    directory.mkdir()
    keeper.write_if_due(INTERVAL_S)
    assert read_snapshot(directory, "test", model.layout.digest)
