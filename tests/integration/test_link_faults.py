"""A link in bad weather."""

from __future__ import annotations

import random
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from fedmq import embedded_broker
from protocol.adapters.outgoing import MAX_PENDING_BYTES
from protocol.link import LinkDown, Published, Received
from tests.support.broker import OVER_BOTH
from tests.support.patience import PATIENCE_S
from tests.support.proxy import FaultProxy

if TYPE_CHECKING:
    from pathlib import Path

    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links


def test_a_broker_that_comes_late_is_found(tmp_path: Path, links: Links) -> None:
    with embedded_broker.start("mosquitto", tmp_path) as broker:
        broker.stop()
        peer = links(broker.port)
        reason = peer.inbox.wait(LinkDown).reason
        broker.restart()

        peer.up()

    assert reason == f"127.0.0.1 port {broker.port} cannot be reached: Connection refused"


def test_a_name_that_is_none_is_a_reason(links: Links) -> None:
    peer = links(1883, settings={"host": "no-such-host.invalid"})

    assert "the name 'no-such-host.invalid' cannot be resolved" in peer.inbox.wait(LinkDown).reason


def test_an_address_that_swallows_packets_does_not_hide_the_next(
    mosquitto: EmbeddedBroker, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    hole = socket.socket()
    hole.bind(("127.0.0.2", mosquitto.port))
    hole.listen(0)
    fillers = [socket.socket() for _ in range(8)]  # a full backlog: the kernel drops what comes now
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(hole.getsockname())
    addresses = [(socket.AF_INET, (host, mosquitto.port)) for host in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr("protocol.adapters.dial._addresses", lambda *_arguments: addresses)

    peer = links(mosquitto.port, settings={"host": "two.example", "connect_timeout_s": 6.0})

    peer.up()
    assert peer.inbox.all(LinkDown) == []
    for sock in [hole, *fillers]:
        sock.close()


def test_a_broker_that_swallows_packets_is_given_up(links: Links) -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.2", 0))
        hole.listen(0)
        fillers = [socket.socket() for _ in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        port = hole.getsockname()[1]

        peer = links(port, settings={"host": "127.0.0.2", "connect_timeout_s": 0.2})

        assert peer.inbox.wait(LinkDown).reason == f"127.0.0.2 port {port} did not answer within 0.2 s"
        for filler in fillers:
            filler.close()


def test_a_name_is_resolved(mosquitto: EmbeddedBroker, links: Links) -> None:
    links(mosquitto.port, settings={"host": "localhost"}).up()


@pytest.mark.parametrize("kind", ["mosquitto", "iotcore"])
@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_a_restarted_broker_is_used_again(
    kind: embedded_broker.Kind, ending: str, tmp_path: Path, links: Links
) -> None:
    with embedded_broker.start(kind, tmp_path, persistent=False) as broker:
        peer = links(broker.port)
        peer.up()
        peer.subscribe("again")
        if ending == "stop":
            broker.stop()
        else:
            broker.kill()
        peer.inbox.wait(LinkDown)
        assert not peer.link.publish("again", b"while down", token="refused")

        broker.restart()

        assert not peer.up().session_present
        peer.subscribe("again")
        peer.link.publish("again", b"1")
        assert peer.inbox.wait(Received).payload == b"1"
        assert peer.link.counters.reconnects == 1
        assert peer.inbox.all(Published) == []


@OVER_BOTH
def test_a_broker_with_its_memory_still_has_the_session(mosquitto: EmbeddedBroker, links: Links) -> None:
    peer = links(mosquitto.port, clean_session=False)
    assert not peer.up().session_present
    peer.subscribe("kept")
    mosquitto.stop()
    peer.inbox.wait(LinkDown)
    mosquitto.restart()

    assert peer.up().session_present
    peer.link.publish("kept", b"without subscribing again")
    peer.inbox.wait(Received)


@OVER_BOTH
def test_tokens_under_way_are_answered_before_the_link_is_down(proxy: FaultProxy, links: Links) -> None:
    peer = links(proxy.port)
    peer.up()
    proxy.freeze()
    tokens = [f"t{number}" for number in range(100)]
    for token in tokens:
        assert peer.link.publish("a", b"x" * 1000, token=token)

    proxy.cut()

    peer.inbox.wait(LinkDown)
    events = [event for event in peer.inbox.all(object) if isinstance(event, Published | LinkDown)]
    assert isinstance(events[-1], LinkDown)
    answers = [event for event in events if isinstance(event, Published)]
    assert sorted(answer.token for answer in answers) == sorted(tokens)
    assert all(answer.error for answer in answers)


@OVER_BOTH
def test_every_token_is_answered_once_whatever_happens(proxy: FaultProxy, links: Links) -> None:
    peer = links(proxy.port)
    taken: list[str] = []
    ended = threading.Event()

    def publish() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            if peer.link.publish("a", b"x" * 100, token=str(number)):
                taken.append(str(number))

    thread = threading.Thread(target=publish)
    thread.start()
    for _ in range(10):
        peer.up()
        proxy.cut()
    ended.set()
    thread.join()
    peer.link.stop(PATIENCE_S)

    assert sorted(event.token for event in peer.inbox.all(Published)) == sorted(taken)


@OVER_BOTH
def test_a_half_open_connection_is_noticed(proxy: FaultProxy, links: Links) -> None:
    peer = links(proxy.port, settings={"keepalive_s": 5})
    peer.up()

    proxy.freeze()

    assert "silent for longer" in peer.inbox.wait(LinkDown).reason
    proxy.thaw()
    peer.up()


def test_a_broker_that_never_answers_connect_is_given_up(proxy: FaultProxy, links: Links) -> None:
    proxy.freeze()
    peer = links(proxy.port, settings={"connect_timeout_s": 2.0, "reconnect_min_s": 60.0, "reconnect_max_s": 60.0})

    assert peer.inbox.wait(LinkDown).reason == "the broker did not answer CONNECT within 2 s"
    proxy.wait_until(lambda: proxy.accepted == 2, "the question in both versions")
    proxy.thaw()
    peer = links(proxy.port)
    peer.up()


@OVER_BOTH
@pytest.mark.parametrize("byte_count", [1, 10, 3000])
def test_a_reset_in_the_middle_of_a_packet(proxy: FaultProxy, links: Links, byte_count: int) -> None:
    peer = links(proxy.port)
    peer.up()

    proxy.reset_after(byte_count)
    assert peer.link.publish("a", b"x" * 5000, token="cut")

    assert peer.inbox.wait(Published).error
    peer.up()
    peer.publish("a", b"x" * 5000)


@OVER_BOTH
@pytest.mark.parametrize("byte_count", [1, 3, 4000])
def test_a_reset_in_the_middle_of_a_received_packet(
    proxy: FaultProxy, mosquitto: EmbeddedBroker, links: Links, byte_count: int
) -> None:
    sender = links(mosquitto.port, "sender")
    sender.up()
    peer = links(proxy.port, clean_session=False)
    peer.up()
    peer.subscribe("a")

    proxy.reset_after(byte_count, "down")
    sender.publish("a", b"x" * 5000)

    peer.inbox.wait(LinkDown)
    peer.up()
    # The broken one was not acknowledged: the session has it still.
    assert peer.inbox.wait(Received).payload == b"x" * 5000


@OVER_BOTH
@pytest.mark.parametrize("offset", range(6))
def test_corrupt_bytes_end_the_connection_at_worst(
    proxy: FaultProxy, mosquitto: EmbeddedBroker, links: Links, offset: int
) -> None:
    sender = links(mosquitto.port, "sender")
    sender.up()
    peer = links(proxy.port, settings={"keepalive_s": 5})
    peer.up()
    peer.subscribe("a/b")

    proxy.corrupt("down", offset)
    sender.publish("a/b", b"payload")
    # The header, a length, the topic or the message's id: paho cannot always know. It goes on, or starts again.
    sender.publish("a/b", b"next")
    # Whatever it did, and is doing: here it ends, and then there is a new connection.
    proxy.refuse()
    proxy.cut()
    peer.inbox.wait(LinkDown, lambda event: "cannot be reached" in event.reason)
    peer.inbox.skip()
    proxy.accept()

    peer.up()
    peer.subscribe("a/b")
    sender.publish("a/b", b"good")
    peer.inbox.wait(Received, lambda event: event.payload == b"good")


@OVER_BOTH
def test_a_slow_line_that_takes_longer_than_the_keepalive_survives(proxy: FaultProxy, links: Links) -> None:
    peer = links(proxy.port, settings={"keepalive_s": 5})
    peer.up()
    proxy.rate(4000)

    # 40 kB at 4 kB/s: the ping waits behind them, for twice the keep-alive.
    for number in range(16):
        assert peer.link.publish("chunk", b"x" * 2500, token=str(number))
    for number in range(16):
        assert peer.inbox.wait(Published) == Published(token=str(number))

    assert peer.inbox.all(LinkDown) == []


@OVER_BOTH
def test_a_line_that_loses_packets_only_slows_down(proxy: FaultProxy, links: Links) -> None:
    peer = links(proxy.port)
    peer.up()
    peer.subscribe("a")
    proxy.stall(random.Random(5), 0.1, 0.2)

    for number in range(50):
        peer.publish("a", b"%d" % number)
    peer.inbox.wait(Received, lambda event: event.payload == b"49")

    assert [int(event.payload) for event in peer.inbox.all(Received)] == list(range(50))
    assert peer.inbox.all(LinkDown) == []


@OVER_BOTH
def test_more_than_a_slow_line_can_take_is_refused(proxy: FaultProxy, links: Links) -> None:
    peer = links(proxy.port)
    peer.up()
    proxy.freeze()

    taken = 0
    while peer.link.publish("a", b"x" * 100_000):
        taken += 100_000

    assert taken == MAX_PENDING_BYTES // 100_000 * 100_000
    proxy.cut()
    proxy.thaw()
    peer.up()
    assert peer.link.publish("a", b"x")
