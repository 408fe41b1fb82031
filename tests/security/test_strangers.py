"""A stranger with a TCP connection, or a device that misbehaves, harms nobody else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import broker_config
from fedmq.embedded_broker import HOST, EmbeddedBroker
from tests.support.federation import wait_until
from tests.support.patience import PATIENCE_S
from tests.support.secure import TOPICS, Guest, Keys, secure_broker

A, B = "press-07", "press-08"
CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303")
"""The first bytes of a handshake that announces 512."""
MAX_RSS = 200_000_000


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[EmbeddedBroker, Keys]]:
    with secure_broker(tmp_path) as both:
        yield both


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def stranger(broker: EmbeddedBroker, stack: ExitStack, sent: bytes = b"") -> socket.socket:
    sock = stack.enter_context(socket.create_connection((HOST, broker.port), timeout=PATIENCE_S))
    sock.sendall(sent)
    return sock


def rss_bytes(broker: EmbeddedBroker) -> int:
    return int(Path(f"/proc/{broker.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def work_together(broker: EmbeddedBroker, keys: Keys, device: Guest, aggregator: Guest) -> None:
    """An honest device that was there before, and one that comes now, are served."""
    aggregator.subscribe(TOPICS.all_updates)
    assert device.publish(TOPICS.update(A), b"before") == "Success"
    assert aggregator.hear().payload == b"before"
    with Guest(broker.port, keys.context(B)) as newcomer:
        assert newcomer.publish(TOPICS.update(B), b"new") == "Success"
    assert aggregator.hear().payload == b"new"
    assert device.gone.empty()
    assert aggregator.gone.empty()
    assert rss_bytes(broker) < MAX_RSS


GARBAGE = [
    b"",
    CLIENT_HELLO,
    bytes(range(256)) * 40,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04evil",  # MQTT without TLS
    b"\x16\x03\x01\x40\x00\x01",  # a record of 16 KB that never comes
]


def test_strangers_by_the_hundred_harm_nobody(running: tuple[EmbeddedBroker, Keys], stack: ExitStack) -> None:
    broker, keys = running
    device = stack.enter_context(Guest(broker.port, keys.context(A)))
    aggregator = stack.enter_context(Guest(broker.port, keys.context(broker_config.AGGREGATOR)))
    for sent in GARBAGE:
        for _ in range(100):
            stranger(broker, stack, sent)
        work_together(broker, keys, device, aggregator)


def test_a_slow_handshake_keeps_nobody_waiting(running: tuple[EmbeddedBroker, Keys], stack: ExitStack) -> None:
    broker, keys = running
    device = stack.enter_context(Guest(broker.port, keys.context(A)))
    aggregator = stack.enter_context(Guest(broker.port, keys.context(broker_config.AGGREGATOR)))
    slow = [stranger(broker, stack, CLIENT_HELLO[:2]) for _ in range(100)]
    for byte in CLIENT_HELLO[2:]:
        for sock in slow:
            sock.send(bytes([byte]))
        work_together(broker, keys, device, aggregator)


def test_connections_that_are_dropped_leave_nothing_behind(
    running: tuple[EmbeddedBroker, Keys], stack: ExitStack
) -> None:
    broker, keys = running
    device = stack.enter_context(Guest(broker.port, keys.context(A)))
    aggregator = stack.enter_context(Guest(broker.port, keys.context(broker_config.AGGREGATOR)))
    descriptors = Path(f"/proc/{broker.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(500):
        with socket.create_connection((HOST, broker.port), timeout=PATIENCE_S) as sock:
            sock.sendall(CLIENT_HELLO)
    work_together(broker, keys, device, aggregator)
    wait_until(lambda: len(list(descriptors.iterdir())) <= before, "the end of all strangers' connections")


def test_too_large_a_packet_ends_its_sender_alone(running: tuple[EmbeddedBroker, Keys], stack: ExitStack) -> None:
    broker, keys = running
    device = stack.enter_context(Guest(broker.port, keys.context(A)))
    aggregator = stack.enter_context(Guest(broker.port, keys.context(broker_config.AGGREGATOR)))
    with keys.context("press-09").wrap_socket(stranger(broker, stack), server_hostname=HOST) as tls:
        tls.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04evil")
        assert tls.recv(4) == b"\x20\x02\x00\x00"
        tls.sendall(b"\x32\xff\xff\xff\x7f")  # a PUBLISH of 256 MB
        assert tls.recv(4) in (b"", b"\xe0\x02\x95\x00")  # cut off before it is held in memory
    work_together(broker, keys, device, aggregator)


def test_a_message_above_the_limit_is_dropped(running: tuple[EmbeddedBroker, Keys], stack: ExitStack) -> None:
    broker, keys = running
    device = stack.enter_context(Guest(broker.port, keys.context(A)))
    aggregator = stack.enter_context(Guest(broker.port, keys.context(broker_config.AGGREGATOR)))
    aggregator.subscribe(TOPICS.all_updates)
    with Guest(broker.port, keys.context("press-09"), protocol="3.1.1") as plump:
        plump.publish(TOPICS.update("press-09"), bytes(131_073))
        plump.publish(TOPICS.update("press-09"), bytes(131_072))
        assert len(aggregator.hear().payload) == 131_072
    work_together(broker, keys, device, aggregator)
    assert aggregator.heard() == []


def test_qos_2_is_refused(running: tuple[EmbeddedBroker, Keys], stack: ExitStack) -> None:
    broker, keys = running
    device = stack.enter_context(Guest(broker.port, keys.context(A)))
    aggregator = stack.enter_context(Guest(broker.port, keys.context(broker_config.AGGREGATOR)))
    greedy = stack.enter_context(Guest(broker.port, keys.context("press-09"), protocol="3.1.1"))
    greedy.send(TOPICS.update("press-09"), qos=2)
    greedy.gone.get(timeout=PATIENCE_S)
    work_together(broker, keys, device, aggregator)


def test_what_a_device_can_retain_is_bounded(running: tuple[EmbeddedBroker, Keys], stack: ExitStack) -> None:
    """Its state, its metrics, and one message in each of the 64 shards: no topics of its own making."""
    broker, keys = running
    device = stack.enter_context(Guest(broker.port, keys.context(A)))
    taken = {
        topic
        for folder in [*map(str, range(200)), "x", "07"]
        for topic in (f"{TOPICS.root}/up/{folder}/{A}", f"{TOPICS.root}/device/{A}/{folder}")
        if device.publish(topic, retain=True) != "Not authorized"
    }
    assert taken == {f"{TOPICS.root}/up/{number}/{A}" for number in range(64)}


def test_a_queue_that_grows_is_cut_at_the_memory_limit(tmp_path: Path, stack: ExitStack) -> None:
    """A device that subscribes in a kept session and stays away makes the broker keep messages; it lives on."""
    broker, keys = stack.enter_context(secure_broker(tmp_path, extra="memory_limit 20000000\n"))
    with Guest(broker.port, keys.context("press-09"), clean=False) as away:
        away.subscribe("#")
    with Guest(broker.port, keys.context(broker_config.AGGREGATOR)) as flood:
        for number in range(400):
            flood.send(TOPICS.receipt("press-09"), bytes([number % 256]) * 90_000)
        flood.gone.get(timeout=PATIENCE_S)
    assert broker.running
    assert rss_bytes(broker) < MAX_RSS
    with Guest(broker.port, keys.context("press-09"), clean=True) as back:
        assert back.flags == ("Success", False)
    device = stack.enter_context(Guest(broker.port, keys.context(A)))
    aggregator = stack.enter_context(Guest(broker.port, keys.context(broker_config.AGGREGATOR)))
    work_together(broker, keys, device, aggregator)
