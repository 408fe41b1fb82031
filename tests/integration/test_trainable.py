"""A federation that trains the operator's own ``.tflite`` file, with real processes, over kills."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from device_agent.adapters.backbone_files import FOLDER
from device_agent.adapters.checkpoint_file import CheckpointFile
from fedmq.embedded_broker import EmbeddedBroker
from models import Model, build
from models.tflite.contract import TrainableSpec
from models.tflite.runtime import load_runtime
from models.tflite.trainable import TrainableModel
from protocol.chunks import split
from protocol.messages import ModelUpdate
from tests.device_agent.standin import TOPICS, Agent, Standin
from tests.support.federation import Federation, wait_until
from tests.support.trainable import softmax_file

CHUNK = 1024
STEPS = 30
PACE = {"step_interval_s": 2.0}
"""A minute for all its steps, and it is interrupted after the first."""

MODEL = {"kind": "tflite", "path": "my.tflite"}
FILE = softmax_file(64, 10, rate=None)


def accuracies(federation: Federation) -> list[float]:
    """Of the versions that were evaluated: all but the first."""
    rows = federation.query("SELECT metrics FROM versions ORDER BY version")
    return [found["accuracy"] for (metrics,) in rows if (found := json.loads(metrics))]


def test_two_devices_federate_a_file_that_learns(broker: EmbeddedBroker, tmp_path: Path) -> None:
    (tmp_path / "my.tflite").write_bytes(FILE)
    with Federation(tmp_path, broker.port, model=MODEL) as federation:
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        federation.wait_for_version(3)
        for name in ("device-0", "aggregator", "device-1"):
            federation.kill(name)
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        # By chance it would be 0.1.
        wait_until(lambda: max(accuracies(federation)) > 0.5, lambda: f"accuracies {accuracies(federation)}")
        federation.stop_all()
        federation.check(agents=2)
        for number in range(2):
            (found,) = (tmp_path / f"device-{number}-state" / FOLDER).glob("*.tflite")
            assert found.read_bytes() == FILE
            assert found.stem == hashlib.sha256(FILE).hexdigest()
            text = federation.log(f"device-{number}")
            assert text.count("fetching model's file") == 1, "fetched once, and not again after the restart"
            assert "Traceback" not in text
        assert "Traceback" not in federation.log("aggregator")


# -- against a stand-in ---------------------------------------------------------------------------------------------


@pytest.fixture
def agent(agent: Callable[..., Agent]) -> Callable[..., Agent]:
    return partial(agent, metrics={"interval_s": 0.1})


class Unchecked(Model):
    """What a manifest may say, though no aggregator of ours would: any file, with the shape of a softmax."""

    def __init__(self, data: bytes) -> None:
        super().__init__(build({"kind": "softmax", "inputs": 8, "outputs": 3}).network)
        self._said = TrainableSpec.of(data, {"kind": "tflite"}).to_data()

    @property
    def spec(self) -> dict[str, Any]:
        return self._said


def publish(standin: Standin, version: int, data: bytes, *, checked: bool = True) -> None:
    model: Model = Unchecked(data)
    if checked:
        model = TrainableModel(data, TrainableSpec.of(data, {"kind": "tflite"}), load_runtime())
    digest = hashlib.sha256(data).hexdigest()
    for index, chunk in enumerate(split(data, CHUNK)):
        standin.publish(TOPICS.blob(digest, index), chunk)
    standin.publish_model(version, model=model, chunk_bytes=CHUNK, training={"epochs": 2, "batch_size": 16})


def update(standin: Standin) -> ModelUpdate:
    """Return the one update; the same may have come more than once."""
    return standin.wait(standin.updates)[0]


def undisturbed(standin: Standin, agent: Callable[..., Agent]) -> ModelUpdate:
    """Return what an agent sends that nobody interrupts."""
    alone = agent("alone")
    found = update(standin)
    assert found.num_steps == STEPS
    alone.stop()
    standin.wait(lambda: standin.state() == "stopped")
    standin.messages.clear()
    standin.metrics.clear()
    return found


def goes_on(disturbed: Agent, standin: Standin) -> ModelUpdate:
    """Start it without its rests; return what it sends, which it says to be one and the same however often it comes."""
    Agent(disturbed.folder, standin.port)  # writes its configuration
    disturbed.start()
    found = update(standin)
    wait_until(lambda: disturbed.peek()[1].counters.updates_accepted == 1, "the receipt")
    disturbed.stop()
    assert {(sent.incarnation, sent.sequence) for sent in standin.updates()} == {(found.incarnation, 1)}
    counters = disturbed.peek()[1].counters
    assert (counters.trainings, counters.trainings_resumed, counters.updates_accepted) == (1, 1, 1)
    assert "Traceback" not in disturbed.text()
    return found


def test_stopped_in_the_middle_it_sends_what_an_undisturbed_one_sends(
    standin: Standin, agent: Callable[..., Agent]
) -> None:
    publish(standin, 0, softmax_file(8, 3))
    wanted = undisturbed(standin, agent)
    disturbed = agent("disturbed", training=PACE)
    standin.wait(lambda: any((told.training_share or 0.0) > 0.5 / STEPS for told in standin.metrics))
    disturbed.stop()
    found = goes_on(disturbed, standin)
    for field in ("delta", "num_examples", "num_steps", "metrics"):
        assert getattr(found, field) == getattr(wanted, field), field


@pytest.mark.parametrize("counts", [False, True], ids=["all is got and set", "the file keeps a count"])
def test_killed_in_the_middle_it_goes_on_and_counts_once(
    standin: Standin, agent: Callable[..., Agent], counts: bool
) -> None:
    publish(standin, 0, softmax_file(8, 3, counts=counts))
    wanted = undisturbed(standin, agent)
    disturbed = agent("disturbed", training=PACE | {"checkpoint_s": 0.2})
    kept = CheckpointFile(disturbed.state_dir)
    wait_until(lambda: (found := kept.look()) is not None and found.num_steps >= 2, "a checkpoint")
    disturbed.kill()
    found = goes_on(disturbed, standin)
    assert (found.num_examples, found.num_steps) == (wanted.num_examples, STEPS)
    assert (found.delta == wanted.delta) is not counts, "what set does not reach begins as in the file"


FAULTS = {
    "flex": (softmax_file(8, 3, needs="FlexReluGrad"), "operators of TensorFlow itself (FlexReluGrad)"),
    "no tflite": (b"x" * 3000, "no .tflite file"),
    "cut": (softmax_file(8, 3)[:-500], "damaged .tflite file"),
    "deadly": (softmax_file(8, 3, deadly=True), "which died of SIG"),
    "nothing learned": (softmax_file(8, 3, stale=True), "change nothing of what get gives"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_cannot_be_trained_is_told_and_outlived(
    standin: Standin, agent: Callable[..., Agent], fault: str
) -> None:
    data, said = FAULTS[fault]
    publish(standin, 0, data, checked=False)
    device = agent()
    standin.wait(lambda: any(said in state.reason for state in standin.states))
    assert not standin.updates()
    publish(standin, 1, softmax_file(8, 3))
    assert update(standin).base_version == 1
    assert device.text().count(" starting ") == 1, "it has not died of it"
    assert [path.read_bytes() for path in (device.state_dir / FOLDER).glob("*.tflite")] == [softmax_file(8, 3)]
