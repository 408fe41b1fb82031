"""A model that is a ``.tflite`` file, on the device: built from what lies on the disk, trained, interrupted, asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent import events as ev
from device_agent.adapters import learning
from device_agent.adapters.backbone_files import BackboneFiles, backbone_path
from device_agent.adapters.leaving import TaskLeftError
from device_agent.adapters.model_cache import ModelCache
from device_agent.adapters.running import BackboneError
from device_agent.commands import Evaluate
from device_agent.frozen import file_of
from device_agent.sensing.adapters.serving import Exchange, ServingError
from device_agent.sensing.recent import Recent
from device_agent.sensing.rows import Row
from models.tflite.adapters import training_trial
from models.tflite.contract import TrainableSpec
from models.tflite.runtime import load_runtime
from models.tflite.trainable import TrainableModel
from protocol import tensors
from protocol.chunks import blob_of, digest_of
from tests.device_agent.interruptions import Device, Word, same, stopped
from tests.support.trainable import linear_file, softmax_file

PLAN = {"epochs": 3, "batch_size": 16}
FEATURES = {"channels": ["t"], "max_gap_s": 60, "window": 4, "compute": "raw"}


class Learner(Device):
    """A device whose federation has a file; it is on the disk unless that is cleaned."""

    def __init__(self, folder: Path, data: bytes | None = None, **said: Any) -> None:
        super().__init__(folder, plan=PLAN)
        self.bytes = data or softmax_file(4, 2)
        spec = TrainableSpec.of(self.bytes, {"kind": "tflite", **said})
        self.model = TrainableModel(self.bytes, spec, load_runtime())
        self.start = self.model.init(np.random.default_rng(0))
        self._data = tensors.encode("f32", self.start, np.random.default_rng(0))
        self.announce(
            model=self.model.spec,
            layout=self.model.layout.digest,
            parameters=digest_of(self._data),
            blob=blob_of(self._data, "f32"),
        )
        blob = file_of(self.manifest)
        assert blob is not None
        assert (blob.digest, blob.total_bytes, blob.chunk_bytes) == (
            spec.digest,
            len(self.bytes),
            self.manifest.blob.chunk_bytes,
        )
        self.path = backbone_path(folder, blob.digest)
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_bytes(self.bytes)

    def mark(self) -> Path:
        return self.path.with_suffix(".tried")


def failed(answer: Any) -> tuple[str, str]:
    assert isinstance(answer, ev.TaskFailed)
    return answer.fault, answer.reason


def test_interrupted_after_any_step_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    wanted = Learner(tmp_path / "whole").train()
    assert isinstance(wanted, ev.TrainingDone)
    assert wanted.after["accuracy"] > wanted.before["accuracy"]
    device = Learner(tmp_path / "parts")
    done = 0
    while isinstance(answer := device.train(stop_after=2), ev.TaskStopped):
        done += 2
        assert answer.kept_share == pytest.approx(done / wanted.num_steps)
    assert same(answer, wanted)
    assert device.resumed() == list(range(2, wanted.num_steps, 2))


def test_what_set_does_not_reach_begins_anew_after_an_interruption(tmp_path: Path) -> None:
    """Its second step is half as long, its third a third: after an interruption the first one is whole again."""
    wanted = Learner(tmp_path / "whole", softmax_file(4, 2, counts=True)).train()
    device = Learner(tmp_path / "parts", softmax_file(4, 2, counts=True))
    stopped(device.train(stop_after=1))
    found = device.train()
    assert isinstance(found, ev.TrainingDone)
    assert (found.num_steps, found.num_examples) == (wanted.num_steps, wanted.num_examples)
    assert found.delta != wanted.delta


def test_it_is_tried_out_once_and_not_after_every_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, tried = Learner(tmp_path), []
    monkeypatch.setattr(training_trial, "try_training", lambda path, *_args, **_more: tried.append(path))
    for _ in range(2):
        assert isinstance(device.train(), ev.TrainingDone)
        blob = file_of(device.manifest)
        assert blob is not None
        assert BackboneFiles(tmp_path).seek(blob).complete, "as at every start"
    assert tried == [device.path]
    # Another reading of the same file is another matter.
    device.announce(model={**device.manifest.model, "signatures": {"get": "set"}})
    assert failed(device.train())[0] == "model"
    assert device.mark().exists()


def test_a_stop_ends_the_trial_too(tmp_path: Path) -> None:
    device = Learner(tmp_path)
    with pytest.raises(TaskLeftError):
        learning.built(device.manifest, tmp_path, lambda: True)
    assert not device.mark().exists()
    assert isinstance(device.train(), ev.TrainingDone)


def test_a_file_that_is_missing_or_damaged_is_to_be_fetched_again(tmp_path: Path) -> None:
    device = Learner(tmp_path)
    device.path.write_bytes(device.bytes[:-1] + bytes([device.bytes[-1] ^ 1]))
    fault, reason = failed(device.train())
    assert fault == "backbone"
    assert "its SHA-256 is another" in reason
    device.path.unlink()
    assert failed(device.train()) == ("backbone", "the model's file is not here yet")
    device.path.mkdir()
    assert failed(device.train()) == ("model", "the model's file cannot be read: Is a directory")
    device.path.rmdir()
    device.path.write_bytes(device.bytes)
    assert isinstance(device.train(), ev.TrainingDone)


def test_a_file_that_kills_is_not_run_in_the_agent(tmp_path: Path) -> None:
    device = Learner(tmp_path, softmax_file(4, 2, deadly=True))
    fault, reason = failed(device.train())
    assert fault == "model"
    assert "tried in a process of its own, which died of SIG" in reason
    assert not device.mark().exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digest": "A" * 64}, "digest and size name no .tflite file"),
        ({"size": 0}, "digest and size name no .tflite file"),
        ({"size": "12"}, "digest and size name no .tflite file"),
        ({"task": "poetry"}, "task"),
    ],
)
def test_what_a_manifest_says_of_a_file_is_checked(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    device = Learner(tmp_path)
    device.announce(model={**device.manifest.model, **change})
    fault, reason = failed(device.train())
    assert fault == "model"
    assert reason.startswith("model spec: ")
    assert said in reason


def test_it_is_measured_without_training(tmp_path: Path) -> None:
    device = Learner(tmp_path)
    bench, _ = device.process()
    with ModelCache(tmp_path).open() as file:
        answer = bench.evaluate(Evaluate(task=1, manifest=device.manifest), file, Word())
    assert isinstance(answer, ev.EvaluationDone)
    holdout = bench._supply.held.holdout
    assert holdout is not None
    assert answer.metrics == device.model.evaluate(device.start, holdout).summary()


def window(exchange: Exchange) -> tuple[str, list[float]]:
    served = exchange.newest()
    assert served is not None
    recent = Recent(served.cut)
    for number in range(4):
        recent.add(Row(source="s", channels=("t",), values=(float(number),), time=1e9 + number))
    answer = served.ask(recent)
    assert answer is not None
    return served.by, answer.output


def test_first_steps_that_do_not_end_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Learner(tmp_path)
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(BackboneError, match=r"did not end in 0\.3 s"):
        learning.built(device.manifest, tmp_path, trial_s=0.3)
    assert not device.mark().exists()


@pytest.mark.parametrize("task", ["classification", "reconstruction"])
def test_predictions_are_the_file_s(tmp_path: Path, task: str) -> None:
    data = softmax_file(4, 2) if task == "classification" else linear_file(4, 4, rows=8, rate=0.1, reconstructs=True)
    device = Learner(tmp_path, data, task=task)
    device.announce(features=FEATURES)
    exchange = Exchange(ModelCache(tmp_path).open, tmp_path, tflite=False)
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    by, output = window(exchange)
    assert by == f"{load_runtime().name} {load_runtime().version}", "and not NumPy"
    model, start = device.model, device.start
    wanted = model.predict(start, x)[0] if task == "classification" else model.errors(start, x)
    assert output == pytest.approx(wanted.tolist(), rel=1e-5)
    # The next version is another vector for the same file, which need not be read again.
    device.path.unlink()
    device._data = tensors.encode("f32", start + 1, np.random.default_rng(0))
    device.announce(version=5, parameters=digest_of(device._data), blob=blob_of(device._data, "f32"))
    later = model.predict(start + 1, x)[0] if task == "classification" else model.errors(start + 1, x)
    assert window(exchange)[1] == pytest.approx(later.tolist(), rel=1e-5)


def test_without_the_file_nothing_is_predicted_and_it_is_said(tmp_path: Path) -> None:
    device = Learner(tmp_path)
    device.announce(features=FEATURES)
    device.path.unlink()
    with pytest.raises(ServingError, match="version 4: the model's file is not here yet"):
        Exchange(ModelCache(tmp_path).open, tmp_path, tflite=False).newest()


def test_networks_in_numpy_load_nothing_of_tflite() -> None:
    program = """
import sys
import device_agent.service, device_agent.adapters.workbench, device_agent.sensing.adapters.serving
print([name for name in sys.modules if name.startswith(("models.tflite", "ai_edge_litert", "flatbuffers"))])
"""
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
