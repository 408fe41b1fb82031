"""Agents as processes that collect their own samples: killed while files grow, learning from a stream."""

from __future__ import annotations

import json
import math
import random
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from device_agent.sensing.adapters.reading import SamplesError, read
from device_agent.sensing.adapters.sample_store import FILE_NAME
from tests.device_agent.standin import Agent, Standin
from tests.support.federation import wait_until
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmq.embedded_broker import EmbeddedBroker
    from protocol.messages import ModelUpdate
    from tests.support.links import Links

COMMAND = [sys.executable, "-m", "device_agent"]
FEATURES = {"channels": ["x", "y"], "max_gap_s": 60.0, "window": 4, "compute": ["mean", "deviation"]}
SPEC = {"kind": "softmax", "inputs": 4, "outputs": 2}


@pytest.fixture
def agent(mosquitto: EmbeddedBroker, tmp_path: Path) -> Iterator[Any]:
    made: list[Agent] = []

    def one(data: dict[str, Any] | None = None, **tables: Any) -> Agent:
        dotted = {name.replace("__", "."): table for name, table in tables.items()}
        made.append(
            Agent(
                tmp_path / "agent",
                mosquitto.port,
                data={"path": "", "holdout_block_s": 0.05, **(data or {})},
                samples={"commit_s": 0.2},
                **dotted,
            )
        )
        return made[-1]

    yield one
    for each in made:
        each.kill()


def pressing(port: int) -> dict[str, Any]:
    """The tables of a press that says x and y, and of somebody who says how it is."""
    return {
        "sources.press": {
            "kind": "mqtt", "topics": ["press/+/values"], "label_topic": "press/state", "silence_s": 600.0,
            "max_rows_per_s": 5000.0,
        },
        "sources.press.fields": {"x": "values[0]", "y": "values[1]"},
        "sources.press.labels": {"ok": 0, "worn": 1},
        "sources.press.broker": {"port": port, "reconnect_min_s": 0.05, "reconnect_max_s": 0.2},
    }  # fmt: skip


def stored(agent: Agent, channel: str) -> list[float]:
    try:
        return [float(value) for value in read(agent.state_dir, (channel,)).values[:, 0] if not math.isnan(value)]
    except SamplesError:
        return []


def test_an_agent_learns_from_what_a_sensor_publishes(
    standin: Standin, agent: Any, links: Links, mosquitto: EmbeddedBroker
) -> None:
    # How many blocks of time are held out depends on the pace of the machine.
    device: Agent = agent(data={"holdout_fraction": 0.0}, **pressing(mosquitto.port)).start()
    peer = links(mosquitto.port)
    peer.up()
    standin.publish_model(0, spec=SPEC, features=FEATURES, training={"epochs": 5, "batch_size": 8})
    standin.wait(lambda: standin.states and "has come yet" in standin.states[-1].reason)
    assert device.process is not None
    chance = random.Random(3)
    for turn in range(12):
        worn = turn % 2
        peer.publish("press/state", (b"ok", b"worn")[worn], retain=True)
        for _ in range(40):
            values = [chance.gauss(3.0 * worn, 1.0), chance.gauss(0.0, 1.0 + worn)]
            peer.publish("press/left/values", json.dumps({"values": values}).encode())
    peer.publish("press/left/values", b"garbage")
    standin.wait(lambda: any(_learned(message) for message in standin.updates()) or _poke(standin))
    assert stored(device, "x")
    standin.wait(lambda: standin.metrics[-1].samples_taken == 480)
    metrics = standin.metrics[-1]
    assert metrics.samples == 480
    assert metrics.samples_bytes > 4096
    assert metrics.samples_refused == {"press: nothing in it": 1}
    status = subprocess.run([*COMMAND, "status", "--json", "--config", device.config], capture_output=True, check=True)
    facts = json.loads(status.stdout)
    assert facts["samples"] == 480
    assert facts["source press"]["rows"] == 480
    assert facts["source press"]["last_s"] < 600
    assert device.stop() == 0
    assert "Traceback" not in device.text()


def _learned(update: ModelUpdate) -> bool:
    """Return whether it trained on most of the 120 windows, and told the two states apart better than chance."""
    return update.num_examples > 80 and update.metrics["train_loss"] < 0.9 * math.log(2.0)


def _poke(standin: Standin) -> bool:
    """Publish the next version when the device has answered this one: with so many rows as there were."""
    accepted = standin.updates()
    if accepted and accepted[-1].base_version == _poke_version(standin):
        standin.publish_model(_poke_version(standin) + 1, spec=SPEC, features=FEATURES)
    return False


def _poke_version(standin: Standin) -> int:
    return max((state.version for state in standin.states if state.version is not None), default=0)


def test_an_idle_sensing_agent_holds_no_numpy_and_says_what_is_wrong(
    standin: Standin, agent: Any, mosquitto: EmbeddedBroker
) -> None:
    device: Agent = agent(**pressing(mosquitto.port))
    checked = subprocess.run(
        [*COMMAND, "run", "--check", "--config", device.config], capture_output=True, check=True, text=True
    )
    assert "source press: gives x, y, from press/+/values, press/state on 127.0.0.1" in checked.stdout
    device.start()
    standin.wait(lambda: standin.state() == "idle")
    assert device.process is not None
    assert "numpy" not in Path(f"/proc/{device.process.pid}/maps").read_text()
    standin.publish_model(0, spec=SPEC, features=FEATURES | {"channels": ["x", "z"]})
    standin.wait(lambda: "the federation wants 'z', which no source of this device gives" in standin.states[-1].reason)
    standin.publish_model(1, spec=SPEC)
    standin.wait(lambda: "needs [features] in aggregator.toml" in standin.states[-1].reason)
    assert device.stop() == 0


class Writer(threading.Thread):
    """Appends lines, in halves, and rotates the file now and then, as a logger does."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.written = 0
        self.stored = 0
        """To be kept up to date by who looks: the writer is never more than some files ahead, however slow the reader.

        The first one waits until it was found: files that were rotated before anybody looked are nobody's.
        """
        self.ending = threading.Event()

    def run(self) -> None:
        chance = random.Random(9)
        begun: list[int] = []
        while not self.ending.is_set():
            fresh = not self.path.exists()
            begun.append(self.written)
            with self.path.open("a", buffering=1) as file:
                if fresh:
                    file.write("v,junk\n")
                for _ in range(chance.randint(300, 900)):
                    text = f"{self.written},{'x' * chance.randint(0, 30)}\n"
                    half = chance.randint(0, len(text))
                    file.write(text[:half])
                    file.flush()
                    file.write(text[half:])
                    self.written += 1
                    time.sleep(0.0005)
            while self.stored <= begun[-10:][0] and not self.ending.wait(0.01):
                pass
            for number in range(25, 0, -1):
                older = self.path.with_name(f"{self.path.name}.{number}")
                if older.exists():
                    older.rename(self.path.with_name(f"{self.path.name}.{number + 1}"))
            self.path.rename(self.path.with_name(f"{self.path.name}.1"))


def test_killed_while_a_file_grows_and_rotates_every_line_is_stored_once(agent: Any, tmp_path: Path) -> None:
    device: Agent = agent(
        sources__log={"kind": "csv", "path": str(tmp_path / "log.csv"), "poll_s": 0.02},
        sources__log__fields={"v": "v"},
    )
    device.start()
    writer = Writer(tmp_path / "log.csv")
    writer.start()

    def count() -> int:
        writer.stored = len(stored(device, "v"))
        return writer.stored

    wait_until(lambda: count() > 0, "the first row")
    for _ in range(4):
        before = count()
        wait_until(lambda n=before: count() > n + 200, "more rows")  # type: ignore[misc]
        device.restart()
    writer.ending.set()
    writer.join()
    wait_until(lambda: count() >= writer.written, "all rows")
    assert device.stop() == 0
    assert stored(device, "v") == [float(n) for n in range(writer.written)]


def test_a_store_from_a_newer_version_is_refused_and_left_alone(agent: Any, mosquitto: EmbeddedBroker) -> None:
    device: Agent = agent(**pressing(mosquitto.port))
    device.state_dir.mkdir(parents=True)
    with sqlite3.connect(device.state_dir / FILE_NAME) as database:
        database.execute("CREATE TABLE future (x)")
        database.execute("PRAGMA user_version = 99")
    database.close()
    before = (device.state_dir / FILE_NAME).read_bytes()
    device.start()
    assert device.process is not None
    assert device.process.wait(PATIENCE_S) == 1
    assert "samples.sqlite was written by a newer version of fedmq (schema 99" in device.text()
    assert (device.state_dir / FILE_NAME).read_bytes() == before
