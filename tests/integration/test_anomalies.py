"""Anomalies with real processes: sensors, three agents, a threshold of all their errors, and who is above it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from protocol.link import Received
from tests.support.fast_sensors import STEP_S, FastSensors
from tests.support.federation import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links, Peer

DEVICES = ("press-1", "press-2", "press-3")
SICK = "press-2"
WINDOW = 5
SHARE = 0.1
"""Of normal windows that are to be called anomalies: 1 - quantile."""
JUDGED = 120
"""Windows of each device whose false alarms are counted, and of the sick one that ought to be found."""

# Hardly anything is learned at this rate: errors are the same from version to version, and what is judged here is the
# threshold alone.
AGGREGATOR = """
[aggregator]
federation = "mill"
state_dir = "{folder}/aggregator"
[broker]
port = {port}
[model]
kind = "autoencoder"
inputs = 10
hidden = [4]
[features]
channels = ["x", "y"]
rate_hz = 10
window = 5
stride = 5
max_gap_s = 1.0
compute = "raw"
target = "self"
[training]
learning_rate = 1e-5
[schedule]
goal = 3
[anomaly]
quantile = 0.9
min_devices = 3
wait_s = 0
min_examples = 120
every_versions = 5
"""

AGENT = """
[device]
id = "{name}"
federation = "mill"
state_dir = "{folder}/{name}-state"
[broker]
port = {port}
[data]
holdout_fraction = 0.5
holdout_block_s = 5.0
min_examples = 4
watch_s = 0.2
[training]
min_interval_s = 0.2
[samples]
commit_s = 0.2
[sources.press]
kind = "mqtt"
topics = ["{name}/motion"]
fields = {{ x = "x", y = "y" }}
time = "time"
max_rows_per_s = 1000.0
broker = {{ port = {port} }}
[predictions]
topic = "{name}/strange"
qos = 1
broker = {{ port = {port} }}
"""


class Mill(FastSensors):
    """Presses, of which one falls sick some time."""

    def __init__(self, peer: Peer, predicted: Callable[[str], float | None]) -> None:
        super().__init__(peer, DEVICES, self._measured, predicted)
        self._rng = np.random.default_rng(0)
        self._sick = threading.Event()
        self.sick_from = float("inf")

    def fall_sick(self) -> None:
        self._sick.set()

    def _measured(self, device: str, moment: float) -> dict[str, float]:
        centre = 0.0
        if device == SICK and self._sick.is_set():
            self.sick_from = min(self.sick_from, moment)
            centre = 4.0
        x, y = self._rng.normal(centre, 1.0, 2)
        return {"x": round(x, 3), "y": round(y, 3)}


class Plant:
    """The processes, and the folder of their logs."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._start("aggregator", "aggregator", AGGREGATOR.format(folder=folder, port=port))
        for name in DEVICES:
            self._start(name, "device_agent", AGENT.format(folder=folder, port=port, name=name))

    def _start(self, name: str, module: str, text: str) -> None:
        config = self.folder / f"{name}.toml"
        config.write_text(text)
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [sys.executable, "-m", module, "run", "--config", str(config)]
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def end(self, name: str) -> None:
        self.processes[name].terminate()
        assert self.processes[name].wait() == 0

    def log_of(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture
def plant(broker: EmbeddedBroker, tmp_path: Path) -> Iterator[Plant]:
    """An aggregator and three agents that predict."""
    found = Plant(tmp_path, broker.port)
    yield found
    for process in found.processes.values():
        process.kill()
        process.wait()


class Listener:
    """Whoever reads what the agents say, each message once."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        peer.up()
        peer.subscribe(*(f"{device}/strange" for device in DEVICES))

    def said(self, device: str) -> list[dict[str, Any]]:
        topic = f"{device}/strange"
        return [json.loads(event.payload) for event in self._peer.inbox.all(Received) if event.topic == topic]

    def newest_end(self, device: str) -> float | None:
        topic = f"{device}/strange"
        told = self._peer.inbox.last(Received, lambda event: event.topic == topic)
        return None if told is None else float(json.loads(told.payload)["time"])


def alarms(told: list[dict[str, Any]]) -> float:
    return sum(bool(each["anomaly"]) for each in told) / len(told)


def test_what_is_unlike_all_devices_is_called_an_anomaly_and_little_else(
    plant: Plant, broker: EmbeddedBroker, links: Links
) -> None:
    listener, sensor = Listener(links(broker.port, "listener")), links(broker.port, "sensor")
    sensor.up()

    def told(text: str = "") -> str:
        return text + "\n".join(plant.log_of(name)[-1500:] for name in plant.processes)

    def measured() -> bool:
        newest = [listener.said(device)[-1:] for device in DEVICES]
        return all(each and "threshold" in each[0] for each in newest)

    with Mill(sensor, listener.newest_end) as mill:
        wait_until(measured, lambda: told("a threshold on each device"))
        # From here on neither model nor threshold changes: devices predict on without the aggregator.
        plant.end("aggregator")
        settled = {device: len(listener.said(device)) for device in DEVICES}

        def normal(device: str) -> list[dict[str, Any]]:
            return listener.said(device)[settled[device] :][:JUDGED]

        wait_until(lambda: all(len(normal(device)) == JUDGED for device in DEVICES), lambda: told("normal windows"))
        mill.fall_sick()

        def sick() -> list[dict[str, Any]]:
            whole = WINDOW * STEP_S
            return [each for each in listener.said(SICK) if each["time"] > mill.sick_from + 2 * whole][:JUDGED]

        wait_until(lambda: len(sick()) == JUDGED, lambda: told("windows of the sick device"))

    before = [each for device in DEVICES for each in listener.said(device) if "anomaly" not in each]
    assert all("threshold" not in each for each in before)
    judged = [each for device in DEVICES for each in normal(device)]
    assert all(each["anomaly"] == (each["error"] > each["threshold"]) for each in judged)
    # 36 of 360 are to be expected, and the threshold is of at least 360 held-out windows itself: both together leave a
    # deviation of 8.
    assert 0.01 < alarms(judged) < 0.25
    assert alarms(sick()) > 0.95
    assert alarms(listener.said("press-1")[-JUDGED:]) < SHARE * 4
