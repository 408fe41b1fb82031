"""Bad input on update topics: refused with a reason, counted, acknowledged, and nothing changed."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.commands import Acknowledge, Journal, Log, Publish
from aggregator.configuration import ScheduleTable
from protocol.link import Received
from protocol.messages import MAX_MESSAGE_BYTES, ModelUpdate
from protocol.topics import shard
from tests.aggregator.harness import SIZE, Bench, only, settings_with

LONG = settings_with(schedule=ScheduleTable(goal=0, interval_s=60.0))
"""Nothing closes the buffer by itself."""


@pytest.fixture
def bench() -> Bench:
    made = Bench(LONG)
    made.send(made.update("steady"), "steady")
    return made


def assert_refused(bench: Bench, payload: bytes, code: str, status: str = "rejected", device: str = "dev") -> None:
    """The message is answered with its reason, counted, acknowledged, and changes nothing."""
    before, count = bench.bits(), bench.refusals.get(code, 0)
    received = bench.message(payload, device)
    commands = bench.feed(received)

    assert bench.bits() == before
    assert not only(commands, Journal)
    assert only(commands, Acknowledge) == [Acknowledge(received)]
    assert bench.refusals[code] == count + 1
    (receipt,) = bench.receipts(commands)
    assert (receipt.status, receipt.device_id) == (status, device)
    assert receipt.reason.startswith(f"{code}: ")
    assert receipt.sequence == msgpack.unpackb(payload)["sequence"]
    bench.restart()


WRONG_VALUES: dict[str, list[Any]] = {
    "num_examples": [0, -1, True, False, 1.0, "10", 2**40, 2**63, [1], b"1", float("nan")],
    "num_steps": [0, -1, True, False, 1.0, "10", 2**40],
    "base_version": [-1, True, 0.0, "0", 2**53],
    "delta": ["text", [1.0], 7, {"a": 1}],
    "layout": ["", "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", b"a" * 64],
    "codec": ["", "F32", "a" * 33, "f32\n", 1, ["f32"]],
    "federation": ["", "a/b", "+", "..", "a" * 65, 1],
    "device_id": ["", "a/b", "#", ".", "dev\n", 1],
    "epoch": ["", "e" * 15, "E" * 16, 1],
    "type": ["receipt", "manifest", "command", "", 1],
    "metrics": [[], "x", {"a": "x"}, {"a": True}, {"a": {}}, {"x" * 65: 1.0}, {"a": float("nan")}, {"a": float("inf")}],
}
WRONG_FIELDS: list[dict[str, Any]] = [{name: value} for name, values in WRONG_VALUES.items() for value in values]
WRONG_FIELDS += [{"metrics": {str(i): 1.0 for i in range(33)}}, {"extra": 1}, {"delta": None, "weights": b""}]


@pytest.mark.parametrize("fields", WRONG_FIELDS, ids=lambda fields: f"{fields!r:.40}")
def test_a_wrong_field(bench: Bench, fields: dict[str, Any]) -> None:
    assert_refused(bench, bench.raw(**fields), "malformed")


@pytest.mark.parametrize(
    "name", [f for f in ModelUpdate.__struct_fields__ if f not in ("sequence", "incarnation", "metrics")]
)
def test_a_missing_field(bench: Bench, name: str) -> None:
    assert_refused(bench, bench.raw(**{name: None}), "malformed")


@pytest.mark.parametrize("name", ["sequence", "incarnation"])
@pytest.mark.parametrize("value", [None, 0, -1, True, 2**53, "x", "c" * 17, [], {}])
def test_without_an_identity_nobody_can_be_answered(bench: Bench, name: str, value: Any) -> None:
    before = bench.bits()

    commands = bench.send(bench.raw(**{name: value}))

    assert not bench.receipts(commands)
    assert only(commands, Acknowledge)
    assert bench.refusals == {"malformed": 1}
    assert bench.bits() == before


@pytest.mark.parametrize(
    ("fields", "code", "status"),
    [
        ({"federation": "elsewhere"}, "other-federation", "rejected"),
        ({"device_id": "other"}, "wrong-device", "rejected"),
        ({"epoch": "a" * 16}, "other-epoch", "rejected"),
        ({"layout": "a" * 64}, "other-layout", "rejected"),
        ({"base_version": 1}, "unknown-version", "rejected"),
        ({"num_examples": 1_000_001}, "examples", "rejected"),
        ({"codec": "gzip"}, "bad-delta", "rejected"),
        ({"codec": "f16"}, "bad-delta", "rejected"),
        ({"delta": b""}, "bad-delta", "rejected"),
        ({"delta": np.full(SIZE, np.nan, "<f4").tobytes()}, "not-finite", "rejected"),
        ({"delta": np.full(SIZE, -np.inf, "<f4").tobytes()}, "not-finite", "rejected"),
        ({"delta": np.full(SIZE, 1e4, "<f4").tobytes()}, "norm", "rejected"),
    ],
)
def test_a_well_formed_update_that_must_not_enter(bench: Bench, fields: dict[str, Any], code: str, status: str) -> None:
    assert_refused(bench, bench.raw(**fields), code, status)


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


GARBAGE = {
    "empty": b"",
    "a number": b"\x07",
    "nil": b"\xc0",
    "text": b"hello",
    "a list": msgpack.packb([1, 2]),
    "no keys": b"\x80",
    "numbers as keys": msgpack.packb({1: 2}),
    "an extension": msgpack.packb(msgpack.ExtType(5, b"xx")),
    "a timestamp": msgpack.packb(msgpack.Timestamp(1, 2)),
    "nested lists": nested(100_000),
    "nested maps": b"\x81\xa1a" * 40_000,
    "a length that lies": b"\xdd\xff\xff\xff\xff",
    "a map that lies": b"\xdf\xff\xff\xff\xff\xa1a",
    "bytes that lie": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "no UTF-8": b"\x81\xa4type\xa2\xff\xfe",
    "a reserved byte": b"\xc1",
    "trailing bytes": b"\x80\x80",
    "oversized": bytes(MAX_MESSAGE_BYTES + 1),
    "json": b'{"type":"update"}',
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os.",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_counted_acknowledged_and_changes_nothing(bench: Bench, name: str) -> None:
    before = bench.bits()
    received = bench.message(GARBAGE[name])

    commands = bench.feed(received)

    assert only(commands, Acknowledge) == [Acknowledge(received)]
    assert not only(commands, Publish)
    assert bench.refusals == {"malformed": 1}
    assert bench.core.fleet.devices["dev"].rejected == 1
    assert bench.bits() == before


def test_an_update_cut_off_at_any_byte(bench: Bench) -> None:
    whole = bench.raw()
    before = bench.bits()

    for length in range(len(whole)):
        commands = bench.send(whole[:length])
        assert not bench.receipts(commands)
        assert len(only(commands, Acknowledge)) == 1

    assert bench.refusals == {"malformed": len(whole)}
    assert bench.bits() == before
    assert bench.answer(whole).status == "accepted"


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_one_wrong_byte_never_ends_the_process(position: int, flip: int) -> None:
    bench = Bench(LONG)
    damaged = bytearray(bench.raw())
    damaged[position % len(damaged)] ^= flip

    commands = bench.send(bytes(damaged))

    assert len(only(commands, Acknowledge)) == 1
    assert len(bench.core.ledger.buffer) == len(only(commands, Journal)) <= 1


@settings(max_examples=100, deadline=None)
@given(payload=st.binary(max_size=300))
def test_random_bytes(payload: bytes) -> None:
    bench = Bench(LONG)
    before = bench.bits()

    assert len(only(bench.send(payload), Acknowledge)) == 1
    assert bench.bits() == before


def test_an_oversized_update_is_refused_before_it_is_read(bench: Bench) -> None:
    before = bench.bits()

    commands = bench.send(bench.raw(delta=bytes(MAX_MESSAGE_BYTES)))

    assert not bench.receipts(commands)
    assert bench.refusals == {"malformed": 1}
    assert bench.bits() == before


@pytest.mark.parametrize(
    "topic",
    [
        f"fedmq/v1/bench/up/{(shard('dev') + 1) % 64}/dev",
        f"fedmq/v1/bench/up/0{shard('dev')}/dev",
        f"fedmq/v1/elsewhere/up/{shard('dev')}/dev",
        f"fedmq/v2/bench/up/{shard('dev')}/dev",
        "fedmq/v1/bench/up/x/dev",
        "fedmq/v1/bench/up/1/de v",
        f"fedmq/v1/bench/up/{shard('dev')}/dev/more",
        "fedmq/v1/bench/model/current",
        "fedmq/v1/bench/device/dev/secrets",
        "fedmq/v1/bench/device/../state",
        "",
        "/",
        "x" * 60_000,
    ],
)
def test_a_foreign_topic(bench: Bench, topic: str) -> None:
    before = bench.bits()
    received = Received(topic=topic, payload=bench.raw(), mid=3)

    commands = bench.feed(received)

    assert not only(commands, Publish)
    assert only(commands, Acknowledge) == [Acknowledge(received)]
    assert len(only(commands, Log)[0].text) < 1000
    assert bench.refusals == {"malformed": 1}
    assert list(bench.core.fleet.devices) == ["steady"]
    assert bench.bits() == before
