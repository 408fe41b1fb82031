"""A site's broker joined to a hub: two real Mosquittos, mutual TLS between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import broker_config
from fedmq.embedded_broker import HOST, EmbeddedBroker, start
from fedmq.provision.authority import server_certificate
from fedmq.secured import Secured, Uplink
from tests.support.federation import wait_until
from tests.support.secure import DAY, FEDERATION, TOPICS, Guest, secure_broker

A, B = "press-07", "press-08"
WALL, NORTH = broker_config.monitor("wall"), broker_config.bridge("north")
LINE = f"$SYS/broker/connection/{NORTH}/state"
BLOB = TOPICS.blob("a" * 64, 0)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


class Joined:
    """A hub, a site, and the certificates of their federation."""

    def __init__(self, directory: Path, stack: ExitStack, *, hub_hosts: tuple[str, ...] = (HOST,)) -> None:
        self._stack = stack
        self.hub, self.keys = stack.enter_context(
            secure_broker(directory / "hub", bridges=("north",), monitors=("wall",))
        )
        if hub_hosts != (HOST,):
            dates = {"not_before": self.keys.now - DAY, "not_after": self.keys.now + DAY}
            self.keys.put("broker", server_certificate(self.keys.ca, hub_hosts, **dates))
            self.hub.restart()
        folder = directory / "site-keys"
        shutil.copytree(self.keys.folder, folder)
        made = self.keys.client(NORTH)
        (folder / "bridge-north.crt").write_bytes(made.certificate_pem)
        (folder / "bridge-north.key").write_bytes(made.key_pem)
        uplink = Uplink(name="north", hub=HOST, port=self.hub.port)
        secured = Secured(federation=FEDERATION, folder=folder, uplink=uplink, monitors=("wall",))
        self.site = stack.enter_context(start("mosquitto", directory / "site", secured=secured))

    def enter(self, broker: EmbeddedBroker, name: str, *, clean: bool = True) -> Guest:
        return self._stack.enter_context(Guest(broker.port, self.keys.context(name), clean=clean))

    def wait_for_line(self) -> None:
        """Wait until the bridge is up: the site's broker says so, to whoever may see its figures."""
        with Guest(self.site.port, self.keys.context(WALL)) as monitor:
            monitor.subscribe(LINE)
            while monitor.hear().payload != b"1":
                pass


def test_a_device_at_the_site_takes_part_at_the_hub(tmp_path: Path, stack: ExitStack) -> None:
    both = Joined(tmp_path, stack)
    aggregator = both.enter(both.hub, broker_config.AGGREGATOR)
    aggregator.subscribe(TOPICS.all_updates, TOPICS.all_device_states, TOPICS.all_device_metrics)
    aggregator.publish(TOPICS.current_model, b"manifest", retain=True)
    aggregator.publish(BLOB, b"chunk", retain=True)
    both.wait_for_line()
    device = both.enter(both.site, A)

    # What was retained at the hub is retained at the site, and is given to its devices.
    wait_until(lambda: kept(both, device, BLOB, TOPICS.current_model), "model and chunk at the site")
    device.publish(TOPICS.update(A), b"update")
    device.publish(TOPICS.device_state(A), b"idle", retain=True)
    device.publish(TOPICS.device_metrics(A), b"figures", qos=0)
    assert {aggregator.hear().topic for _ in range(3)} == {
        TOPICS.update(A), TOPICS.device_state(A), TOPICS.device_metrics(A),
    }  # fmt: skip
    device.subscribe(TOPICS.receipt(A), TOPICS.command(A), TOPICS.command_all)
    for topic in (TOPICS.receipt(A), TOPICS.command(A), TOPICS.command_all):
        aggregator.publish(topic, b"down")
        assert device.hear().topic == topic
    # What the aggregator clears at the hub is cleared at the site.
    aggregator.publish(BLOB, b"", retain=True)
    wait_until(lambda: not kept(both, device, BLOB), "the clearing at the site")


def kept(both: Joined, device: Guest, *topics: str) -> bool:
    device.heard()
    with Guest(both.site.port, both.keys.context(B)) as other:
        other.subscribe(*topics)
        other.publish("the/end")  # a round trip: retained messages have come
        return set(other.heard()) == set(topics)


def test_nothing_goes_round_or_comes_twice(tmp_path: Path, stack: ExitStack) -> None:
    both = Joined(tmp_path, stack)
    both.wait_for_line()
    aggregator, device = both.enter(both.hub, broker_config.AGGREGATOR), both.enter(both.site, A)
    aggregator.subscribe(TOPICS.all_updates, TOPICS.aggregator_state)
    device.subscribe("fedmq/#")
    for number in range(50):
        device.publish(TOPICS.update(A), str(number).encode())
        aggregator.publish(TOPICS.receipt(A), str(number).encode())
    assert [aggregator.hear().payload for _ in range(50)] == [str(number).encode() for number in range(50)]
    assert [device.hear().payload for _ in range(50)] == [str(number).encode() for number in range(50)]
    aggregator.publish(TOPICS.command_all, b"last")
    assert device.hear().payload == b"last"
    device.publish(TOPICS.update(A), b"last")
    assert aggregator.hear().payload == b"last"
    assert aggregator.heard() == device.heard() == []


@pytest.mark.parametrize("end", ["hub", "site"])
@pytest.mark.parametrize("way", ["stop", "kill"])
def test_the_bridge_survives_a_restart_of_either_end(tmp_path: Path, stack: ExitStack, end: str, way: str) -> None:
    both = Joined(tmp_path, stack)
    both.wait_for_line()
    with Guest(both.hub.port, both.keys.context(broker_config.AGGREGATOR), clean=False) as aggregator:
        aggregator.subscribe(TOPICS.all_updates)
        wait_until(lambda: saved(both.hub), "the saving of the hub's memory")
    broker = both.hub if end == "hub" else both.site
    broker.stop() if way == "stop" else broker.kill()
    if end == "hub":  # the site goes on alone, and keeps what its devices send
        with Guest(both.site.port, both.keys.context(A)) as device:
            assert device.publish(TOPICS.update(A), b"meanwhile") == "Success"
    broker.restart()
    both.wait_for_line()
    aggregator = both.enter(both.hub, broker_config.AGGREGATOR, clean=False)
    aggregator.subscribe(TOPICS.all_updates)
    if end == "hub":
        assert aggregator.hear().payload == b"meanwhile"
    with Guest(both.site.port, both.keys.context(A)) as device:
        device.publish(TOPICS.update(A), b"afterwards")
        assert aggregator.hear().payload == b"afterwards"
        device.subscribe(TOPICS.receipt(A))
        aggregator.publish(TOPICS.receipt(A), b"heard")
        assert device.hear().payload == b"heard"


def saved(broker: EmbeddedBroker) -> bool:
    return "Saving in-memory database" in broker.log.read_text()


def test_a_bridge_trusts_no_hub_of_another_name(tmp_path: Path, stack: ExitStack) -> None:
    both = Joined(tmp_path, stack, hub_hosts=("elsewhere.example",))
    wait_until(lambda: "host name verification failed" in both.site.log.read_text().lower(), "the refusal in the log")
    assert NORTH not in both.hub.log.read_text()


def test_a_revoked_bridge_is_shut_out(tmp_path: Path, stack: ExitStack) -> None:
    both = Joined(tmp_path, stack)
    both.wait_for_line()
    both.keys.revoke(NORTH)
    before = len(both.hub.log.read_text())
    both.hub.restart()
    wait_until(lambda: "certificate verify failed" in both.hub.log.read_text()[before:], "the refusal in the log")
    assert f"as {NORTH}" not in both.hub.log.read_text()[before:]


def test_a_bridge_has_the_rights_of_its_devices_only(tmp_path: Path, stack: ExitStack) -> None:
    """Should its key be stolen: it can speak for devices, and cannot be the aggregator."""
    both = Joined(tmp_path, stack)
    both.site.stop()
    thief = both.enter(both.hub, NORTH)
    for topic in (TOPICS.current_model, BLOB, TOPICS.receipt(A), TOPICS.command_all, TOPICS.aggregator_claim):
        assert thief.publish(topic, json.dumps({}).encode()) == "Not authorized"
