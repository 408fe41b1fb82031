"""What the demo's devices predict while they learn: by the device's own path, beside it, and shown."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from device_agent.adapters.data import load_samples
from fedmq.answers import PLAN, Answers, Examined, Plan, read_answers
from fedmq.examiner import LAST, Examinee, look_at
from models import build
from models.tflite.runtime import load_runtime
from protocol import tensors
from protocol.chunks import blob_of, digest_of
from tests.device_agent.interruptions import SPEC, Device
from tests.support.federation import wait_until
from tests.support.patience import PATIENCE_S

HOLDOUT = 0.3


def examined(folder: Path, name: str = "a") -> Examined:
    return Examined(name=name, state_dir=str(folder), data=str(folder / "samples.npz"), holdout=HOLDOUT)


def test_it_says_what_the_device_s_model_says_of_what_it_holds_out(tmp_path: Path) -> None:
    device, model = Device(tmp_path), build(SPEC)
    held_out = load_samples(tmp_path / "samples.npz", device.settings.data, model).holdout
    assert held_out is not None
    vector = np.array(tensors.decode("f32", device._data, model.layout.size), np.float32)
    expected = model.predict(vector, held_out.x).argmax(axis=1)
    examinee, runtime = Examinee(examined(tmp_path)), load_runtime()
    right = 0
    for place in range(len(held_out)):
        found = examinee.ask()
        right += expected[place] == held_out.y[place]
        assert found is not None
        assert (found.version, found.said, found.truth) == (4, expected[place], held_out.y[place])
        assert (found.right, found.asked) == (right, place + 1)
        assert found.by == f"{runtime.name} {runtime.version}"
    for _ in range(2 * LAST):
        found = examinee.ask()
    assert found is not None
    assert found.asked == LAST, "what a model said long ago does not count for ever"


def test_another_version_is_taken_when_it_comes(tmp_path: Path) -> None:
    device = Device(tmp_path)
    examinee = Examinee(examined(tmp_path))
    assert examinee.ask() is not None
    device._data = tensors.encode("f32", np.zeros(build(SPEC).layout.size, np.float32), np.random.default_rng(0))
    device.announce(version=5, parameters=digest_of(device._data), blob=blob_of(device._data, "f32"))
    found = examinee.ask()
    assert found is not None
    assert (found.version, found.said) == (5, 0)


def test_who_has_no_model_or_bad_files_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Device(tmp_path / "good")
    Device(tmp_path / "bad").folder.joinpath("samples.npz").write_bytes(b"nothing")
    (tmp_path / "new").mkdir()
    examinees = {name: Examinee(examined(tmp_path / name, name)) for name in ("good", "bad", "new")}
    assert set(look_at(examinees).devices) == {"good"}
    assert set(look_at(examinees).devices) == {"good"}
    assert "bad: " in capsys.readouterr().err


def test_as_a_process_it_answers_until_it_is_told_to_end(tmp_path: Path) -> None:
    Device(tmp_path / "a")
    assert read_answers(tmp_path) is None
    (tmp_path / PLAN).write_bytes(msgspec.json.encode(Plan(devices=[examined(tmp_path / "a")])))
    with subprocess.Popen([sys.executable, "-m", "fedmq.examiner", str(tmp_path)]) as process:
        try:
            wait_until(lambda: (read_answers(tmp_path) or Answers(devices={})).asked > 1, "two answers")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
