"""A link in good weather, with both brokers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from protocol.adapters.credentials import read_password
from protocol.adapters.mqtt import LinkLoop, MqttLink
from protocol.link import BrokerSettings, LinkDown, LinkUp, Published, Received, Subscribed, Will
from protocol.settings import ConfigurationError
from tests.support.broker import OVER_BOTH
from tests.support.inbox import Inbox
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

    from fedmq.embedded_broker import EmbeddedBroker
    from protocol.link import LinkEvent
    from tests.support.links import Links
    from tests.support.proxy import FaultProxy


def test_messages_go_round(any_broker: EmbeddedBroker, links: Links) -> None:
    peer = links(any_broker.port)
    peer.up()
    peer.subscribe("a/+/c")

    assert peer.link.publish("a/b/c", b"\x00payload\xff", token="t")

    assert peer.inbox.wait(Published) == Published(token="t")
    received = peer.inbox.wait(Received)
    assert (received.topic, received.payload, received.qos, received.retain) == ("a/b/c", b"\x00payload\xff", 1, False)


def test_auto_speaks_five_with_mosquitto(mosquitto: EmbeddedBroker, links: Links) -> None:
    assert links(mosquitto.port).up().protocol == "5"


def test_auto_falls_back_without_a_word(iotcore: EmbeddedBroker, links: Links) -> None:
    peer = links(iotcore.port)

    assert peer.up().protocol == "3.1.1"
    assert peer.inbox.all(LinkDown) == []


def test_auto_speaks_five_with_iotcore_too(iotcore: EmbeddedBroker, links: Links) -> None:
    peer = links(iotcore.port_v5)

    assert peer.up().protocol == "5"
    peer.subscribe("x")
    peer.publish("x", b"1")
    peer.link.stop()
    assert [event.payload for event in peer.inbox.all(Received)] == [b"1"]


def test_a_version_can_be_demanded(mosquitto: EmbeddedBroker, links: Links) -> None:
    assert links(mosquitto.port, settings={"protocol": "3.1.1"}).up().protocol == "3.1.1"


def test_a_demanded_version_that_is_refused_is_a_failure(iotcore: EmbeddedBroker, links: Links) -> None:
    peer = links(iotcore.port, settings={"protocol": "5"})

    assert peer.inbox.wait(LinkDown).reason.startswith("the broker closed the connection")
    assert peer.inbox.all(LinkUp) == []


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 65_536, 131_072])
def test_payloads_of_all_sizes_arrive_whole(any_broker: EmbeddedBroker, links: Links, size: int) -> None:
    peer = links(any_broker.port)
    peer.up()
    peer.subscribe("big")
    payload = bytes(index % 251 for index in range(size))

    peer.link.publish("big", payload)

    assert peer.inbox.wait(Received).payload == payload


def test_many_messages_arrive_once_and_in_order(any_broker: EmbeddedBroker, links: Links) -> None:
    count = 2000
    receiver = links(any_broker.port, "receiver")
    receiver.up()
    receiver.subscribe("many")
    sender = links(any_broker.port, "sender")
    sender.up()

    for number in range(count):
        assert sender.link.publish("many", b"%d" % number)
    receiver.inbox.wait(Received, lambda event: event.payload == b"%d" % (count - 1))

    assert [int(event.payload) for event in receiver.inbox.all(Received)] == list(range(count))


def test_qos_0_is_handed_over_and_answered(any_broker: EmbeddedBroker, links: Links) -> None:
    peer = links(any_broker.port)
    peer.up()
    peer.subscribe("zero", qos=0)

    peer.publish("zero", b"z", qos=0)
    peer.link.publish("zero", b"end", qos=0)

    assert peer.inbox.wait(Received, lambda event: event.payload == b"end").qos == 0


def test_retained_messages_come_with_the_subscription(any_broker: EmbeddedBroker, links: Links) -> None:
    first = links(any_broker.port, "first")
    first.up()
    first.publish("kept", b"value", retain=True)
    second = links(any_broker.port, "second")
    second.up()
    second.link.subscribe(["kept"])

    received = second.inbox.wait(Received)

    assert (received.payload, received.retain) == (b"value", True)


@OVER_BOTH
def test_unsubscribed_topics_are_quiet(mosquitto: EmbeddedBroker, links: Links) -> None:
    peer = links(mosquitto.port)
    peer.up()
    peer.subscribe("one", "two")
    peer.link.unsubscribe(["one"])

    peer.publish("one", b"1")
    peer.link.publish("two", b"2")

    peer.inbox.wait(Received, lambda event: event.topic == "two")
    assert [event.topic for event in peer.inbox.all(Received)] == ["two"]


def test_it_can_be_used_in_its_own_callback(mosquitto: EmbeddedBroker, links: Links) -> None:
    peer = links(mosquitto.port, start=False)

    def react(event: LinkEvent) -> bool:
        match event:
            case LinkUp():
                peer.link.subscribe(["ping"])
            case Subscribed():
                peer.link.publish("ping", b"1")
        return True

    peer.inbox.react = react
    peer.link.start()

    assert peer.inbox.wait(Received).payload == b"1"


def test_counters_count_payload_bytes(mosquitto: EmbeddedBroker, links: Links) -> None:
    peer = links(mosquitto.port)
    peer.up()
    peer.subscribe("c")
    peer.link.publish("c", b"12345")
    peer.inbox.wait(Received)

    counters = peer.link.counters
    assert (counters.bytes_sent, counters.bytes_received) == (5, 5)
    assert (counters.dropped, counters.reconnects) == (0, 0)


def test_stop_sends_what_is_queued_and_keeps_the_will_back(any_broker: EmbeddedBroker, links: Links) -> None:
    watcher = links(any_broker.port, "watcher")
    watcher.up()
    watcher.subscribe("will", "last")
    leaving = links(any_broker.port, "leaving", will=Will(topic="will", payload=b"lost", retain=False))
    leaving.up()
    leaving.subscribe("last")
    for number in range(100):
        assert leaving.link.publish("last", b"%d" % number, token=f"t{number}")

    leaving.link.stop(PATIENCE_S)

    watcher.inbox.wait(Received, lambda event: event.payload == b"99")
    assert [event.error for event in leaving.inbox.all(Published)] == [""] * 100
    assert leaving.inbox.wait(LinkDown).reason == "stopped"
    # The will would have been published when the connection ended, which the watcher's own round trip outlasts.
    watcher.publish("last", b"after")
    watcher.inbox.wait(Received, lambda event: event.payload == b"after")
    assert [event for event in watcher.inbox.all(Received) if event.topic == "will"] == []


@OVER_BOTH
def test_a_cut_connection_publishes_the_will(proxy: FaultProxy, mosquitto: EmbeddedBroker, links: Links) -> None:
    watcher = links(mosquitto.port, "watcher")
    watcher.up()
    watcher.subscribe("will")
    dying = links(proxy.port, "dying", will=Will(topic="will", payload=b"lost"))
    dying.up()

    proxy.refuse()
    proxy.cut()

    assert watcher.inbox.wait(Received).payload == b"lost"


def test_nothing_is_taken_before_and_after(mosquitto: EmbeddedBroker, links: Links) -> None:
    peer = links(mosquitto.port, start=False)
    assert not peer.link.publish("a", b"")
    assert not peer.link.subscribe(["a"])
    assert not peer.link.unsubscribe(["a"])
    peer.link.start()
    peer.up()
    peer.link.stop()

    assert not peer.link.publish("a", b"")
    assert not peer.link.subscribe(["a"])


@OVER_BOTH
def test_no_thread_is_left_after_stop(mosquitto: EmbeddedBroker, links: Links) -> None:
    before = set(threading.enumerate())
    peers = [links(mosquitto.port, f"client-{number}") for number in range(5)]
    for peer in peers:
        peer.up()
    absent = links(1, "absent")
    absent.inbox.wait(LinkDown)

    for peer in [*peers, absent]:
        peer.link.stop()

    assert set(threading.enumerate()) <= before


@OVER_BOTH
def test_stop_is_harmless_at_any_time(mosquitto: EmbeddedBroker, links: Links) -> None:
    never = links(mosquitto.port, "never", start=False)
    never.link.stop()
    twice = links(mosquitto.port, "twice")
    twice.link.stop()  # perhaps in the middle of connecting
    twice.link.stop()

    with pytest.raises(RuntimeError):
        twice.link.start()


@OVER_BOTH
def test_stop_in_the_callback_does_not_wait_for_itself(mosquitto: EmbeddedBroker, links: Links) -> None:
    peer = links(mosquitto.port, start=False)

    def react(event: LinkEvent) -> bool:
        if isinstance(event, LinkUp):
            peer.link.stop()
        return True

    peer.inbox.react = react
    peer.link.start()

    assert peer.inbox.wait(LinkDown).reason == "stopped"


@pytest.mark.parametrize(
    ("topic", "qos"), [("a/+", 1), ("a/#", 1), ("", 1), ("a", 2), ("a", -1)], ids=["plus", "hash", "empty", "two", "-1"]
)
def test_what_cannot_be_published_is_an_error_of_the_caller(topic: str, qos: int) -> None:
    link = MqttLink(BrokerSettings(), "caller", Inbox())

    with pytest.raises(ValueError, match=r"topic|QoS"):
        link.publish(topic, b"", qos=qos)
    link.stop()


def test_a_password_is_the_first_line_of_its_file(tmp_path: Path, links: Links, guarded: EmbeddedBroker) -> None:
    file = tmp_path / "secret"
    file.write_text("letmein\nnot this\n", encoding="utf-8")
    file.chmod(0o600)

    links(guarded.port, settings={"username": "someone", "password_file": str(file)}).up()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_wrong_password_is_a_reason(tmp_path: Path, links: Links, guarded: EmbeddedBroker, protocol: str) -> None:
    file = tmp_path / "secret"
    file.write_text("wrong\n", encoding="utf-8")
    file.chmod(0o600)
    settings = {"username": "someone", "password_file": str(file), "protocol": protocol}

    peer = links(guarded.port, settings=settings)

    assert peer.inbox.wait(LinkDown).reason == "the broker refused: Not authorized"


def test_a_password_file_that_is_not_there_is_named(tmp_path: Path, links: Links) -> None:
    peer = links(1, settings={"username": "x", "password_file": str(tmp_path / "none")}, start=False)

    with pytest.raises(ConfigurationError, match="none: cannot be read: No such file"):
        peer.link.start()


def test_a_password_file_that_others_can_read_is_refused_with_the_cure(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("letmein\n", encoding="utf-8")
    for mode in (0o644, 0o640, 0o604):
        file.chmod(mode)
        with pytest.raises(ConfigurationError, match=f"mode {mode:04o}.; chmod 600") as caught:
            read_password(str(file))
        assert "letmein" not in str(caught.value)


def test_a_password_may_be_a_credential_of_systemd_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broker").write_text("letmein\n", encoding="utf-8")
    (tmp_path / "broker").chmod(0o444)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_password("credential:broker") == "letmein"
    with pytest.raises(ConfigurationError, match="password file"):
        read_password("credential:other")


def test_two_hundred_links_share_a_loop(mosquitto: EmbeddedBroker, links: Links) -> None:
    count = 200
    loop = LinkLoop()
    before = set(threading.enumerate())
    peers = [links(mosquitto.port, f"one-of-{number}", loop=loop) for number in range(count)]
    # One whose broker is absent must not be felt by the others.
    peers.append(links(1, "absent", loop=loop))
    for number, peer in enumerate(peers[:count]):
        peer.up()
        peer.subscribe(f"ring/{number}")

    for number, peer in enumerate(peers[:count]):
        assert peer.link.publish(f"ring/{(number + 1) % count}", b"%d" % number)

    for number, peer in enumerate(peers[:count]):
        assert int(peer.inbox.wait(Received).payload) == (number - 1) % count
    assert len(set(threading.enumerate()) - before) == 1
    for peer in peers:
        peer.link.stop()
    loop.stop()
    assert set(threading.enumerate()) <= before
