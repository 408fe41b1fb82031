"""A stranger on the broker says everything it can think of to a real aggregator, while an honest device works."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from fedmq.embedded_broker import EmbeddedBroker
from protocol.link import Received
from protocol.messages import Receipt
from protocol.packing import decode_manifest, decode_receipt
from protocol.topics import Topics
from tests.support.federation import Federation, wait_until
from tests.support.links import Links, Peer

TOPICS = Topics("test")
STRANGER = "stranger"
SIZE = 650
"""Softmax on 64 inputs and 10 classes."""

Change = Callable[[dict[str, Any]], None]


def setting(**fields: Any) -> Change:
    return lambda body: body.update(fields)


def delta(*values: float) -> Change:
    vector = np.zeros(SIZE, "<f4")
    vector[: len(values)] = values
    return setting(delta=vector.tobytes())


BAD: dict[str, tuple[Change, str]] = {
    "nan": (delta(np.nan), "not-finite"),
    "infinite": (delta(np.inf), "not-finite"),
    "huge": (delta(1e30), "not-finite"),
    "large norm": (delta(2e3), "norm"),
    "no examples": (setting(num_examples=0), "malformed"),
    "negative examples": (setting(num_examples=-5), "malformed"),
    "boolean examples": (setting(num_examples=True), "malformed"),
    "more examples than the world has": (setting(num_examples=2**39), "examples"),
    "a version from the future": (setting(base_version=10**6), "unknown-version"),
    "another layout": (setting(layout="0" * 64), "other-layout"),
    "another epoch": (setting(epoch="0" * 16), "other-epoch"),
    "another federation": (setting(federation="elsewhere"), "other-federation"),
    "another's name": (setting(device_id="device-0"), "wrong-device"),
    "an unknown codec": (setting(codec="zip"), "bad-delta"),
    "too short a delta": (setting(delta=b"1234"), "bad-delta"),
    "a field too many": (setting(extra=1), "malformed"),
    "a metric that is no number": (setting(metrics={"loss": float("nan")}), "malformed"),
    "text for bytes": (setting(delta="AAAA"), "malformed"),
    "a string for a number": (setting(num_steps="3"), "malformed"),
}


class Stranger:
    """A peer that knows the protocol well enough to break it."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.sequence = 0
        peer.up()
        peer.subscribe(TOPICS.current_model, TOPICS.receipt(STRANGER))
        manifest = peer.inbox.wait(Received, lambda received: received.topic == TOPICS.current_model)
        self.manifest = decode_manifest(manifest.payload)

    def body(self) -> dict[str, Any]:
        self.sequence += 1
        return {
            "type": "update",
            "federation": "test",
            "epoch": self.manifest.epoch,
            "device_id": STRANGER,
            "incarnation": "a" * 16,
            "sequence": self.sequence,
            "base_version": self.manifest.version,
            "num_examples": 10,
            "num_steps": 1,
            "codec": "f32",
            "layout": self.manifest.layout,
            "delta": np.zeros(SIZE, "<f4").tobytes(),
            "metrics": {},
        }

    def send(self, payload: bytes) -> None:
        self.peer.publish(TOPICS.update(STRANGER), payload)

    def answer(self, sequence: int) -> Receipt:
        received = self.peer.inbox.wait(
            Received,
            lambda event: (
                event.topic == TOPICS.receipt(STRANGER) and decode_receipt(event.payload).sequence == sequence
            ),
        )
        return decode_receipt(received.payload)


@pytest.fixture
def stranger(broker: EmbeddedBroker, federation: Federation, links: Links) -> Stranger:
    federation.start_aggregator()
    return Stranger(links(broker.port, "stranger"))


@pytest.fixture
def federation(broker: EmbeddedBroker, tmp_path: Path) -> Any:
    # How many messages a device may send is another test's matter (test_flood.py).
    more = "[admission]\nmessages_per_s = 0\nmax_waiting_messages = 4096\n"
    with Federation(tmp_path, broker.port, goal=0, interval_s=3600.0, codec="f32", more=more) as running:
        yield running


def unharmed(federation: Federation) -> None:
    """Nothing got in, nothing fell over, and an honest device still gets its turn."""
    assert federation.accepted() == []
    federation.start_agent(0)
    wait_until(lambda: [device for device, _, _ in federation.accepted()] == ["device-0"], "the honest device")
    log = federation.log("aggregator")
    assert "Traceback" not in log
    assert federation.processes["aggregator"].poll() is None
    federation.stop_all()
    federation.check(agents=1)


def test_each_bad_update_is_refused_with_its_reason(stranger: Stranger, federation: Federation) -> None:
    for change, code in BAD.values():
        body = stranger.body()
        change(body)
        stranger.send(msgpack.packb(body))
        receipt = stranger.answer(body["sequence"])
        assert receipt.status == "rejected", body
        assert receipt.reason.startswith(code)

    unharmed(federation)


def test_noise_is_survived(stranger: Stranger, federation: Federation) -> None:
    chance = random.Random(0)
    good = msgpack.packb(stranger.body())
    noise = [good[:length] for length in range(0, len(good), 97)]
    noise += [chance.randbytes(chance.randrange(1, 2000)) for _ in range(200)]
    noise += [b"\x91" * 50_000, b"\xc1", b"", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", good + b"\x00"]
    odd: list[Any] = [None, [], 1.5, {"type": "update"}, {"type": ["update"]}, {1: 2}]
    noise += [msgpack.packb(value) for value in odd]
    for payload in noise:
        if payload:
            stranger.send(payload)
    stranger.peer.publish(TOPICS.device_state(STRANGER), b'{"device_id": 7}', retain=True)
    stranger.peer.publish(TOPICS.device_metrics(STRANGER), b"[" * 5000)
    stranger.peer.publish(f"{TOPICS.root}/up/0/{STRANGER}", good)
    stranger.peer.publish(f"{TOPICS.root}/up/0/{'x' * 200}", good)
    stranger.peer.publish(TOPICS.aggregator_claim, b"\x00\x01")

    unharmed(federation)


def test_a_thousand_copies_count_once(stranger: Stranger, federation: Federation) -> None:
    body = stranger.body()
    payload = msgpack.packb(body)
    for _ in range(1000):
        assert stranger.peer.link.publish(TOPICS.update(STRANGER), payload)
    assert stranger.answer(body["sequence"]).status == "accepted"
    federation.kill("aggregator")
    federation.start_aggregator()
    stranger.send(payload)
    last = stranger.body()
    stranger.send(msgpack.packb(last))
    receipt = stranger.answer(last["sequence"])

    assert receipt.status == "retry", "a second update within one version has to wait"
    assert federation.accepted() == [(STRANGER, "a" * 16, 1)]


def test_metrics_tell_what_was_refused(stranger: Stranger, federation: Federation) -> None:
    stranger.peer.subscribe(TOPICS.aggregator_metrics)
    body = stranger.body() | {"layout": "0" * 64}
    stranger.send(msgpack.packb(body))

    def tells(received: Received) -> bool:
        if received.topic != TOPICS.aggregator_metrics:
            return False
        refusals: dict[str, int] = json.loads(received.payload)["refusals"]
        return refusals.get("other-layout") == 1

    stranger.peer.inbox.wait(Received, tells)
    assert federation.accepted() == []
