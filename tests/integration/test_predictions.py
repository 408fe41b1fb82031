"""From a sensor's message to the prediction, with real processes and a real broker, while versions change."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from protocol.link import Received
from protocol.topics import Topics
from tests.support.fast_sensors import STEP_S, FastSensors
from tests.support.federation import wait_until
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links, Peer

WINDOW, STRIDE = 10, 5
TOPIC = "press-1/state"

AGGREGATOR = """
[aggregator]
federation = "mill"
state_dir = "{folder}/aggregator"
[broker]
port = {port}
[model]
kind = "softmax"
inputs = 4
outputs = 2
[features]
channels = ["x", "y"]
rate_hz = 10
window = {window}
stride = {stride}
max_gap_s = 1.0
compute = ["mean", "deviation"]
standardize = "device"
[training]
learning_rate = 0.5
[schedule]
goal = 1
"""

AGENT = """
[device]
id = "press-1"
federation = "mill"
state_dir = "{folder}/agent"
[broker]
port = {port}
[data]
holdout_block_s = 5.0
min_examples = 4
watch_s = 0.2
[training]
min_interval_s = 0.2
[metrics]
interval_s = 0.3
[samples]
commit_s = 0.2
[sources.press]
kind = "mqtt"
topics = ["press-1/motion"]
fields = {{ x = "x", y = "y" }}
time = "time"
label = "state"
labels = {{ rest = 0, work = 1 }}
max_rows_per_s = 1000.0
broker = {{ port = {port} }}
[predictions]
topic = "{topic}"
qos = 1
broker = {{ port = {port} }}
"""


NEWEST = 40
"""So many predictions, in a row, by models that have learnt: nobody knows beforehand which version that will be."""


class Press(FastSensors):
    """A press, at rest and at work by turns."""

    def __init__(self, peer: Peer, predicted: Callable[[], float | None]) -> None:
        super().__init__(peer, ("press-1",), self._measured, lambda _device: predicted())
        self._rng = np.random.default_rng(0)

    def state_at(self, moment: float) -> str:
        return "work" if int((moment - self.begun) / 6.0) % 2 else "rest"

    def _measured(self, _device: str, moment: float) -> dict[str, Any]:
        state = self.state_at(moment)
        x, y = self._rng.normal(3.0 if state == "work" else 0.0, 1.0, 2)
        return {"x": round(x, 3), "y": round(y, 3), "state": state}


@pytest.fixture
def at_work(broker: EmbeddedBroker, tmp_path: Path) -> Iterator[Path]:
    """An aggregator and an agent that predicts; the folder of their logs."""
    values = {"folder": tmp_path, "port": broker.port, "window": WINDOW, "stride": STRIDE, "topic": TOPIC}
    processes = []
    for name, module, text in (("aggregator", "aggregator", AGGREGATOR), ("agent", "device_agent", AGENT)):
        (tmp_path / f"{name}.toml").write_text(text.format(**values))
        with (tmp_path / f"{name}.log").open("wb") as log:
            command = [sys.executable, "-m", module, "run", "--config", str(tmp_path / f"{name}.toml")]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
    yield tmp_path
    for process in processes:
        process.kill()
        process.wait()


def test_new_samples_are_predicted_by_the_newest_model_without_a_gap(
    at_work: Path, broker: EmbeddedBroker, links: Links
) -> None:
    watcher, sensor = links(broker.port, "watcher"), links(broker.port, "sensor")
    for peer in (watcher, sensor):
        peer.up()
    watcher.subscribe(TOPIC, Topics("mill").device_metrics("press-1"))

    def heard(topic: str) -> list[dict[str, Any]]:
        return [json.loads(event.payload) for event in watcher.inbox.all(Received) if event.topic == topic]

    def predicted() -> float | None:
        told = watcher.inbox.last(Received, lambda event: event.topic == TOPIC)
        return None if told is None else float(json.loads(told.payload)["time"])

    def well_predicted() -> bool:
        told = heard(TOPIC)
        newest = [right(press, each) for each in told if within_one_state(press, each)][-NEWEST:]
        versions = {each["version"] for each in told}
        return len(versions) >= 6 and len(newest) == NEWEST and sum(newest) > 0.9 * NEWEST

    with Press(sensor, predicted) as press:
        wait_until(
            well_predicted, lambda: f"right predictions by the newest of six versions; {log_of(at_work)}", PATIENCE_S
        )
        wait_until(
            lambda: any(each["predictions"] > 0 for each in heard(Topics("mill").device_metrics("press-1"))),
            lambda: f"figures of predictions; {log_of(at_work)}",
        )
    told = heard(TOPIC)

    assert {each["device"] for each in told} == {"press-1"}
    ends = [each["time"] for each in told]
    assert np.allclose(np.diff(ends), STRIDE * STEP_S), "a window without its prediction"
    shown = [each["version"] for each in told]
    assert shown == sorted(shown)
    # Of two classes the likelier one.
    assert all(each["confidence"] >= 0.5 for each in told)


def within_one_state(press: Press, told: dict[str, Any]) -> bool:
    return press.state_at(told["time"] - WINDOW * STEP_S) == press.state_at(told["time"])


def right(press: Press, told: dict[str, Any]) -> bool:
    return bool(told["name"] == press.state_at(told["time"]))


def log_of(folder: Path) -> str:
    return "\n".join((folder / f"{name}.log").read_text()[-1500:] for name in ("aggregator", "agent"))
