"""Rejected updates with real processes: the federation goes on, without a rollback, and nothing counts twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from fedmq.embedded_broker import EmbeddedBroker
from protocol.status import DIVERGES
from tests.support.federation import Federation, wait_until

TIGHT = "[admission]\nmax_update_norm = 1e-6\n"


def rejected(federation: Federation, number: int) -> int:
    return int(federation.agent_counters(number).get("updates_rejected", 0))


def test_when_all_updates_are_rejected_the_mended_aggregator_is_enough(broker: EmbeddedBroker, tmp_path: Path) -> None:
    with Federation(tmp_path, broker.port, goal=2, interval_s=0.0, more=TIGHT) as federation:
        federation.start_aggregator()
        federation.start_agent(0)
        federation.start_agent(1)
        wait_until(lambda: all(rejected(federation, number) for number in (0, 1)), "a rejection of each")
        told = "no device's update of version 0 is accepted"
        wait_until(lambda: told in federation.log("aggregator"), "a word to the operator")
        assert federation.version() == 0
        federation.kill("device-0")
        federation.start_agent(0)
        federation.kill("aggregator")

        federation.more = ""
        federation.start_aggregator()

        federation.wait_for_version(2)
        federation.stop_all()
        federation.check(agents=2)
        state = json.loads(federation.query("SELECT value FROM meta WHERE key = 'state'", "device-1")[0][0])
        assert state["trained"]["version"] >= 1
        assert not state["trained"].get("why"), "what was rejected once is over"


def test_one_device_that_is_always_rejected_keeps_nobody_waiting(broker: EmbeddedBroker, tmp_path: Path) -> None:
    with Federation(tmp_path, broker.port, goal=3, interval_s=0.0) as federation:
        rng = np.random.default_rng(0)
        wild = rng.normal(0.0, 1e7, (60, 64)).astype(np.float32)
        np.savez(tmp_path / "device-2.npz", x=wild, y=np.arange(60) % 10)
        federation.start_aggregator()
        for number in range(3):
            federation.start_agent(number)

        federation.wait_for_version(2)
        federation.stop_all()

        federation.check(agents=3)
        assert federation.contributors() == {"device-0", "device-1"}
        assert "making a version without those that were refused" in federation.log("aggregator")
        assert rejected(federation, 2) >= 1


def test_a_device_that_diverges_says_so_and_what_to_do(broker: EmbeddedBroker, tmp_path: Path) -> None:
    with Federation(tmp_path, broker.port, goal=1, interval_s=0.0) as federation:
        huge = np.full((60, 64), 1e30, np.float32)
        np.savez(tmp_path / "device-0.npz", x=huge, y=np.arange(60) % 10)
        federation.start_aggregator()
        federation.start_agent(0)
        wait_until(lambda: "training diverges: lower" in federation.log("device-0"), "a training that diverges")

        config = str(tmp_path / "device-0.toml")
        asked = [sys.executable, "-m", "device_agent", "status", "--config", config]
        wait_until(lambda: DIVERGES + "lower [training] learning_rate" in said(*asked), "the word on the device")
        look = [sys.executable, "-m", "fedmq", "monitor", "--broker", f"127.0.0.1:{broker.port}"]
        look += ["--federation", "test", "--once"]
        wait_until(lambda: "diverging" in said(*look), "the word in the monitor")
        federation.stop_all()
        assert federation.version() == 0


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
