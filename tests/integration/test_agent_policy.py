"""An agent's process on a board whose sensors are files that the test writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.device_agent.standin import Agent, Standin
from tests.support.files import put

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cpu(tmp_path: Path) -> Path:
    zone = tmp_path / "board/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("60000\n")
    return zone / "temp"


@pytest.fixture
def agent(standin: Standin, tmp_path: Path, cpu: Path) -> Iterator[Agent]:
    assert cpu.exists()
    policy = {"max_cpu_c": 80, "check_s": 0.1, "system_root": str(tmp_path / "board")}
    made = Agent(tmp_path / "agent", standin.port, policy=policy, training={"step_interval_s": 0.3})
    yield made
    made.kill()


def test_heat_stops_a_training_and_when_it_is_cool_again_it_is_done(standin: Standin, agent: Agent, cpu: Path) -> None:
    standin.publish_model(0)
    agent.start()
    standin.wait(lambda: standin.state() == "training")
    put(cpu, "83000\n")
    standin.wait(lambda: standin.states[-1].reason == "waits: CPU at 83 C, goes on below 75 C")
    standin.wait(lambda: standin.state() == "idle")
    standin.wait(lambda: standin.metrics and standin.metrics[-1].trainings_interrupted == 1)
    assert standin.metrics[-1].policy_waits == {"cpu": 1}
    assert standin.messages == []
    put(cpu, "60000\n")
    standin.wait(lambda: standin.metrics[-1].updates_accepted == 1)
    standin.wait(lambda: standin.state() == "idle")
    assert standin.states[-1].reason == ""
    assert agent.stop() == 0
    assert [(update.base_version, update.sequence) for update in standin.updates()] == [(0, 1)]
    assert agent.peek()[1].counters.trainings_interrupted == 1
    assert "training waits" in agent.text()
    assert "Traceback" not in agent.text()


def test_a_hot_board_never_loads_what_trainings_need_and_says_what_it_reads(
    standin: Standin, agent: Agent, cpu: Path
) -> None:
    put(cpu, "83000\n")
    standin.publish_model(0)
    agent.start()
    standin.wait(lambda: standin.states and standin.states[-1].reason.startswith("waits: CPU at 83 C"))
    assert standin.states[-1].version == 0
    assert agent.peek()[1].counters.trainings == 0
    assert agent.process is not None
    assert "numpy" not in Path(f"/proc/{agent.process.pid}/maps").read_text()
    command = [sys.executable, "-m", "device_agent"]
    told = subprocess.run([*command, "status", "--json", "--config", agent.config], capture_output=True, check=True)
    facts = json.loads(told.stdout)
    assert facts["policy"] == "waits: CPU at 83 C, goes on below 75 C"
    assert facts["readings"]["cpu_c"] == 83.0
    assert facts["readings"]["battery_percent"] is None
    checked = subprocess.run([*command, "run", "--check", "--config", agent.config], capture_output=True, check=True)
    text = checked.stdout.decode()
    assert "readings: cpu_c: 83," in text
    assert "not there, so that their rules hold nothing up: mains, battery_percent, load_per_core" in text
