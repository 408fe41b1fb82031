"""Agents' processes whose trainings are interrupted, against one that was left alone: the same update, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from device_agent.adapters.checkpoint_file import CheckpointFile
from device_agent.adapters.data import drawn, row_hashes
from protocol.messages import ModelUpdate
from tests.device_agent.standin import Agent, Standin
from tests.support.federation import Federation, wait_until
from tests.support.files import put

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmq.embedded_broker import EmbeddedBroker

PLAN = {"epochs": 2, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.01}
STEPS = 30
PACE = {"step_interval_s": 2.0}
"""So that a training of thirty steps takes a minute, and can be interrupted by hand at leisure."""

SOME_PACE = {"step_interval_s": 0.3}
"""For a training that goes on in the same process, and is waited for."""


class Pair:
    """The agent of the test, and what one that nobody disturbs sends."""

    def __init__(self, standin: Standin, folder: Path) -> None:
        self._standin = standin
        self._folder = folder
        self.agents: list[Agent] = []
        standin.publish_model(0, codec="int8", training=PLAN)
        alone = self.agent("alone").start()
        (self.wanted,) = standin.wait(standin.updates)
        standin.wait(lambda: standin.state() == "idle")
        alone.stop()
        standin.wait(lambda: standin.state() == "stopped")  # its last word: nothing of it is under way
        standin.messages.clear()
        standin.metrics.clear()
        standin.states.clear()

    def agent(self, name: str = "disturbed", **tables: dict[str, Any]) -> Agent:
        metrics = {"metrics": {"interval_s": 0.1}}
        self.agents.append(Agent(self._folder / name, self._standin.port, **(metrics | tables)))
        return self.agents[-1]

    def hurry(self) -> None:
        """From its next start on the agent does not rest between steps."""
        self.agent()

    def in_the_middle(self, steps: int = 1) -> None:
        """Wait until so many steps of the training are done."""
        share = (steps - 0.5) / STEPS
        self._standin.wait(lambda: any((told.training_share or 0.0) > share for told in self._standin.metrics))
        self._standin.wait(lambda: self._standin.state() == "training")  # states and figures come one by one

    def update(self) -> ModelUpdate:
        (found,) = self._standin.wait(self._standin.updates)
        return found

    def assert_same(self, found: ModelUpdate) -> None:
        for field in ("delta", "num_examples", "num_steps", "base_version", "metrics", "sequence"):
            assert getattr(found, field) == getattr(self.wanted, field), field


@pytest.fixture
def pair(standin: Standin, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(standin, tmp_path)
    yield made
    for agent in made.agents:
        agent.kill()


def status(agent: Agent) -> dict[str, Any]:
    command = [sys.executable, "-m", "device_agent", "status", "--json", "--config", str(agent.config)]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def test_a_training_that_sigterm_interrupted_twice_goes_on(standin: Standin, pair: Pair) -> None:
    agent = pair.agent(training=PACE).start()
    assert pair.wanted.num_steps == STEPS
    steps = [0]
    for _ in range(2):
        pair.in_the_middle(steps[-1] + 1)
        assert agent.stop() == 0
        kept = status(agent)["kept_training"]
        assert (kept["version"], kept["steps_planned"]) == (0, STEPS)
        steps.append(kept["steps"])
        if len(steps) > 2:
            pair.hurry()
        agent.start()
    assert 0 < steps[1] < steps[2] < STEPS
    pair.assert_same(pair.update())
    standin.wait(lambda: standin.state() == "idle")
    assert agent.stop() == 0
    counters = agent.peek()[1].counters
    assert (counters.trainings, counters.trainings_interrupted, counters.trainings_resumed) == (1, 2, 2)
    assert status(agent)["kept_training"] is None
    assert "Traceback" not in agent.text()


def test_a_killed_training_goes_on_from_its_last_checkpoint(pair: Pair) -> None:
    agent = pair.agent(training=PACE | {"checkpoint_s": 0.2}).start()
    file = CheckpointFile(agent.state_dir)
    wait_until(lambda: (found := file.look()) is not None and found.num_steps >= 2, "a checkpoint")
    pair.hurry()
    agent.restart()
    pair.assert_same(pair.update())
    assert agent.peek()[1].counters.trainings_resumed == 1
    assert "training goes on" in agent.text()


def test_a_killed_training_whose_file_the_power_cut_damaged_begins_anew(pair: Pair) -> None:
    agent = pair.agent(training=PACE | {"checkpoint_s": 0.2}).start()
    file = agent.state_dir / "training"
    wait_until(file.exists, "a checkpoint")
    agent.kill()
    os.truncate(file, file.stat().st_size - 10)
    pair.hurry()
    agent.start()
    pair.assert_same(pair.update())
    assert agent.peek()[1].counters.trainings_resumed == 0
    assert "a training begins anew" in agent.text()
    assert (agent.state_dir / "training.aside").exists()


def test_a_training_that_a_command_paused_goes_on(standin: Standin, pair: Pair) -> None:
    pair.agent(training=SOME_PACE).start()
    pair.in_the_middle()
    standin.command("pause", "1" * 16)
    standin.wait(lambda: standin.states[-1].reason == "paused by command" and standin.state() == "idle")
    assert standin.updates() == []
    standin.command("resume", "2" * 16)
    pair.assert_same(pair.update())
    standin.wait(lambda: standin.metrics[-1].updates_accepted == 1)
    assert standin.metrics[-1].trainings_resumed == 1


def test_a_training_that_heat_stopped_goes_on(standin: Standin, pair: Pair, tmp_path: Path) -> None:
    zone = tmp_path / "board/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("60000\n")
    pair.agent(
        training=SOME_PACE, policy={"max_cpu_c": 80, "check_s": 0.1, "system_root": str(tmp_path / "board")}
    ).start()
    pair.in_the_middle()
    put(zone / "temp", "83000\n")
    standin.wait(lambda: standin.state() == "idle")
    put(zone / "temp", "60000\n")
    pair.assert_same(pair.update())
    standin.wait(lambda: standin.metrics[-1].updates_accepted == 1)
    assert standin.metrics[-1].trainings_resumed == 1


def test_on_a_full_disk_the_training_is_thrown_away_and_the_process_ends_well(pair: Pair) -> None:
    agent = pair.agent(training=PACE).start()
    pair.in_the_middle()
    (agent.state_dir / "training.part").symlink_to("/dev/full")
    assert agent.stop() == 0
    assert "could not be kept" in agent.text()
    assert not (agent.state_dir / "training").exists()
    pair.hurry()
    agent.start()
    pair.assert_same(pair.update())


def test_a_newer_version_is_trained_instead_of_what_was_kept(standin: Standin, pair: Pair) -> None:
    agent = pair.agent(training=PACE).start()
    pair.in_the_middle()
    agent.stop()
    standin.publish_model(1, training=PLAN)
    pair.hurry()
    agent.start()
    assert pair.update().base_version == 1
    assert "it is of version 0, and version 1 is the one to train" in agent.text()


def test_a_deadline_sets_aside_and_the_training_goes_on_after_a_rest(standin: Standin, pair: Pair) -> None:
    standin.publish_model(0, codec="int8", training=PLAN | {"deadline_s": 0.8})
    agent = pair.agent(training={"step_interval_s": 0.1}).start()
    pair.assert_same(pair.update())
    assert agent.peek()[1].counters.trainings_interrupted >= 1
    assert "deadline_s" in agent.text()


def test_sigterm_does_not_wait_for_samples_that_are_being_read(standin: Standin, pair: Pair) -> None:
    agent = pair.agent()
    samples = agent.folder / "samples.npz"
    samples.unlink()
    os.mkfifo(samples)
    agent.start()
    standin.wait(lambda: standin.state() == "training")
    assert agent.stop() == 0
    assert not (agent.state_dir / "training").exists()


def test_an_aggregator_weighs_the_part_that_was_done_by_its_deadline(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    """Device 0 has no time for all steps, whatever the machine; device 1 has."""
    plan = {"deadline_s": 2.0, "on_deadline": "send"}
    slow = {"device-0": 0.4}
    with Federation(tmp_path, mosquitto.port, plan=plan, step_intervals_s=slow) as federation:
        federation.start_aggregator()
        federation.start_agent(0)
        federation.start_agent(1)
        examples = [_trained_rows(tmp_path, f"device-{number}") for number in range(2)]
        planned = [-(-count // 16) for count in examples]

        def trained(number: int) -> list[tuple[int, int, float, int]]:
            rows = federation.query("SELECT num_examples, num_steps, weight, staleness, device FROM lineage")
            return [row[:4] for row in rows if row[4] == f"device-{number}"]

        # The quick one may be held up, too, and then it says so.
        whole = (examples[1], planned[1])
        wait_until(lambda: bool(trained(0)) and whole in [row[:2] for row in trained(1)], "a part and a whole")
        federation.stop_all()
        federation.check(agents=2)
        found = [trained(number) for number in range(2)]
    assert all(steps < planned[0] for _, steps, _, _ in found[0])
    for rows, count, plan_steps in zip(found, examples, planned, strict=True):
        for weight_examples, steps, weight, staleness in rows:
            assert 1 <= steps <= plan_steps
            assert weight_examples == count * steps // plan_steps
            assert weight == pytest.approx(weight_examples * (1 + staleness) ** -0.5)


def _trained_rows(folder: Path, name: str) -> int:

    with np.load(folder / f"{name}.npz") as found:
        x, y = found["x"], found["y"]
    return int((~drawn(row_hashes(x, y), 0.2)).sum())
