"""What a certificate's name may do on a real Mosquitto with the shipped configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest

import broker_config
from fedmq.embedded_broker import EmbeddedBroker
from tests.support.patience import PATIENCE_S
from tests.support.secure import TOPICS, Guest, Keys

A, B = "press-07", "press-08"
WALL = broker_config.monitor("wall")
DENIED = "Not authorized"
TAKEN = {"Success", "No matching subscribers"}
BLOB = TOPICS.blob("a" * 64, 0)

FOREIGN = [
    TOPICS.update(B), TOPICS.device_state(B), TOPICS.device_metrics(B), TOPICS.current_model, BLOB, TOPICS.receipt(A),
    TOPICS.receipt(B), TOPICS.command(A), TOPICS.command(B), TOPICS.command_all, TOPICS.aggregator_state,
    TOPICS.aggregator_claim, TOPICS.aggregator_metrics, f"{TOPICS.root}/up/64/{A}", f"{TOPICS.root}/up/x/{A}",
    f"{TOPICS.root}/device/{A}/other", "elsewhere", "$SYS/broker/uptime", "$CONTROL/dynamic-security/v1",
]  # fmt: skip


@pytest.fixture
def everybody(secured: tuple[EmbeddedBroker, Keys]) -> Iterator[dict[str, Guest]]:
    """A, B, the aggregator, a monitor and a bridge, connected."""
    broker, keys = secured
    names = {"A": A, "B": B, "aggregator": broker_config.AGGREGATOR, "monitor": WALL}
    guests = {role: Guest(broker.port, keys.context(name)) for role, name in names.items()}
    for guest in guests.values():
        guest.__enter__()
    yield guests
    for guest in guests.values():
        guest.__exit__()


@pytest.mark.parametrize("retain", [False, True])
def test_a_device_publishes_its_own_and_nothing_else(everybody: dict[str, Guest], retain: bool) -> None:
    device = everybody["A"]
    for topic in (TOPICS.update(A), TOPICS.device_state(A), TOPICS.device_metrics(A)):
        assert device.publish(topic, retain=False) in TAKEN
    assert {topic: device.publish(topic, retain=retain) for topic in FOREIGN} == dict.fromkeys(FOREIGN, DENIED)


@pytest.mark.parametrize("who", ["A", "monitor"])
@pytest.mark.parametrize(
    "filters", [["#"], ["+/#"], ["fedmq/v1/demo/+/+", "fedmq/v1/demo/+/+/+"], ["$share/all/fedmq/v1/demo/#"]]
)
def test_a_wildcard_brings_what_is_allowed_and_no_more(
    everybody: dict[str, Guest], who: str, filters: list[str]
) -> None:
    everybody[who].subscribe(*filters)
    if who == "A":
        allowed = {TOPICS.receipt(A), TOPICS.command(A), TOPICS.command_all, TOPICS.current_model, BLOB}
        allowed.add(TOPICS.device_state(A))  # by which an agent finds out that another one has its identity
    else:
        allowed = {TOPICS.aggregator_state, TOPICS.aggregator_metrics}
        allowed |= {topic(device) for topic in (TOPICS.device_state, TOPICS.device_metrics) for device in (A, B)}
    everything = [TOPICS.update(B), TOPICS.device_state(B), TOPICS.device_metrics(B)]
    for topic in everything:
        assert everybody["B"].publish(topic) in TAKEN
    for topic in (TOPICS.device_state(A), TOPICS.device_metrics(A)):
        assert everybody["A"].publish(topic) in TAKEN
    by_aggregator = [TOPICS.receipt(B), TOPICS.command(B), TOPICS.receipt(A), TOPICS.command(A), TOPICS.command_all]
    by_aggregator += [TOPICS.current_model, BLOB, TOPICS.aggregator_state, TOPICS.aggregator_metrics]
    for topic in by_aggregator:
        assert everybody["aggregator"].publish(topic) in TAKEN
    assert {everybody[who].hear().topic for _ in allowed} == allowed
    assert everybody[who].publish("the/end") == DENIED  # a round trip: what was under way before has come
    assert everybody[who].heard() == []


def test_the_brokers_figures_are_not_for_devices(everybody: dict[str, Guest]) -> None:
    for guest in everybody.values():
        guest.subscribe("$SYS/broker/version")
    for role in ("aggregator", "monitor"):
        assert everybody[role].hear().topic == "$SYS/broker/version"
    for role in ("A", "B"):
        assert everybody[role].publish("the/end") == DENIED
        assert everybody[role].heard() == []


def test_what_is_retained_is_checked_as_well(everybody: dict[str, Guest]) -> None:
    assert everybody["B"].publish(TOPICS.device_state(B), b"mine", retain=True) in TAKEN
    assert everybody["aggregator"].publish(TOPICS.aggregator_state, b"mine", retain=True) in TAKEN
    everybody["monitor"].subscribe(TOPICS.all_device_states, TOPICS.aggregator_state)
    assert {everybody["monitor"].hear().topic for _ in range(2)} == {TOPICS.device_state(B), TOPICS.aggregator_state}
    everybody["A"].subscribe("#")
    assert everybody["A"].publish("the/end") == DENIED
    assert everybody["A"].heard() == []
    everybody["B"].publish(TOPICS.device_state(B), b"", retain=True)
    everybody["aggregator"].publish(TOPICS.aggregator_state, b"", retain=True)


def test_a_monitor_publishes_nothing(everybody: dict[str, Guest]) -> None:
    topics = [*FOREIGN, TOPICS.update(A), f"{TOPICS.root}/up/7/{WALL}", f"{TOPICS.root}/device/{WALL}/state"]
    assert {everybody["monitor"].publish(topic) for topic in topics} == {DENIED}


def test_a_will_for_somebody_else_is_never_published(
    secured: tuple[EmbeddedBroker, Keys], everybody: dict[str, Guest]
) -> None:
    broker, keys = secured
    everybody["monitor"].subscribe(TOPICS.all_device_states, TOPICS.aggregator_state)
    for topic in (TOPICS.device_state(B), TOPICS.aggregator_state, TOPICS.device_state("press-09")):
        with Guest(broker.port, keys.context("press-09"), will=(topic, b"lost")) as device:
            device.die()
            device.gone.get(timeout=PATIENCE_S)
    # Its own will comes, and it is the only one that came.
    assert everybody["monitor"].hear().topic == TOPICS.device_state("press-09")
    assert everybody["monitor"].heard() == []


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("clean", [True, False])
def test_nobody_takes_over_by_calling_itself_the_same(
    secured: tuple[EmbeddedBroker, Keys], protocol: Literal["5", "3.1.1"], clean: bool
) -> None:
    broker, keys = secured
    with Guest(broker.port, keys.context(B), client_id="mine", protocol=protocol, clean=False) as victim:
        victim.subscribe(TOPICS.receipt(B))
        for name in ("mine", B):
            own = f"thief-{name}-{protocol}-{clean}"
            with Guest(broker.port, keys.context(own), client_id=name, protocol=protocol, clean=clean) as thief:
                assert thief.flags == ("Success", False), "it was given somebody's session"
                thief.subscribe("#")
                with Guest(broker.port, keys.context(broker_config.AGGREGATOR)) as aggregator:
                    assert aggregator.publish(TOPICS.receipt(B), name.encode()) == "Success"
                assert victim.hear().payload == name.encode()
                assert thief.heard() == []
        assert victim.gone.empty()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_session_belongs_to_the_certificate(
    secured: tuple[EmbeddedBroker, Keys], protocol: Literal["5", "3.1.1"]
) -> None:
    broker, keys = secured
    with Guest(broker.port, keys.context(B), client_id="one name", protocol=protocol, clean=False) as device:
        device.subscribe(TOPICS.receipt(B))
    with Guest(broker.port, keys.context(broker_config.AGGREGATOR)) as aggregator:
        aggregator.publish(TOPICS.receipt(B), b"kept")
    with Guest(broker.port, keys.context(B), client_id="another name", protocol=protocol, clean=False) as device:
        assert device.flags == ("Success", True)
        assert device.hear().payload == b"kept"
    with Guest(broker.port, keys.context(B), client_id="", protocol="5") as device:
        assert device.flags == ("Success", False)


def test_one_certificate_is_one_connection(secured: tuple[EmbeddedBroker, Keys]) -> None:
    broker, keys = secured
    with Guest(broker.port, keys.context(A)) as first, Guest(broker.port, keys.context(A)) as second:
        first.gone.get(timeout=PATIENCE_S)
        assert second.publish(TOPICS.update(A)) in TAKEN


@pytest.mark.parametrize("name", ["+", "#", "role:aggregator ", "role:monitor:unlisted", "a/b"])
def test_odd_names_give_no_rights_of_others(secured: tuple[EmbeddedBroker, Keys], name: str) -> None:
    """The authority should never sign them; were one signed, it would still not open others' topics."""
    broker, keys = secured
    with Guest(broker.port, keys.context(name)) as odd:
        assert {odd.publish(topic) for topic in [*FOREIGN, TOPICS.update(A), TOPICS.device_state(A)]} == {DENIED}
