"""Two with one identity: it is noticed, it is said, one of them ends, and nobody goes round for ever."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from aggregator.presence import EXIT_NOT_ALONE
from device_agent.double import EXIT_TWICE
from protocol.link import LinkDown, LinkUp, Received
from protocol.topics import Topics
from tests.support.federation import Federation, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links

PATIENT = {"takeover_wait_s": 3600.0}

SLOWER = 60.0
"""So far may the waits between attempts grow, until they are long beside what a connection takes here: one that ends
before ten of them are over has not lasted, and that makes a link suspicious."""


def test_a_broker_that_says_it_is_believed_at_once(links: Links) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server:
        peer = links(server.getsockname()[1], "same", settings={**PATIENT, "protocol": "5"})
        connection, _address = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"\x20\x03\x00\x00\x00" + b"\xe0\x02\x8e\x00")  # CONNACK; DISCONNECT "taken over"
            peer.up()
            told = peer.inbox.wait(LinkDown)
    assert told.kind == "taken-over"
    assert "another client came with our identity (same)" in told.reason


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_mosquitto_does_not_say_it_but_it_shows(mosquitto: EmbeddedBroker, links: Links, protocol: str) -> None:
    settings = {**PATIENT, "protocol": protocol, "reconnect_max_s": SLOWER}
    pair = [links(mosquitto.port, "same", settings=settings) for _ in range(2)]
    wait_until(lambda: any(suspicious(peer.inbox.all(LinkDown)) for peer in pair), "one of them suspects the other")
    suspect = next(peer for peer in pair if suspicious(peer.inbox.all(LinkDown)))
    assert "perhaps another client has our identity (same)" in suspect.inbox.all(LinkDown)[-1].reason
    other = next(peer for peer in pair if peer is not suspect)
    wait_until(lambda: len(other.inbox.all(LinkUp)) > len(other.inbox.all(LinkDown)), "the other one has peace")


def suspicious(told: list[LinkDown]) -> bool:
    return any(event.kind == "perhaps-taken-over" for event in told)


def test_of_two_agents_with_one_identity_one_ends(mosquitto: EmbeddedBroker, tmp_path: Path, links: Links) -> None:
    with Federation(tmp_path, mosquitto.port, takeover_wait_s=0.3, reconnect_max_s=SLOWER) as federation:
        federation.start_aggregator()
        federation.start_agent(0)
        federation.wait_for_version(1)
        clone = tmp_path / "clone.toml"
        original = (tmp_path / "device-0.toml").read_text()
        clone.write_text(original.replace("device-0-state", "clone-state"))
        with (tmp_path / "clone.log").open("wb") as log:
            command = [sys.executable, "-m", "device_agent", "run", "--config", str(clone)]
            federation.processes["clone"] = subprocess.Popen(command, stdout=log, stderr=log)
        pair = ("device-0", "clone")
        wait_until(
            lambda: any(federation.processes[name].poll() is not None for name in pair), "one of the two has ended"
        )
        (ended,) = (name for name in pair if federation.processes[name].poll() is not None)
        (stayed,) = (name for name in pair if name != ended)
        assert federation.processes[ended].returncode == EXIT_TWICE
        assert "giving up" in federation.log(ended)
        assert "perhaps another client has our identity" in federation.log(ended)
        federation.wait_for_versions_more(1)  # by the one that stayed
        assert federation.processes[stayed].poll() is None
        watcher = links(mosquitto.port, "watcher")
        watcher.up()
        watcher.subscribe(Topics("test").aggregator_metrics)
        watcher.inbox.wait(Received, lambda event: json.loads(event.payload)["identity_conflicts"] > 0)
        assert "two agents say that they are device device-0" in federation.log("aggregator")
        assert federation.stop(stayed) in (0, -signal.SIGTERM)
        federation.stop("aggregator")


def test_of_two_copies_of_one_store_one_ends_and_the_other_goes_on(mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    with Federation(tmp_path, mosquitto.port) as federation:
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        federation.wait_for_version(1)
        federation.stop("aggregator")
        shutil.copytree(tmp_path / "aggregator-state", tmp_path / "aggregator-copy-state")
        federation.start_aggregator()
        federation.wait_for_versions_more(1)

        copy = federation.start_aggregator("aggregator-copy")

        wait_until(lambda: copy.poll() is not None, "the copy has ended")
        assert copy.returncode == EXIT_NOT_ALONE
        assert "another aggregator" in federation.log("aggregator-copy")
        federation.wait_for_versions_more(2)
        federation.stop_all()
        federation.check(agents=2)
