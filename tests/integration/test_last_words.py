"""The messenger of the failure unit, over TLS and a real broker."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.adapters.telling_last import tell
from fedmq.embedded_broker import EmbeddedBroker
from protocol.link import Received, Will
from protocol.status import DeviceState, decode_status, encode_status
from protocol.topics import Topics
from tests.support.certificates import Authority
from tests.support.links import Peer
from tests.support.patience import PATIENCE_S

UNIT = "fedmq-agent.service"
HUNG = {"MONITOR_SERVICE_RESULT": "watchdog", "MONITOR_EXIT_CODE": "killed", "MONITOR_EXIT_STATUS": "ABRT"}
TOPIC = Topics("demo").device_state("press-07")
CLIENT_ID = "fedmq-demo-press-07"


@pytest.fixture
def config(tmp_path: Path, tls_broker: EmbeddedBroker, ours: Authority) -> Path:
    table = "".join(f"{name} = '{value}'\n" for name, value in ours.client("press-07").items())
    (tmp_path / "state").mkdir()
    path = tmp_path / "agent.toml"
    path.write_text(
        f"[device]\nid = 'press-07'\nfederation = 'demo'\nstate_dir = '{tmp_path / 'state'}'\n"
        f"[data]\npath = 'none.npz'\n"
        f"[broker]\nport = {tls_broker.port}\n[broker.tls]\n{table}"
    )
    return path


@pytest.fixture
def watcher(tls_broker: EmbeddedBroker, ours: Authority) -> Iterator[Peer]:
    peer = Peer(tls_broker.port, "watcher", {"tls": ours.client()}, {})
    peer.link.start()
    peer.up()
    peer.subscribe(TOPIC)
    yield peer
    peer.link.stop()


def heard(watcher: Peer) -> DeviceState:
    return decode_status(watcher.inbox.wait(Received).payload, DeviceState)


def test_the_federation_hears_what_happened(config: Path, watcher: Peer) -> None:
    command = [sys.executable, "-m", "device_agent", "last-words", "--unit", UNIT, "--config", str(config)]
    done = subprocess.run(
        command, env={**os.environ, **HUNG}, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert f"the federation was told unit={UNIT}" in done.stderr
    state = heard(watcher)
    assert (state.state, state.reason) == ("stopped", "given up by systemd: it hung, and the watchdog ended it")


def test_it_comes_after_the_will_of_a_connection_that_is_dead_unnoticed(
    config: Path, watcher: Peer, tls_broker: EmbeddedBroker, ours: Authority
) -> None:
    lost = encode_status(DeviceState(device_id="press-07", state="lost"))
    options = {"will": Will(topic=TOPIC, payload=lost)}
    dead = Peer(tls_broker.port, CLIENT_ID, {"tls": ours.client("press-07"), "reconnect_min_s": 3600.0}, options)
    dead.link.start()
    dead.up()
    assert tell(UNIT, config, environment=HUNG) == 0
    assert [heard(watcher).state, heard(watcher).state] == ["lost", "stopped"]
    dead.link.stop()


def test_when_the_broker_is_away_it_ends_and_says_so(
    config: Path, tls_broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    tls_broker.stop()
    assert tell(UNIT, config, environment=HUNG, patience_s=5.0) == 1
    assert "the federation was not told" in caplog.text
    assert "cannot be reached" in caplog.text


def test_who_lives_is_not_spoken_for(config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert tell(UNIT, config, environment={**HUNG, "MONITOR_EXIT_STATUS": "78"}) == 1
    assert "another agent has this identity" in caplog.text
    with (tmp_path / "state" / "agent.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert tell(UNIT, config, environment=HUNG) == 1
    assert "speaks for itself" in caplog.text


def test_a_broken_configuration_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert tell(UNIT, tmp_path / "agent.toml", environment=HUNG) == 1
    assert "there is no such file" in caplog.text


def test_an_aggregator_is_nothing_to_tell() -> None:
    assert tell("fedmq-aggregator.service", environment=HUNG) == 0
