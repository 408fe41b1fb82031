"""Drift, from a sensor to the operator: a shift is said by device and aggregator, and is over when it is learnt."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.adapters.control import CommandRequest, ask
from aggregator.adapters.operating import status
from device_agent.sensing.adapters.reading import SamplesError, read
from fedmq.embedded_broker import EmbeddedBroker
from protocol.messages import CommandAction
from tests.integration.test_surveys import operator
from tests.support.federation import Federation, wait_until

MODEL = {"kind": "softmax", "inputs": 2, "outputs": 2}
FEATURES = '[features]\nchannels = ["x", "y"]\nmax_gap_s = 60.0\nwindow = 1\ncompute = "raw"\n'
AGENT = """
[device]
id = "device-0"
federation = "test"
state_dir = "{state}"
[broker]
port = {port}
reconnect_min_s = 0.05
reconnect_max_s = 0.5
[data]
holdout_block_s = 1.0
holdout_fraction = 0.3
[samples]
commit_s = 0.1
[training]
min_interval_s = 0.05
[metrics]
interval_s = 0.5
[sources.press]
kind = "csv"
path = "{csv}"
time = "t"
label = "worn"
poll_s = 0.1
max_rows_per_s = 100000.0
[sources.press.fields]
x = "x"
y = "y"
"""


class Press:
    """Writes what its sensors say to a file. Two states lie on either side of ``x = y``; a shift moves both."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chance = random.Random(5)
        self._time = int(time.time()) - 100_000
        self.rows = 0
        path.write_text("t,x,y,worn\n")

    def say(self, count: int, shift: float) -> None:
        lines = []
        for _ in range(count):
            worn = self._chance.randrange(2)
            x = self._chance.gauss(shift + (2.0 if worn else -2.0), 0.7)
            y = self._chance.gauss(shift, 0.7)
            self._time += 1
            lines.append(f"{self._time},{x:.5f},{y:.5f},{worn}\n")
        with self._path.open("a") as file:
            file.write("".join(lines))
        self.rows += count


class Watcher:
    """The operator: what the databases and the commands say."""

    def __init__(self, federation: Federation, press: Press) -> None:
        self.federation, self._press = federation, press
        self.state_dir = federation.directory / "device-0-state"

    def durable(self) -> dict[str, Any]:
        rows = self.federation.query("SELECT value FROM meta WHERE key = 'state'", "device-0")
        found: dict[str, Any] = json.loads(rows[0][0]) if rows else {}
        return found

    def drift(self) -> dict[str, Any]:
        found: dict[str, Any] = self.durable().get("drift", {})
        return found

    def says(self, drifting: bool) -> bool:
        # As ``fedmq-aggregator status`` asks, without a process of half a second for each look.
        stored, live, why_not = status(self.federation.directory / "aggregator-state")
        assert live is not None, why_not
        return [device.drifting for device in stored.devices] == [drifting] and live["devices_drifting"] == drifting

    def command_says(self, drifting: bool) -> bool:
        """The same, by the command."""
        found = operator(self.federation, "status")
        told = [device["drifting"] for device in found["store"]["devices"]]
        return told == [drifting] and found["live"]["devices_drifting"] == int(drifting)

    def command(self, action: CommandAction) -> None:
        ask(self.federation.directory / "aggregator-state", CommandRequest(device="device-0", action=action))

    def while_paused(self, change: Callable[[], None]) -> None:
        """Have the device see a change whole: no training comes between the first of its rows and the last."""
        self.command("pause")
        wait_until(lambda: bool(self.durable().get("paused")), "the pause")
        change()
        wait_until(lambda: self.stored() == self._press.rows, "all rows in the store")
        self.command("resume")

    def stored(self) -> int:
        try:
            return len(read(self.state_dir, ("x",)))
        except SamplesError:
            return 0

    def judged_more(self, than: int) -> bool:
        return int(self.drift().get("judged", 0)) > than


def test_a_shift_is_said_and_over_when_it_is_learnt(broker: EmbeddedBroker, tmp_path: Path) -> None:
    with Federation(tmp_path, broker.port, goal=1, interval_s=0.0, model=MODEL, more=FEATURES) as federation:
        np.savez(tmp_path / "evaluation.npz", x=np.zeros((2, 2), np.float32), y=np.arange(2))
        press = Press(tmp_path / "press.csv")
        watcher = Watcher(federation, press)
        press.say(800, shift=0.0)
        federation.start_aggregator()
        text = AGENT.format(state=watcher.state_dir, port=broker.port, csv=tmp_path / "press.csv")
        federation.start_agent_with(0, text)
        federation.wait_for_version(10)
        watcher.while_paused(lambda: press.say(200, shift=0.0))
        wait_until(lambda: watcher.judged_more(100), "new rows judged")
        assert watcher.says(drifting=False)

        watcher.while_paused(lambda: press.say(200, shift=8.0))
        wait_until(lambda: watcher.says(drifting=True), "drift in the aggregator's status")
        assert watcher.command_says(drifting=True)
        assert watcher.drift()["alarms"] == 1
        assert "device device-0 does worse on new samples" in federation.log("aggregator")
        assert operator(federation, "card")["drifting"] == ["device-0"]

        # It learns; what comes then is as good as what came before, however long that takes.
        while not watcher.says(drifting=False):
            federation.wait_for_versions_more(20)
            judged = int(watcher.drift()["judged"])
            watcher.while_paused(lambda: press.say(200, shift=8.0))
            wait_until(partial(watcher.judged_more, judged), "more rows judged")
            wait_until(lambda: watcher.says(drifting=watcher.drift()["drifting"]), "the same at both ends")
        assert watcher.command_says(drifting=False)
        assert operator(federation, "card")["drifting"] == []
        assert federation.log("aggregator").count("does worse on new samples") == watcher.drift()["alarms"]
        federation.stop_all()
        federation.check(agents=1)
