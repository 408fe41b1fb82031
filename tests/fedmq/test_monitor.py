"""The monitor against real brokers: what is retained, what comes live, and what is nonsense."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fedmq.__main__ import app
from fedmq.monitor import NothingHeardError, look, snapshot, watch
from fedmq.sweep import sweep
from protocol.link import BrokerSettings, Received
from protocol.status import AggregatorMetrics, AggregatorState, DeviceMetrics, DeviceState, encode_status
from protocol.topics import Topics

if TYPE_CHECKING:
    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links, Peer

TOPICS = Topics("plant-3")
LISTEN_S = 1.0


def settings(broker: EmbeddedBroker) -> BrokerSettings:
    return BrokerSettings(port=broker.port_v5, reconnect_min_s=0.05, reconnect_max_s=0.2)


@pytest.fixture
def publisher(any_broker: EmbeddedBroker, links: Links) -> Peer:
    """A federation, as far as its retained topics tell."""
    peer = links(any_broker.port_v5)
    peer.up()
    state = AggregatorState(federation="plant-3", epoch="e" * 16, instance="x", status="online", version=7)
    peer.publish(TOPICS.aggregator_state, encode_status(state), retain=True)
    metrics = AggregatorMetrics(federation="plant-3", version=7, accuracy=0.75, updates_accepted=28)
    peer.publish(TOPICS.aggregator_metrics, encode_status(metrics), retain=True)
    for number, name in enumerate(("press-1", "press-2")):
        device = DeviceState(device_id=name, state="training", version=7 - number)
        peer.publish(TOPICS.device_state(name), encode_status(device), retain=True)
    return peer


def test_what_is_retained_is_enough_for_a_picture(any_broker: EmbeddedBroker, publisher: Peer) -> None:
    publisher.publish(TOPICS.device_metrics("press-1"), encode_status(DeviceMetrics(updates_accepted=9)), retain=True)

    found = snapshot(*look(settings(any_broker), "plant-3", LISTEN_S))

    assert (found["aggregator"], found["version"], found["accuracy"]) == ("online", 7, 0.75)
    assert found["metrics"]["updates_accepted"] == 28
    assert [device["device_id"] for device in found["devices"]] == ["press-1", "press-2"]
    assert [device["behind"] for device in found["devices"]] == [0, 1]
    assert found["devices"][0]["accepted"] == 9


def test_nonsense_on_the_topics_is_passed_over(any_broker: EmbeddedBroker, publisher: Peer) -> None:
    for topic in (TOPICS.aggregator_state, TOPICS.aggregator_metrics, TOPICS.device_state("press-9")):
        publisher.publish(topic, b"\xff not JSON", retain=topic == TOPICS.device_state("press-9"))

    found = snapshot(*look(settings(any_broker), "plant-3", LISTEN_S))

    assert found["version"] == 7
    assert len(found["devices"]) == 2


def test_the_commands_print_what_there_is(any_broker: EmbeddedBroker, publisher: Peer) -> None:
    assert publisher
    address = ["--broker", f"127.0.0.1:{any_broker.port_v5}", "--listen", str(LISTEN_S)]

    table = CliRunner().invoke(app, ["monitor", *address, "--federation", "plant-3", "--once"])
    as_json = CliRunner().invoke(app, ["monitor", *address, "--federation", "plant-3", "--json"])
    nobody = CliRunner().invoke(app, ["monitor", *address, "--federation", "plant-4", "--once"])

    assert table.exit_code == 0, table.output
    assert "press-2" in table.stdout
    assert "75.0 %" in table.stdout
    assert json.loads(as_json.stdout)["devices"][1]["device_id"] == "press-2"
    assert nobody.exit_code == 1
    assert "nobody speaks of federation 'plant-4'" in nobody.stderr


def test_it_watches_until_it_is_interrupted(any_broker: EmbeddedBroker, publisher: Peer) -> None:
    assert publisher
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30, color_system=None)
    assert isinstance(console.file, io.StringIO)
    screen = console.file
    left = 400

    def interrupted() -> bool:
        nonlocal left
        left -= 1
        return "press-2" in screen.getvalue() or left == 0

    watch(settings(any_broker), "plant-3", console, interrupted)

    assert "press-2" in screen.getvalue()


def test_no_broker_is_told_as_such() -> None:
    nowhere = BrokerSettings(port=1, reconnect_min_s=0.05, reconnect_max_s=0.1)

    with pytest.raises(NothingHeardError, match=r"no connection to 127\.0\.0\.1:1"):
        look(nowhere, "demo", 0.3)


def test_a_sweep_takes_away_what_was_retained_and_nothing_else(
    any_broker: EmbeddedBroker, publisher: Peer, links: Links
) -> None:
    publisher.publish("fedmq/v1/other/model/current", b"stays", retain=True)

    assert sweep(settings(any_broker), "plant-3") == 4

    peer = links(any_broker.port_v5, "visitor")
    peer.up()
    peer.subscribe("fedmq/#")
    peer.publish("fedmq/v1/end", b"")
    peer.inbox.wait(Received, lambda event: event.topic == "fedmq/v1/end")
    assert [event.payload for event in peer.inbox.all(Received) if event.payload] == [b"stays"]


def test_a_broker_that_wants_a_password_is_given_one(guarded: EmbeddedBroker, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("letmein\n", encoding="utf-8")
    password.chmod(0o600)
    command = ["monitor", "--once", "--listen", "1", "--broker", f"{guarded.host}:{guarded.port}"]
    known = [*command, "--username", "someone", "--password-file"]

    refused = CliRunner().invoke(app, command)
    let_in = CliRunner().invoke(app, [*known, str(password)])
    missing = CliRunner().invoke(app, [*known, str(tmp_path / "nowhere")])

    assert "no connection" in refused.output
    assert "nobody speaks of federation" in let_in.output, "the broker let it in, and nobody was there"
    assert "nowhere" in missing.output
    assert missing.exit_code == 1
