"""Persistent sessions and manual acknowledgement: nothing is lost, on either broker."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from protocol.link import LinkDown, LinkUp, Received
from protocol.retries import POISONED_AFTER
from tests.support.proxy import FaultProxy

if TYPE_CHECKING:
    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links, Peer

PERSISTENT = {"clean_session": False, "manual_ack": True}


def numbers(peer: Peer) -> list[int]:
    return [int(event.payload) for event in peer.inbox.all(Received)]


def receive(peer: Peer, count: int) -> list[Received]:
    return [peer.inbox.wait(Received) for _ in range(count)]


def test_what_was_not_acknowledged_comes_again(any_broker: EmbeddedBroker, links: Links) -> None:
    first = links(any_broker.port, "owner", **PERSISTENT)
    first.up()
    first.subscribe("up")
    sender = links(any_broker.port, "sender")
    sender.up()
    for number in range(6):
        sender.publish("up", b"%d" % number)
    received = receive(first, 6)
    for event in received[:3]:
        first.link.acknowledge(event)
    first.link.stop()

    second = links(any_broker.port, "owner", **PERSISTENT)

    assert second.up().session_present
    assert [int(event.payload) for event in receive(second, 3)] == [3, 4, 5]


def test_what_was_sent_meanwhile_is_waiting(any_broker: EmbeddedBroker, links: Links) -> None:
    first = links(any_broker.port, "owner", **PERSISTENT)
    first.up()
    first.subscribe("up")
    first.link.stop()
    sender = links(any_broker.port, "sender")
    sender.up()
    for number in range(100):
        sender.publish("up", b"%d" % number)

    second = links(any_broker.port, "owner", clean_session=False)

    second.inbox.wait(Received, lambda event: event.payload == b"99")
    assert numbers(second) == list(range(100))


def test_an_acknowledgement_for_an_older_connection_is_ignored(mosquitto: EmbeddedBroker, links: Links) -> None:
    with FaultProxy(mosquitto.port) as proxy:
        peer = links(proxy.port, "owner", **PERSISTENT)
        peer.up()
        peer.subscribe("up")
        sender = links(mosquitto.port, "sender")
        sender.up()
        sender.publish("up", b"1")
        old = peer.inbox.wait(Received)
        proxy.cut()
        peer.inbox.wait(LinkDown)
        peer.inbox.wait(LinkUp)
        new = peer.inbox.wait(Received)
        assert (new.payload, new.mid) == (old.payload, old.mid)
        peer.link.acknowledge(old)
        sender.publish("up", b"2")
        peer.inbox.wait(Received)
        proxy.cut()
        peer.inbox.wait(LinkUp)

        # Had the old one counted, this would be 2 at once.
        assert peer.inbox.wait(Received).payload == b"1"
        peer.link.stop()


def test_a_batch_is_acknowledged_at_once(mosquitto: EmbeddedBroker, links: Links) -> None:
    count = 500
    peer = links(mosquitto.port, "owner", **PERSISTENT)
    peer.up()
    peer.subscribe("up")
    sender = links(mosquitto.port, "sender")
    sender.up()
    for number in range(2 * count):
        assert sender.link.publish("up", b"%d" % number)
    for _ in range(2):
        for event in receive(peer, count):
            peer.link.acknowledge(event)
    peer.link.stop()

    again = links(mosquitto.port, "owner", **PERSISTENT)
    assert again.up().session_present
    sender.publish("up", b"7777")
    assert again.inbox.wait(Received).payload == b"7777"


def test_a_clean_session_forgets(mosquitto: EmbeddedBroker, links: Links) -> None:
    first = links(mosquitto.port, "owner", clean_session=False)
    first.up()
    first.subscribe("up")
    first.link.stop()

    assert not links(mosquitto.port, "owner").up().session_present


def test_a_session_of_mqtt_5_expires(mosquitto: EmbeddedBroker, links: Links) -> None:
    first = links(mosquitto.port, "owner", clean_session=False, session_expiry_s=0)
    first.up()
    first.subscribe("up")
    first.link.stop()

    assert not links(mosquitto.port, "owner", clean_session=False).up().session_present


@pytest.mark.parametrize("qos", [0, 1])
def test_acknowledging_is_harmless_where_it_is_not_needed(mosquitto: EmbeddedBroker, links: Links, qos: int) -> None:
    peer = links(mosquitto.port, manual_ack=qos == 0)
    peer.up()
    peer.subscribe("a", qos=qos)
    for number in range(3):
        peer.publish("a", b"%d" % number, qos=qos)
        peer.link.acknowledge(peer.inbox.wait(Received))

    assert numbers(peer) == [0, 1, 2]
    assert peer.inbox.all(LinkDown) == []


def test_a_session_that_the_broker_stumbles_over_is_given_up(links: Links) -> None:
    """A broker, in twenty lines, that cuts every connection which resumes a session."""
    clean_flags: list[bool] = []

    def serve(server: socket.socket) -> None:
        for _ in range(POISONED_AFTER + 1):
            connection, _address = server.accept()
            connect = connection.recv(1024)
            clean_flags.append(bool(connect[9] & 2))
            # CONNACK, and whether a session is there.
            connection.sendall(bytes([0x20, 2, 0 if clean_flags[-1] else 1, 0]))
            if clean_flags[-1]:
                kept.append(connection)
            else:
                connection.close()

    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        peer = links(server.getsockname()[1], clean_session=False, settings={"protocol": "3.1.1"})

        peer.inbox.wait(LinkUp, lambda event: not event.session_present)

        peer.link.stop()
        assert clean_flags == [False] * POISONED_AFTER + [True]
        for connection in kept:
            connection.close()
