"""The quick way through the gate, for updates, lets through what the thorough one does, and nothing else.

And the quick way out writes the same bytes."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import messages as m
from protocol import packing
from protocol.errors import ProtocolError
from tests.protocol.samples import (
    CHUNK,
    COMMAND,
    CONTENT,
    MANIFEST,
    PROBE,
    RECEIPT,
    REPORT,
    SEALED,
    SEALED_REPORT,
    SIGNED,
    UPDATE,
)

SAMPLES = [packing.encode(message) for message in (UPDATE, SEALED, CHUNK, PROBE, REPORT, SEALED_REPORT)]
BODIES: list[dict[str, Any]] = [msgpack.unpackb(sample) for sample in SAMPLES]

NUMBER_AS_KEY: dict[Any, Any] = {**BODIES[0], 1: 2}

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
    st.datetimes().map(lambda _: msgpack.Timestamp(1)),
)
ANYTHING = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def thorough(payload: bytes) -> object:
    try:
        return packing._converted(packing._unpacked(payload, m.MAX_MESSAGE_BYTES), m.UpMessage)
    except ProtocolError as exc:
        return str(exc)


def quick(payload: bytes) -> object:
    try:
        return packing._decoded_up(payload, m.MAX_MESSAGE_BYTES)
    except ProtocolError as exc:
        return str(exc)


def same(payload: bytes) -> None:
    # NaN differs from itself: compared as text.
    assert repr(quick(payload)) == repr(thorough(payload))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.data())
def test_bytes_changed_left_out_and_put_in(sample: bytes, changes: list[tuple[int, int]], data: st.DataObject) -> None:
    payload = bytearray(sample)
    for position, value in changes:
        if not payload:
            break
        at = position % len(payload)
        match data.draw(st.sampled_from(["change", "leave out", "put in", "cut"])):
            case "change":
                payload[at] = value
            case "leave out":
                del payload[at]
            case "put in":
                payload.insert(at, value)
            case _:
                del payload[at + 1 :]
    same(bytes(payload))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(BODIES), st.data())
def test_fields_of_any_kind(body: dict[str, Any], data: st.DataObject) -> None:
    changed = dict(body)
    for name in data.draw(st.lists(st.sampled_from(sorted(body)), max_size=3)):
        changed[name] = data.draw(ANYTHING)
    changed.update(data.draw(st.dictionaries(st.text(max_size=4), ANYTHING, max_size=1)))
    with contextlib.suppress(OverflowError):
        same(msgpack.packb(changed))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes(payload: bytes) -> None:
    same(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x91" * 100_000,
        b"\x81\xa1a" * 30_000,
        msgpack.packb(NUMBER_AS_KEY),
        bytes((SAMPLES[3][0] + 1,)) + SAMPLES[3][1:] + msgpack.packb("type") + msgpack.packb("update"),
        msgpack.packb(BODIES[0], use_bin_type=False),
        SAMPLES[0] + b"\0",
        bytes((SAMPLES[3][0] + 1,)) + SAMPLES[3][1:] + msgpack.packb("sequence") + msgpack.packb(9),
        SAMPLES[0].replace(b"press-07", b"\xff\xfe\xfd\xfcs-07"),
        SAMPLES[0].replace(b"press-07", b"\xed\xa0\x80ss-07"),
        bytes(200_000),
    ],
    ids=[
        "lists",
        "maps",
        "number as a key",
        "two types",
        "raw",
        "behind",
        "twice",
        "no utf-8",
        "surrogate",
        "too long",
    ],
)
def test_hostile(payload: bytes) -> None:
    same(payload)


NUMBERS = st.integers(0, 2**53 - 1) | st.sampled_from([127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20),
    max_leaves=40,
)
CHANGED: list[st.SearchStrategy[m.AnyMessage]] = [
    st.builds(msgspec.structs.replace, st.just(MANIFEST), version=NUMBERS, issued=NUMBERS, model=JSON, training=JSON),
    st.builds(
        msgspec.structs.replace,
        st.just(UPDATE),
        sequence=NUMBERS,
        delta=st.integers(0, 70_000).map(bytes),
        metrics=st.dictionaries(st.text(max_size=64), st.floats(), max_size=32),
    ),
    st.builds(msgspec.structs.replace, st.just(CHUNK), index=NUMBERS, data=st.binary(max_size=300)),
    st.builds(
        msgspec.structs.replace,
        st.just(RECEIPT),
        version=NUMBERS,
        next_after_s=st.floats() | NUMBERS,
        reason=st.text(max_size=512),
        missing=st.lists(NUMBERS, max_size=70),
    ),
    st.sampled_from([SEALED, CONTENT, PROBE, COMMAND, SIGNED, RECEIPT, MANIFEST]),
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(CHANGED))
def test_one_pass_writes_the_bytes_that_msgpack_writes(message: m.AnyMessage) -> None:
    plain = msgspec.to_builtins(message, builtin_types=(bytes,))
    assert packing.encode(message) == msgpack.packb(plain, use_bin_type=True)
