"""The agent as a process against a real Mosquitto and an aggregator's stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from protocol.chunks import Assembly
from protocol.messages import ModelUpdate, UpdateChunk, UpMessage
from protocol.packing import decode_update
from tests.device_agent.standin import SPEC, Agent, Standin
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fedmq.embedded_broker import EmbeddedBroker
    from protocol.messages import Receipt


@pytest.fixture
def standin(mosquitto: EmbeddedBroker) -> Iterator[Standin]:
    found = Standin(mosquitto.port)
    yield found
    found.close()


def accept(standin: Standin) -> Callable[[UpMessage], Receipt | None]:
    return standin.receipt


def test_it_fetches_trains_and_reports_each_version(standin: Standin, agent: Callable[..., Agent]) -> None:
    standin.answer = accept(standin)
    standin.publish_model(0, chunk_bytes=100)
    device = agent()
    for version in (1, 2, 3):
        standin.wait(lambda n=version: len(standin.updates()) == n)  # type: ignore[misc]
        standin.publish_model(version)
    standin.wait(lambda: len(standin.updates()) == 4)
    standin.wait(lambda: standin.metrics and standin.metrics[-1].updates_accepted == 4)
    standin.wait(lambda: standin.state() == "idle")
    assert [update.base_version for update in standin.updates()] == [0, 1, 2, 3]
    assert [update.sequence for update in standin.updates()] == [1, 2, 3, 4]
    metrics = standin.metrics[-1]
    assert metrics.version == 3
    assert metrics.holdout_accuracy is not None
    assert metrics.holdout_loss_before is not None
    assert metrics.rss_bytes > 10_000_000
    assert device.stop() == 0
    standin.wait(lambda: standin.state() == "stopped")
    assert "Traceback" not in device.text()


def test_a_lost_receipt_leads_to_the_identical_bytes_once_more(standin: Standin, agent: Callable[..., Agent]) -> None:
    standin.answer = lambda message: standin.receipt(message, "duplicate") if len(standin.payloads) >= 3 else None
    standin.publish_model(0)
    device = agent()
    standin.wait(lambda: standin.metrics and standin.metrics[-1].updates_duplicate == 1)
    assert len(standin.payloads) >= 3
    assert len(set(standin.payloads)) == 1
    assert device.peek()[2] == ()


def test_retry_keeps_the_update(standin: Standin, agent: Callable[..., Agent]) -> None:
    standin.answer = lambda message: standin.receipt(
        message, *(("retry",) if len(standin.payloads) < 3 else ("accepted",)), next_after_s=0.1
    )
    standin.publish_model(0)
    agent(outbox={"receipt_timeout_s": 300.0, "resend_max_s": 300.0})  # nothing but the answer makes it send again
    standin.wait(lambda: standin.metrics and standin.metrics[-1].updates_accepted == 1)
    assert len(standin.payloads) == 3
    assert len(set(standin.payloads)) == 1


def test_a_missing_chunk_is_sent_again_and_nothing_else(standin: Standin, agent: Callable[..., Agent]) -> None:
    lost = [3]
    assembly: list[Assembly] = []

    def answer(message: UpMessage) -> Receipt | None:
        if isinstance(message, UpdateChunk):
            if not assembly:
                assembly.append(Assembly(message.blob))
            if message.index in lost:
                lost.remove(message.index)
                return None
            assembly[0].add(message.index, message.data)
            return standin.receipt(message) if assembly[0].complete else None
        return standin.receipt(message, "retry", missing=assembly[0].missing)

    standin.answer = answer
    standin.publish_model(0)
    agent(outbox={"chunk_bytes": 256, "resend_max_s": 20.0})
    standin.wait(lambda: standin.metrics and standin.metrics[-1].updates_accepted == 1)
    count = assembly[0].blob.chunk_count
    assert standin.chunks()[:count] == list(range(count))
    assert set(standin.chunks()[count:]) == {3}  # more than once, if the device asked again before it was told
    assert standin.probes() >= 1
    update = decode_update(assembly[0].result())
    assert (update.base_version, update.sequence) == (0, 1)


def test_sigterm_in_training_ends_it_cleanly_and_it_is_done_again(
    standin: Standin, agent: Callable[..., Agent]
) -> None:
    standin.answer = accept(standin)
    standin.publish_model(0)
    device = agent(training={"step_interval_s": 60.0})
    standin.wait(lambda: standin.state() == "training")
    assert device.stop() == 0
    standin.wait(lambda: standin.state() == "stopped")
    assert standin.messages == []
    assert device.peek()[1].trained is None
    Agent(device.folder, standin.port)  # the same files, without the pause between steps
    device.start()
    standin.wait(lambda: len(standin.updates()) == 1)


def test_killed_in_training_it_trains_again(standin: Standin, agent: Callable[..., Agent]) -> None:
    standin.answer = accept(standin)
    standin.publish_model(0)
    device = agent(training={"step_interval_s": 60.0})
    standin.wait(lambda: standin.state() == "training")
    device.kill()
    standin.wait(lambda: standin.state() == "lost")  # the will
    Agent(device.folder, standin.port)
    device.start()
    standin.wait(lambda: standin.metrics and standin.metrics[-1].updates_accepted == 1)
    assert [(update.base_version, update.sequence) for update in standin.updates()] == [(0, 1)]


def test_killed_while_reporting_it_sends_the_same_update_and_never_trains_twice(
    standin: Standin, agent: Callable[..., Agent]
) -> None:
    standin.publish_model(0)
    device = agent()
    standin.wait(lambda: standin.messages)
    for _ in range(3):
        seen = len(standin.messages)
        device.restart()
        standin.wait(lambda n=seen: len(standin.messages) > n)  # type: ignore[misc]
    standin.answer = accept(standin)
    standin.wait(lambda: standin.metrics and standin.metrics[-1].updates_accepted == 1)
    boot = standin.states[-1].boot
    device.restart()
    standin.wait(lambda: standin.states[-1].boot != boot and standin.states[-1].version == 0)
    standin.wait(lambda: standin.state() == "idle")
    assert len(set(standin.payloads)) == 1
    assert device.peek()[1].counters.trainings == 1
    assert device.peek()[1].counters.updates_created == 1


def test_a_broker_that_forgets_in_mid_fetch(forgetful_mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    standin = Standin(forgetful_mosquitto.port)
    standin.answer = accept(standin)
    count = standin.publish_model(0, chunk_bytes=100, only=list(range(5))).blob.chunk_count
    assert count > 5
    device = Agent(tmp_path / "agent", forgetful_mosquitto.port).start()
    try:
        standin.wait(lambda: standin.state() == "fetching")
        forgetful_mosquitto.kill()
        forgetful_mosquitto.restart()
        standin.wait(lambda: standin.states[-1].state in ("idle", "fetching"))
        standin.publish_model(0, chunk_bytes=100)
        standin.wait(lambda: standin.metrics and standin.metrics[-1].updates_accepted == 1)
        assert device.stop() == 0
    finally:
        device.kill()
        standin.close()


def test_a_broker_that_is_away_does_not_stop_a_training(
    mosquitto: EmbeddedBroker, standin: Standin, agent: Callable[..., Agent]
) -> None:
    standin.publish_model(0)
    device = agent(training={"step_interval_s": 0.2})
    standin.wait(lambda: standin.state() == "training")
    mosquitto.stop()
    standin.answer = accept(standin)
    standin.wait(lambda: device.peek()[1].counters.trainings == 1)
    assert [entry.sequence for entry in device.peek()[2]] == [1]
    mosquitto.restart()
    standin.wait(lambda: standin.metrics and standin.metrics[-1].updates_accepted == 1)


def test_it_sleeps_and_wakes_without_being_lost(standin: Standin, agent: Callable[..., Agent]) -> None:
    standin.answer = accept(standin)
    standin.publish_model(0)
    device = agent(sleep={"awake_s": 0.5, "asleep_s": 0.5})
    standin.wait(lambda: len(standin.updates()) == 1)
    standin.wait(lambda: [state.state for state in standin.states].count("sleeping") >= 2)
    standin.publish_model(1)
    standin.wait(lambda: len(standin.updates()) == 2)
    assert "lost" not in {state.state for state in standin.states}
    assert device.stop() == 0


def test_pause_resume_and_evaluate(standin: Standin, agent: Callable[..., Agent]) -> None:
    standin.answer = accept(standin)
    agent()
    standin.wait(lambda: standin.state() == "idle")
    standin.command("pause", "1" * 16)
    standin.wait(lambda: standin.states[-1].reason == "paused by command")
    standin.publish_model(0)
    standin.wait(lambda: standin.states[-1].version == 0)
    standin.command("evaluate", "2" * 16)
    standin.wait(lambda: standin.metrics and standin.metrics[-1].holdout_accuracy is not None)
    assert standin.messages == []
    standin.command("resume", "3" * 16)
    standin.wait(lambda: len(standin.updates()) == 1)


def test_a_device_is_small(standin: Standin, agent: Callable[..., Agent]) -> None:
    device = agent()
    standin.wait(lambda: len(standin.metrics) >= 2)
    idle = device.rss_kb()
    standin.answer = accept(standin)
    standin.publish_model(0, spec=SPEC | {"hidden": [64, 32]})
    standin.wait(lambda: standin.metrics[-1].updates_accepted == 1)
    trained = device.rss_kb()
    print(f"RSS idle {idle} kB, after training {trained} kB")  # noqa: T201 - the figures, with -s
    assert idle <= 30 * 1024
    assert trained <= 50 * 1024


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "device_agent", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_the_command_line_tells_what_is_there(standin: Standin, agent: Callable[..., Agent]) -> None:
    standin.publish_model(0)
    device = agent()
    standin.wait(lambda: standin.count(ModelUpdate))
    config = str(device.config)
    status = json.loads(command("status", "--config", config, "--json").stdout)
    assert (status["version"], status["outbox_updates"], status["updates_created"]) == (0, 1, 1)
    assert "outbox updates" in command("status", "--config", config).stdout
    [update] = json.loads(command("outbox", "--config", config, "--json").stdout)["updates"]
    assert (update["sequence"], update["base_version"]) == (1, 0)
    assert len(command("outbox", "--config", config).stdout.splitlines()) == 2
    second = command("run", "--config", config)
    assert second.returncode == 1
    assert "another agent" in second.stderr
    assert "Traceback" not in second.stderr


def test_the_command_line_names_mistakes(tmp_path: Path) -> None:
    device = Agent(tmp_path, 1883)
    assert command("run", "--check", "--config", str(device.config)).returncode == 0
    assert "has the agent run" in command("status", "--config", str(device.config)).stderr
    missing = command("run", "--config", str(tmp_path / "none.toml"))
    assert (missing.returncode, "none.toml" in missing.stderr) == (2, True)
    Agent(tmp_path, 1883, sleep={"awake_s": 5.0})
    wrong = command("run", "--check", "--config", str(device.config))
    assert (wrong.returncode, "asleep_s" in wrong.stderr) == (2, True)
    Agent(tmp_path, 1883, data={"path": str(tmp_path / "gone.csv")})
    gone = command("run", "--check", "--config", str(device.config))
    assert (gone.returncode, "gone.csv': there is no such file" in gone.stdout) == (0, True)
    Agent(tmp_path, 1883, data={"path": "samples.xls"})
    wrong = command("run", "--check", "--config", str(device.config))
    assert (wrong.returncode, "data.path" in wrong.stderr) == (2, True)
    (tmp_path / "blocked").write_text("")
    Agent(tmp_path, 1883, device={"state_dir": str(tmp_path / "blocked" / "state")})
    wrong = command("run", "--config", str(device.config))
    assert (wrong.returncode, "cannot be written" in wrong.stderr) == (1, True)
    assert "Traceback" not in wrong.stderr
