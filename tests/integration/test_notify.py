"""What both processes tell systemd, through a real socket, and that the watchdog starves when a part of them hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmq.embedded_broker import EmbeddedBroker, free_port
from protocol.adapters.notify import Notifier
from tests.device_agent.standin import Agent, Standin
from tests.support.aggregators import write_config
from tests.support.manager import Manager
from tests.support.patience import PATIENCE_S

WATCHDOG_S = 1.0

FREEZER = """
import runpy, signal, sys, threading
from protocol.adapters.loop import LinkLoop
def freeze(self=None):
    threading.Event().wait()
def end(self):
    raise SystemExit
def on_signal(number, frame):
    if sys.argv[0] == "worker":
        freeze()
    LinkLoop._wait_s = freeze if sys.argv[0] == "link" else end
signal.signal(signal.SIGUSR1, on_signal)
part, module, sys.argv = sys.argv[1], sys.argv[2], sys.argv[1:2] + sys.argv[3:]
runpy.run_module(module, run_name="__main__")
"""
"""Runs a module as a program of which a part hangs or ends with SIGUSR1. Signals go to the main thread: the worker."""


@pytest.fixture
def watched(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> Manager:
    monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_S * 1e6)))
    return manager


@pytest.fixture
def standin(mosquitto: EmbeddedBroker) -> Iterator[Standin]:
    found = Standin(mosquitto.port)
    yield found
    found.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    made: list[Agent] = []

    def one(port: int, **tables: Any) -> Agent:
        made.append(Agent(tmp_path / "agent", port, **tables))
        return made[-1].start()

    yield one
    for each in made:
        each.kill()


@pytest.fixture
def program() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        made.append(subprocess.Popen([sys.executable, *arguments], stderr=subprocess.DEVNULL))
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.wait()


# -- the socket -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_arrive_at_both_kinds_of_socket(tmp_path: Path, *, abstract: bool) -> None:
    address = f"@fedmq-{os.getpid()}" if abstract else str(tmp_path / "notify")
    manager = Manager(address)
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert notifier.send("READY=1\nSTATUS=grüß Gott")
    assert manager.read() == "READY=1\nSTATUS=grüß Gott"
    notifier.close()
    manager.close()


@pytest.mark.parametrize("address", ["", "relative/path", "/nowhere/at/all", "@" + "x" * 200, "/tmp/\0"])  # noqa: S108 - no file
def test_without_a_listener_nothing_happens(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert not notifier.send("READY=1")
    notifier.close()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdogs_time_is_that_of_the_environment(environment: dict[str, str], expected: float | None) -> None:
    assert Notifier({"NOTIFY_SOCKET": "@x", **environment}).watchdog_s == expected
    assert Notifier(environment).watchdog_s is None


# -- the agent ------------------------------------------------------------------------------------------------------


def test_an_agent_is_ready_when_connected_and_tells_what_it_does(
    manager: Manager, mosquitto: EmbeddedBroker, standin: Standin, agent: Callable[..., Agent]
) -> None:
    device = agent(mosquitto.port)
    manager.wait_for_line("READY=1")
    manager.wait_for_status("no model yet, idle; 0 updates waiting; connected")
    standin.publish_model(7)
    manager.wait_for_status("version 7, reporting; 1 update waiting; connected")
    standin.answer = standin.receipt
    manager.wait_for_status("version 7, idle; 0 updates waiting; connected")
    assert device.stop() == 0
    manager.wait_for_line("STOPPING=1")
    assert manager.lines.count("READY=1") == manager.lines.count("STOPPING=1") == 1
    assert "WATCHDOG=1" not in manager.lines


def test_an_agent_is_ready_too_when_it_knows_that_it_is_offline(manager: Manager, agent: Callable[..., Agent]) -> None:
    device = agent(free_port())
    manager.wait_for_line("READY=1")
    manager.wait_for_status("no connection")
    assert device.stop() == 0


def test_an_agent_that_trains_for_long_feeds_the_watchdog(
    watched: Manager, mosquitto: EmbeddedBroker, standin: Standin, agent: Callable[..., Agent]
) -> None:
    standin.publish_model(0)
    # The rest between steps is longer than a step may take.
    agent(mosquitto.port, training={"step_interval_s": 60.0, "max_step_s": 0.5})
    watched.wait_for_status("version 0, training")
    watched.pings(4)


def test_a_trainer_that_hangs_in_a_step_starves_the_watchdog(
    watched: Manager, mosquitto: EmbeddedBroker, standin: Standin, agent: Callable[..., Agent], tmp_path: Path
) -> None:
    samples = tmp_path / "samples.csv"
    os.mkfifo(samples)  # whoever opens it to read waits for somebody who writes
    standin.publish_model(0)
    device = agent(mosquitto.port, data={"path": str(samples)}, training={"max_step_s": 2.0})
    watched.wait_for_status("version 0, training")
    watched.pings(1)
    watched.wait_for_hunger(WATCHDOG_S)
    assert device.process is not None
    assert device.process.poll() is None  # it is systemd that ends it


# -- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["link", "link-ends", "worker"])
@pytest.mark.parametrize("device", [True, False])
def test_any_thread_that_hangs_or_ends_starves_the_watchdog(
    watched: Manager,
    mosquitto: EmbeddedBroker,
    tmp_path: Path,
    program: Callable[..., subprocess.Popen[bytes]],
    *,
    part: str,
    device: bool,
) -> None:
    module = "device_agent" if device else "aggregator"
    config = Agent(tmp_path, mosquitto.port).config if device else write_config(tmp_path, mosquitto.port)
    process = program("-c", FREEZER, part, module, "run", "--config", str(config))
    watched.wait_for_line("READY=1")
    watched.pings(3)
    process.send_signal(signal.SIGUSR1)
    watched.wait_for_hunger(WATCHDOG_S)
    assert process.poll() is None


# -- the aggregator -------------------------------------------------------------------------------------------------


def test_an_aggregator_is_ready_when_connected_and_tells_its_figures(
    watched: Manager, mosquitto: EmbeddedBroker, tmp_path: Path, program: Callable[..., subprocess.Popen[bytes]]
) -> None:
    config = write_config(tmp_path, mosquitto.port, goal=8)
    process = program("-m", "aggregator", "run", "--config", str(config))
    watched.wait_for_line("READY=1")
    watched.wait(lambda: "version 0, 0 of 8 buffered, 0 of 0 devices there" in watched.statuses, "connected")
    watched.pings(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    watched.wait_for_line("STOPPING=1")
    assert watched.lines.count("READY=1") == 1


def test_an_aggregator_is_ready_too_when_it_knows_that_it_is_offline(
    watched: Manager, tmp_path: Path, program: Callable[..., subprocess.Popen[bytes]]
) -> None:
    config = write_config(tmp_path, free_port())
    program("-m", "aggregator", "run", "--config", str(config))
    watched.wait_for_line("READY=1")
    watched.wait_for_status("no connection to the broker")
    watched.pings(2)
