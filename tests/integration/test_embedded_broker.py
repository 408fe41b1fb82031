from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, get_args

import pytest

from fedmq.embedded_broker import BrokerError, Kind, start
from protocol.link import LinkDown, Received

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.links import Links

REAL = [kind for kind in get_args(Kind) if kind != "auto"]


@pytest.mark.parametrize("kind", REAL)
def test_it_listens_on_loopback_and_stops(kind: Kind, tmp_path: Path) -> None:
    with start(kind, tmp_path / "new" / "folder") as broker:
        assert (broker.kind, broker.host) == (kind, "127.0.0.1")
        socket.create_connection((broker.host, broker.port)).close()
        pid = broker.pid

    assert not broker.running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(BrokerError, match="not running"):
        _ = broker.pid


def test_auto_is_mosquitto_where_there_is_one(tmp_path: Path) -> None:
    with start("auto", tmp_path) as broker:
        assert broker.kind == "mosquitto"


def test_auto_is_iotcore_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("fedmq.embedded_broker._ELSEWHERE", str(tmp_path))

    with start("auto", tmp_path) as broker:
        assert broker.kind == "iotcore"
    with pytest.raises(BrokerError, match="apt install mosquitto"):
        start("mosquitto", tmp_path)


def test_mosquitto_is_found_though_it_is_not_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with start("mosquitto", tmp_path) as broker:
        assert broker.running


@pytest.mark.parametrize("kind", REAL)
def test_it_comes_back_on_its_port(kind: Kind, tmp_path: Path, links: Links) -> None:
    with start(kind, tmp_path) as broker:
        port, pid = broker.port, broker.pid
        peer = links(port)
        peer.up()
        broker.kill()
        assert not broker.running
        peer.inbox.wait(LinkDown)
        broker.restart()

        assert broker.port == port
        assert broker.pid != pid
        peer.up()


@pytest.mark.parametrize(("persistent", "expected"), [(True, [b"kept"]), (False, [])])
def test_its_memory_survives_a_restart_if_it_has_one(
    tmp_path: Path, links: Links, persistent: bool, expected: list[bytes]
) -> None:
    with start("mosquitto", tmp_path, persistent=persistent) as broker:
        peer = links(broker.port)
        peer.up()
        peer.publish("retained", b"kept", retain=True)
        broker.restart()
        peer.up()
        peer.subscribe("retained", "other")
        peer.publish("other", b"end")
        peer.inbox.wait(Received, lambda event: event.topic == "other")

        assert [event.payload for event in peer.inbox.all(Received) if event.topic == "retained"] == expected


@pytest.mark.parametrize("kind", REAL)
def test_a_port_that_is_taken_is_an_error(kind: Kind, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]

        with pytest.raises(BrokerError, match=f"port {port} of 127.0.0.1 is taken"):
            start(kind, tmp_path, port)


def test_a_wrong_configuration_shows_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match='Unknown configuration variable "nonsense"'):
        start("mosquitto", tmp_path, extra="nonsense true\n")


@pytest.mark.parametrize("kind", REAL)
def test_it_does_not_outlive_a_parent_that_is_killed(kind: Kind, tmp_path: Path, links: Links) -> None:
    program = (
        "import sys, pathlib, signal\n"
        "from fedmq.embedded_broker import start\n"
        f"broker = start({kind!r}, pathlib.Path(sys.argv[1]))\n"
        "print(broker.port, flush=True)\n"
        "signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    peer = links(int(parent.stdout.readline()))
    peer.up()

    parent.send_signal(signal.SIGKILL)

    peer.inbox.wait(LinkDown, lambda event: "cannot be reached" in event.reason)
    parent.wait()
    parent.stdout.close()


def test_the_limits_that_we_ship_are_valid_alone(tmp_path: Path) -> None:
    with start("mosquitto", tmp_path) as broker:
        log = broker.log.read_text(encoding="utf-8")

    assert "Error" not in log
