"""The secure demo as a user runs it: real certificates, a real Mosquitto with access control, strangers that knock."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from fedmq import embedded_broker
from fedmq.__main__ import app
from fedmq.audit import AggregatorBooks, audit
from fedmq.baseline import Baseline, Score
from fedmq.demo_task import WATCH
from fedmq.outcome import Guarded, Outcome, as_values
from fedmq.strangers import Knock, Strangers, Visitor
from protocol.link import BrokerSettings
from protocol.topics import Topics
from tests.support.federation import wait_until

if TYPE_CHECKING:
    from fedmq.embedded_broker import EmbeddedBroker

ROOT = Path(__file__).parents[2]
RUNNER = CliRunner()


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedmq", "demo", "--secure", "--devices", "3", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_a_secure_fleet_learns_and_strangers_are_refused(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = run_demo("--json", "--seconds", "6", "--keep", str(kept))

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["secure"] is True
    assert found["tls"] == "TLS 1.3"
    assert found["strangers"] == found["strangers_refused"] == done.stderr.count("✔ refused") == 4
    assert found["faults"] == []
    assert found["versions"] > 0
    assert found["updates_accepted"] > 0

    # What the broker says of it.
    log = (kept / "broker" / "mosquitto.log").read_text()
    assert "peer did not return a certificate" in log
    assert log.count("certificate verify failed") >= 2  # of a foreign authority, and revoked
    assert "as role:aggregator" in log
    assert "as role:monitor:demo" in log
    for name in ("watch-1", "watch-2", "watch-3", "watch-curious"):
        assert f"as {name} (" in log
    assert "as watch-stolen" not in log

    # What is kept is a keystore as any other.
    checked = RUNNER.invoke(app, ["provision", "check", "--keystore", str(kept / "keystore")])
    assert checked.exit_code == 0, checked.output
    secrets = [path for path in kept.rglob("*") if path.suffix == ".key" or path.name == "keystore.sqlite"]
    assert len(secrets) >= 10
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in secrets)
    assert "fedmq provision revoke" in (kept / "README").read_text()


def test_secure_chaos_loses_nothing_and_counts_nothing_twice() -> None:
    done = run_demo("--chaos", "--seed", "4", "--seconds", "12")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost, nothing counted twice" in done.stdout
    assert "times SIGKILL" in done.stdout
    assert "4 of 4 strangers were refused" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("broker", "says"), [("iotcore", "apt install mosquitto"), ("127.0.0.1:1883", "leave --broker out")]
)
def test_a_broker_that_cannot_be_secured_is_refused_before_anything_begins(
    broker: str, says: str, tmp_path: Path
) -> None:
    result = RUNNER.invoke(app, ["demo", "--secure", "--broker", broker, "--keep", str(tmp_path / "kept")])

    assert result.exit_code == 1
    assert says in result.stderr
    assert not (tmp_path / "kept").exists()


def test_without_mosquitto_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded_broker, "find_mosquitto", lambda: None)

    result = RUNNER.invoke(app, ["demo", "--secure", "--keep", str(tmp_path / "kept")])

    assert result.exit_code == 1
    assert "there is no program 'mosquitto' here (Debian: apt install mosquitto)" in result.stderr
    assert not (tmp_path / "kept").exists()


def test_strangers_who_are_let_in_are_not_counted_as_refused(broker: EmbeddedBroker) -> None:
    settings = BrokerSettings(host=broker.host, port=broker.port)
    strangers = Strangers(
        [Visitor("anybody", settings), Visitor("intruder", settings, intrudes=Topics("demo").device_state("watch-1"))]
    )
    strangers.call()
    wait_until(lambda: strangers.poll() is not None and strangers.done, "the broker's answers")
    strangers.stop()

    assert {knock.who for knock in strangers.knocks} == {"anybody", "intruder"}
    assert not any(knock.refused for knock in strangers.knocks)


def test_a_broker_that_is_not_there_refuses_nobody() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        settings = BrokerSettings(port=nobody.getsockname()[1], reconnect_min_s=0.01, reconnect_max_s=0.01)
        strangers = Strangers([Visitor("anybody", settings)])
        strangers.call()
        strangers.stop()

    assert strangers.poll() == []
    assert not strangers.done


def test_a_run_is_good_only_when_all_strangers_were_refused() -> None:
    refused, let_in = Knock("a", refused=True, why=""), Knock("b", refused=False, why="was let in")
    books = AggregatorBooks(folded=(), counted_accepted=0, counted_folded=0, versions=(0, 1))
    outcome = Outcome(
        task=WATCH, baseline=Baseline(alone=(Score(0.5),), central=Score(0.8)), verdict=audit([], books),
        aggregator=books, devices=1, fleet_s=1.0, wall_s=1.0, broker="mosquitto",
    )  # fmt: skip

    def guarded(*knocks: Knock, strangers: int = 2, interrupted: bool = False) -> Outcome:
        guard = Guarded(tls="TLS 1.3", strangers=strangers, knocks=knocks)
        return replace(outcome, guarded=guard, interrupted=interrupted)

    assert guarded(refused, refused).good
    assert not guarded(refused, let_in).good
    assert not guarded(refused).good
    assert not guarded(strangers=0).good
    assert guarded(refused, interrupted=True).good
    assert not guarded(let_in, interrupted=True).good
    assert as_values(guarded(refused, let_in))["strangers_refused"] == 1
