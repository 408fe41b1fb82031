"""What owners, brokers and links refuse one another, and how it is told."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

from fedmq import embedded_broker
from protocol.adapters.mqtt import MAX_PACKET_BYTES
from protocol.link import LinkDown, LinkUp, Published, Received, Subscribed
from tests.support.federation import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from fedmq.embedded_broker import EmbeddedBroker
    from protocol.link import LinkEvent
    from tests.support.links import Links


def test_a_full_inbox_drops_messages_and_counts_them(mosquitto: EmbeddedBroker, links: Links) -> None:
    peer = links(mosquitto.port, clean_session=False, manual_ack=True)
    peer.up()
    peer.subscribe("a")
    peer.inbox.react = lambda event: not isinstance(event, Received)
    for number in range(10):
        peer.publish("a", b"%d" % number)
    wait_until(lambda: peer.link.counters.dropped == 10, "all of them to be dropped")
    peer.inbox.react = lambda _event: True
    peer.publish("a", b"room again")

    assert peer.inbox.wait(Received).payload == b"room again"
    assert peer.link.counters.dropped == 10
    peer.link.stop()

    # They were acknowledged all the same: the next connection does not get them again.
    again = links(mosquitto.port, clean_session=False)
    assert again.up().session_present
    again.publish("a", b"new")
    again.inbox.wait(Received, lambda event: event.payload == b"new")
    assert [event.payload for event in again.inbox.all(Received)] == [b"room again", b"new"]


def test_other_events_wait_for_room_in_order(mosquitto: EmbeddedBroker, links: Links) -> None:
    peer = links(mosquitto.port)
    peer.up()
    full = threading.Event()
    full.set()
    offered: list[LinkEvent] = []

    def react(event: LinkEvent) -> bool:
        offered.append(event)
        return not full.is_set()

    peer.inbox.react = react
    for number in range(5):
        assert peer.link.publish("a", b"", token=str(number))
    mosquitto.stop()
    mosquitto.restart()
    full.clear()

    peer.up()
    events = [event for event in peer.inbox.all(object) if isinstance(event, Published | LinkDown)]
    assert [event.token for event in events if isinstance(event, Published)] == ["0", "1", "2", "3", "4"]
    assert isinstance(events[-1], LinkDown)


def test_an_exception_in_deliver_is_logged_and_survived(
    mosquitto: EmbeddedBroker, links: Links, caplog: pytest.LogCaptureFixture
) -> None:
    peer = links(mosquitto.port, clean_session=False, settings={"reconnect_min_s": 0.01, "reconnect_max_s": 0.01})
    peer.up()
    peer.subscribe("a")
    failures: list[Received] = []

    def react(event: LinkEvent) -> bool:
        if isinstance(event, Received) and len(failures) < 3:
            failures.append(event)
            raise KeyError("a bug")
        return True

    peer.inbox.react = react
    with caplog.at_level(logging.WARNING):
        peer.link.publish("a", b"poison")

        assert peer.inbox.wait(Received).payload == b"poison"

    assert [event.reason for event in peer.inbox.all(LinkDown)] == ["fault: KeyError: 'a bug'"] * 3
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == 1  # the same one again and again is logged once


@pytest.mark.parametrize("kind", [LinkUp, Subscribed, Published])
def test_an_exception_at_any_event_is_survived(mosquitto: EmbeddedBroker, links: Links, kind: type) -> None:
    peer = links(mosquitto.port, start=False)
    failures: list[LinkEvent] = []

    def react(event: LinkEvent) -> bool:
        if isinstance(event, kind) and not failures:
            failures.append(event)
            raise RuntimeError("a bug")
        if isinstance(event, LinkUp):
            peer.link.subscribe(["a"])
        if isinstance(event, Subscribed):
            peer.link.publish("a", b"", token="t")
        return True

    peer.inbox.react = react
    peer.link.start()

    assert peer.inbox.wait(LinkDown).reason == "fault: RuntimeError: a bug"
    assert peer.inbox.wait(Published).error == ""


def test_the_same_failure_is_logged_once(links: Links, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        peer = links(1, settings={"reconnect_min_s": 0.001, "reconnect_max_s": 0.001})
        for _ in range(20):
            peer.inbox.wait(LinkDown)

    assert len([record for record in caplog.records if "cannot be reached" in record.message]) == 1


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_packet_that_is_too_large_is_not_taken(tmp_path: Path, links: Links, protocol: str) -> None:
    extra = f"message_size_limit {4 * MAX_PACKET_BYTES}\nmax_packet_size {8 * MAX_PACKET_BYTES}\n"
    with embedded_broker.start("mosquitto", tmp_path, extra=extra) as broker:
        peer = links(broker.port, clean_session=False, settings={"protocol": protocol})
        peer.up()
        peer.subscribe("a")
        sender = links(broker.port, "sender")
        sender.up()
        sender.publish("a", b"x" * (2 * MAX_PACKET_BYTES))
        if protocol == "3.1.1":
            # The broker cannot know. The session is given up with it, or it would come again for ever.
            assert "a packet of more than" in peer.inbox.wait(LinkDown).reason
            assert not peer.up().session_present
            peer.subscribe("a")
        sender.publish("a", b"small")

        assert peer.inbox.wait(Received).payload == b"small"
        sender.link.stop()
        peer.link.stop()


def test_what_the_broker_would_not_take_is_not_sent(mosquitto: EmbeddedBroker, links: Links) -> None:
    peer = links(mosquitto.port)
    peer.up()
    assert peer.link.publish("a", b"x" * 300_000, token="large")

    assert peer.inbox.wait(Published).error == "larger than the 262144 bytes that the broker takes"
    peer.publish("a", b"small")
    assert peer.inbox.all(LinkDown) == []


def test_a_payload_over_the_brokers_limit_is_answered_with_its_reason(mosquitto: EmbeddedBroker, links: Links) -> None:
    peer = links(mosquitto.port)
    peer.up()
    assert peer.link.publish("a", b"x" * 140_000, token="large")

    assert peer.inbox.wait(Published).error == "Packet too large"


def test_a_publish_that_the_acl_denies_is_an_error(tmp_path: Path, guarded: EmbeddedBroker, links: Links) -> None:
    file = tmp_path / "secret"
    file.write_text("letmein", encoding="utf-8")
    file.chmod(0o600)
    peer = links(guarded.port, settings={"username": "someone", "password_file": str(file)})
    peer.up()

    assert peer.link.publish("closed/a", b"1", token="denied")

    assert peer.inbox.wait(Published) == Published(token="denied", error="Not authorized")
    peer.publish("open/a", b"1")


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_subscription_that_is_denied_is_told(dynamic_security: EmbeddedBroker, links: Links, protocol: str) -> None:
    peer = links(dynamic_security.port, settings={"protocol": protocol})
    peer.up()

    peer.link.subscribe(["open/a", "closed/a", "open/b"])

    assert peer.inbox.wait(Subscribed) == Subscribed(topics=("open/a", "closed/a", "open/b"), refused=("closed/a",))


def test_a_second_client_of_the_same_name_takes_over(mosquitto: EmbeddedBroker, links: Links) -> None:
    first = links(mosquitto.port, "same", settings={"reconnect_min_s": 60.0, "reconnect_max_s": 60.0})
    first.up()
    second = links(mosquitto.port, "same", settings={"reconnect_min_s": 60.0, "reconnect_max_s": 60.0})
    second.up()

    assert first.inbox.wait(LinkDown).reason.startswith("the broker ")
    second.publish("a", b"")
