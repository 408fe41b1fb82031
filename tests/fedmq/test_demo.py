"""The demo as a user runs it: real processes, real brokers, signals."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from protocol.link import Received
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links

ROOT = Path(__file__).parents[2]
KEYS = {
    "accuracy", "device_alone_accuracy", "versions", "updates_sent", "updates_accepted", "updates_folded",
    "update_bytes", "update_bytes_float32", "wall_s", "broker", "secure",
}  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fedmq", "demo", "--devices", "3", *arguments]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo whose fleet is at work; its folder is ``tmp_path / "kept"``."""
    process = subprocess.Popen(
        command("--seconds", "300", "--broker", "iotcore", "--keep", str(tmp_path / "kept")),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    while line := process.stdout.readline():
        if found := re.search(r"version (\d+)", line):
            assert int(found[1]) >= 0
            break
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def children_of(folder: Path) -> list[int]:
    """Return the processes that have this folder in their command lines, but for the demo itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "fedmq" not in words and any(str(folder) in word for word in words):
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("broker", ["mosquitto", "iotcore"])
def test_json_is_one_object_and_its_sums_agree(broker: str) -> None:
    done = subprocess.run(
        command("--json", "--seconds", "6", "--broker", broker), capture_output=True, text=True, cwd=ROOT, check=False
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) >= KEYS
    assert found["broker"] == broker
    assert found["versions"] > 0
    assert found["updates_folded"] == found["updates_accepted"] <= found["updates_sent"]
    assert found["update_bytes"] < 0.3 * found["update_bytes_float32"]
    assert 0.0 < found["accuracy"] < 1.0
    assert found["faults"] == []
    assert found["secure"] is False


@pytest.mark.parametrize("broker", ["mosquitto", "iotcore"])
def test_chaos_loses_nothing_and_counts_nothing_twice(broker: str) -> None:
    done = subprocess.run(
        command("--chaos", "--seed", "4", "--seconds", "14", "--broker", broker),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost, nothing counted twice" in done.stdout
    assert "times SIGKILL" in done.stdout
    assert done.stderr == ""


def test_a_broker_that_runs_already_is_left_clean(mosquitto: EmbeddedBroker, links: Links) -> None:
    address = f"127.0.0.1:{mosquitto.port}"
    done = subprocess.run(
        command("--json", "--seconds", "4", "--broker", address), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["broker"] == address

    visitor = links(mosquitto.port, "visitor")
    visitor.up()
    visitor.subscribe("fedmq/#")
    visitor.publish("fedmq/end", b"")
    visitor.inbox.wait(Received)
    assert [event.topic for event in visitor.inbox.all(Received)] == ["fedmq/end"]


def test_ctrl_c_ends_with_what_was_reached(running: subprocess.Popen[str], tmp_path: Path) -> None:
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=PATIENCE_S)

    assert running.returncode == 130
    assert "what was reached until you ended it" in output
    assert "the books of both ends agree" in output
    assert children_of(tmp_path / "kept") == []
    for name in ("aggregator.log", "watch-1.log", "aggregator.toml", "watch-1.toml", "evaluation.npz"):
        assert (tmp_path / "kept" / name).is_file()


def test_nobody_outlives_a_demo_that_is_killed(running: subprocess.Popen[str], tmp_path: Path) -> None:
    handles = [os.pidfd_open(pid) for pid in children_of(tmp_path / "kept")]
    assert len(handles) >= 4  # broker, aggregator, and agents

    running.kill()

    for handle in handles:
        assert select.select([handle], [], [], PATIENCE_S)[0], "a child outlived the demo"
        os.close(handle)
