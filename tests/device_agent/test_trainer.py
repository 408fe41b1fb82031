"""The trainer in its thread, with real models and files."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace

from device_agent.adapters.model_cache import ModelCache
from device_agent.adapters.trainer import FileWatch, Trainer
from device_agent.commands import Evaluate, Train
from device_agent.events import DriftTold, EvaluationDone, Event, TaskFailed, TaskStopped, TrainingDone
from device_agent.settings import AgentSettings, DataSettings, DeviceSettings, TrainingSettings
from models import build
from protocol import tensors
from protocol.chunks import blob_of, digest_of
from protocol.messages import Manifest, Participation
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SPEC = {"kind": "softmax", "inputs": 4, "outputs": 2}
PIPELINE = {"channels": ["a"], "max_gap_s": 1, "window": 4, "compute": "raw"}


class Bench:
    """A trainer with samples, a cached model and a place where its answers arrive."""

    def __init__(self, folder: Path, *, codec: str = "f32", encoding: str = "f32", **training: Any) -> None:
        self.folder = folder
        self.settings = AgentSettings(
            device=DeviceSettings(id="a", federation="f", state_dir=str(folder)),
            data=DataSettings(path=str(folder / "samples.npz"), holdout_fraction=0.3),
            training=TrainingSettings(**training),
        )
        self.answers: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.trainer = Trainer(self.settings, self.answers.put)
        self.cache = ModelCache(folder)
        self.manifest = self._manifest(codec, encoding)
        self.save(200)

    def save(self, rows: int) -> None:
        rng = np.random.default_rng(5)
        x = rng.normal(size=(rows, 4)).astype(np.float32)
        np.savez(self.folder / "samples.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))

    def run(self, **changes: Any) -> Any:
        """Train to the end and return the answer."""
        manifest = replace(self.manifest, **changes)
        self.trainer.start(
            Train(task=1, manifest=manifest, contribution=0, incarnation="1" * 16, sequence=1), self.cache.open()
        )
        while isinstance(answer := self.answers.get(timeout=PATIENCE_S), DriftTold):
            pass
        return answer

    def _manifest(self, codec: str, encoding: str) -> Manifest:
        model = build(SPEC)
        rng = np.random.default_rng(1)
        data = tensors.encode(encoding, rng.normal(size=model.layout.size).astype(np.float32), rng)
        parameters = tensors.decode(encoding, data, model.layout.size)
        manifest = Manifest(
            federation="f",
            epoch="e" * 16,
            version=4,
            model=SPEC,
            layout=model.layout.digest,
            parameters=digest_of(parameters.tobytes()),
            blob=blob_of(data, encoding),
            training={"epochs": 3, "batch_size": 16},
            participation=Participation(codec=codec),
        )
        self.cache.replace(manifest, data)
        return manifest


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def one(**options: Any) -> Bench:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Bench(folder, **options))
        return made[-1]

    yield one
    for bench in made:
        bench.trainer.close(10.0)


def test_a_training_is_the_same_for_the_same_seed_and_another_for_another(make: Callable[..., Bench]) -> None:
    first, same, other = make().run(), make().run(), make(seed=1).run()
    assert isinstance(first, TrainingDone)
    assert first.delta == same.delta
    assert first.delta != other.delta
    assert first.num_examples == pytest.approx(140, abs=25)
    assert first.num_steps == 3 * -(-first.num_examples // 16)
    assert first.after["accuracy"] > first.before["accuracy"]
    assert first.train_loss is not None


def test_the_delta_leads_from_the_base_to_what_was_trained(make: Callable[..., Bench]) -> None:
    bench = make()
    done = bench.run()
    size = build(SPEC).layout.size
    delta = tensors.decode("f32", done.delta, size)
    assert np.isfinite(delta).all()
    assert np.linalg.norm(delta) > 0.01


@pytest.mark.parametrize("codec", ["f16", "int8"])
def test_updates_are_encoded_as_the_manifest_says(make: Callable[..., Bench], codec: str) -> None:
    exact, coded = make().run(), make(codec=codec).run()
    size = build(SPEC).layout.size
    difference = tensors.decode("f32", exact.delta, size) - tensors.decode(codec, coded.delta, size)
    assert np.abs(difference).max() < 0.02


def test_a_model_that_came_as_f16_is_checked_after_decoding(make: Callable[..., Bench]) -> None:
    assert isinstance(make(encoding="f16").run(), TrainingDone)


def test_evaluation_measures_the_holdout(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.trainer.start(Evaluate(task=7, manifest=bench.manifest), bench.cache.open())
    answer = bench.answers.get(timeout=PATIENCE_S)
    assert isinstance(answer, EvaluationDone)
    assert answer.task == 7
    assert answer.metrics["accuracy"] == bench.run().before["accuracy"]


def test_a_training_stops_at_a_step_boundary(make: Callable[..., Bench]) -> None:
    bench = make(step_interval_s=30.0)
    bench.trainer.start(
        Train(task=3, manifest=bench.manifest, contribution=0, incarnation="1" * 16, sequence=1), bench.cache.open()
    )
    bench.trainer.stop(keep=True)
    assert bench.answers.get(timeout=PATIENCE_S) == TaskStopped(task=3)


def test_changed_samples_are_read_again(make: Callable[..., Bench]) -> None:
    bench = make()
    before = bench.run()
    bench.save(400)
    assert bench.run().num_examples > before.num_examples * 1.5


@pytest.mark.parametrize(
    ("changes", "fault", "reason"),
    [
        ({"model": {"kind": "oracle"}}, "model", "model spec"),
        ({"model": SPEC | {"inputs": 5}}, "model", "another layout"),
        ({"features": {"channels": ["a"]}}, "model", "features: max_gap_s is missing"),
        ({"features": PIPELINE | {"window": 5}}, "model", "make 5 inputs; the model's inputs are 4"),
        ({"training": {"epochs": 0}}, "model", "training plan"),
        ({"training": {"learning_rate": 1000.0, "epochs": 200, "surprise": 1}}, "model", "training plan"),
        ({"parameters": "0" * 64}, "cache", "another version"),
        ({"participation": Participation(codec="telepathy")}, "model", "telepathy"),
    ],
)
def test_what_a_manifest_has_wrong_is_said(
    make: Callable[..., Bench], changes: dict[str, Any], fault: str, reason: str
) -> None:
    answer = make().run(**changes)
    assert isinstance(answer, TaskFailed)
    assert answer.fault == fault
    assert reason in answer.reason


def test_bad_samples_are_said_and_good_ones_work_afterwards(make: Callable[..., Bench]) -> None:
    bench = make()
    samples = bench.folder / "samples.npz"
    samples.write_bytes(b"rubbish")
    answer = bench.run()
    assert isinstance(answer, TaskFailed)
    assert (answer.fault, str(samples) in answer.reason) == ("data", True)
    bench.save(100)
    assert isinstance(bench.run(), TrainingDone)


def test_a_damaged_cache_is_a_fault_of_the_cache(make: Callable[..., Bench]) -> None:
    bench = make()
    path = bench.folder / "cache" / "model"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    answer = bench.run()
    assert isinstance(answer, TaskFailed)
    assert answer.fault == "cache"


def test_the_watch_notices_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    watch = FileWatch(str(path))
    assert not watch.changed()
    path.write_text("a")
    assert watch.changed()
    assert not watch.changed()
    path.write_text("ab")
    assert watch.changed()
    path.unlink()
    assert watch.changed()


def test_numpy_is_not_imported_before_the_first_task() -> None:
    code = (
        "import sys, device_agent.service, device_agent.__main__; print(sorted({'numpy', 'models'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == "[]"


def test_it_is_at_no_step_before_and_after_a_task(make: Callable[..., Bench]) -> None:
    made = make()
    assert made.trainer.alive
    assert made.trainer.step_s(time.monotonic()) == 0.0
    assert isinstance(made.run(), TrainingDone)
    assert made.trainer.alive
    assert made.trainer.step_s(time.monotonic() + 1000.0) == 0.0


def test_a_step_that_hangs_is_seen_and_an_ended_thread_is_not_alive(make: Callable[..., Bench]) -> None:
    made = make()
    samples = made.folder / "samples.npz"
    samples.unlink()
    os.mkfifo(samples)
    begun = time.monotonic()
    made.trainer.start(
        Train(task=1, manifest=made.manifest, contribution=0, incarnation="1" * 16, sequence=1), made.cache.open()
    )
    assert made.trainer.step_s(begun + 1000.0) > 900.0
    with samples.open("wb"):  # the reader comes to an end
        pass
    assert isinstance(made.answers.get(timeout=PATIENCE_S), TaskFailed)
    assert made.trainer.step_s(begun + 1000.0) == 0.0
    made.trainer.close(20.0)
    assert not made.trainer.alive
