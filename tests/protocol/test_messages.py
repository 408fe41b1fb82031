from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages as m
from protocol import packing
from protocol.errors import ProtocolError
from protocol.fields import MAX_CHUNKS
from tests.protocol.samples import (
    CHUNK,
    COMMAND,
    CONTENT,
    DIGEST,
    MANIFEST,
    PROBE,
    RECEIPT,
    REPORT,
    SEALED,
    SEALED_REPORT,
    SIGNED,
    TOKEN,
    UPDATE,
)

CASES: list[tuple[m.AnyMessage, Callable[[bytes], Any]]] = [
    (UPDATE, packing.decode_up),
    (UPDATE, packing.decode_update),
    (SEALED, packing.decode_up),
    (SEALED, packing.decode_update),
    (CONTENT, packing.decode_content),
    (REPORT, packing.decode_up),
    (REPORT, packing.decode_update),
    (SEALED_REPORT, packing.decode_up),
    (SEALED_REPORT, packing.decode_update),
    (CHUNK, packing.decode_up),
    (PROBE, packing.decode_up),
    (RECEIPT, packing.decode_receipt),
    (MANIFEST, packing.decode_manifest),
    (COMMAND, packing.decode_command),
    (SIGNED, packing.decode_signed),
]
NAMES = [f"{type(message).__name__}-{read.__name__}" for message, read in CASES]
WRONG: list[Any] = [
    None,
    True,
    False,
    2.5,
    -1,
    "x" * 600,
    b"YQ==",
    "YQ==\n",
    [[]],
    {"\n": [1]},
    msgpack.ExtType(5, b""),
]
NAN, INF = math.nan, math.inf


def body_of(message: m.AnyMessage) -> dict[str, Any]:
    body: dict[str, Any] = msgpack.unpackb(packing.encode(message))
    return body


def packed(body: Any) -> bytes:
    data: bytes = msgpack.packb(body)
    return data


def refusal(read: Callable[[bytes], Any], payload: bytes) -> str:
    """The words of the refusal: one type of exception, with short words, whatever came."""
    with pytest.raises(ProtocolError) as caught:
        read(payload)
    assert 0 < len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize(("message", "read"), CASES, ids=NAMES)
def test_every_message_comes_back_as_it_was_sent(message: m.AnyMessage, read: Callable[[bytes], Any]) -> None:
    payload = packing.encode(message)
    assert read(payload) == message
    assert packing.encode(read(payload)) == payload


@pytest.mark.parametrize(("message", "read"), CASES, ids=NAMES)
def test_truncated_at_any_byte_it_is_refused(message: m.AnyMessage, read: Callable[[bytes], Any]) -> None:
    payload = packing.encode(message)
    for length in range(len(payload)):
        assert refusal(read, payload[:length]).startswith("not msgpack")


@pytest.mark.parametrize(("message", "read"), CASES, ids=NAMES)
def test_any_byte_changed_it_is_a_message_or_refused(message: m.AnyMessage, read: Callable[[bytes], Any]) -> None:
    payload = packing.encode(message)
    for place in range(len(payload)):
        for value in (0x00, 0x7F, 0x80, 0x91, 0xC1, 0xC7, 0xCB, 0xDD, 0xDF, 0xFF):
            try:
                read(payload[:place] + bytes([value]) + payload[place + 1 :])
            except ProtocolError:
                continue


@pytest.mark.parametrize(("message", "read"), CASES, ids=NAMES)
def test_trailing_bytes_are_refused(message: m.AnyMessage, read: Callable[[bytes], Any]) -> None:
    for extra in (b"\0", b"\xc0", packing.encode(message)):
        assert "extra" in refusal(read, packing.encode(message) + extra)


def test_what_is_not_used_is_not_sent_so_that_older_ends_need_not_know_it() -> None:
    plain = m.Manifest(
        federation="farm",
        epoch="0" * 16,
        version=3,
        model={},
        layout="1" * 64,
        parameters="2" * 64,
        blob=m.BlobRef(digest="2" * 64, total_bytes=4, chunk_bytes=4, encoding="f32"),
        training={},
        participation=m.Participation(),
    )
    required = "type federation epoch version model layout parameters blob training participation"
    assert body_of(plain).keys() == set(required.split())
    assert packing.decode_manifest(packing.encode(plain)) == plain


def test_an_unknown_field_is_refused_with_the_advice_to_upgrade() -> None:
    for message, read in CASES:
        assert "newer fedmq, upgrade this one" in refusal(read, packed({**body_of(message), "colour": 1}))


@pytest.mark.parametrize(("message", "read"), CASES, ids=NAMES)
def test_unknown_and_missing_fields_are_refused(message: m.AnyMessage, read: Callable[[bytes], Any]) -> None:
    body = body_of(message)
    assert "unknown field `colour`" in refusal(read, packed({**body, "colour": 1}))
    optional = {"metrics", "deltas", "reason", "version", "next_after_s", "missing"}
    if isinstance(message, m.Manifest):
        optional = {
            "deltas",
            "generation",
            "issued",
            "signing_keys",
            "sealing",
            "features",
            "personal",
            "backbone",
            "trains",
            "surveys",
        }
    for name in body.keys() - optional - {"type"}:
        words = refusal(read, packed({key: value for key, value in body.items() if key != name}))
        assert f"missing required field `{name}`" in words


def acceptable(name: str, value: Any, other: Any) -> bool:
    """Whether ``other`` is as good as ``value`` in the field: what a gate may let through."""
    if name in {"model", "training", "features", "personal"}:
        return isinstance(other, dict)
    if name in {"sealing", "backbone"}:
        return other is None
    if name == "trains":
        return isinstance(other, bool)
    if name == "reason":
        return isinstance(other, str) and len(other) <= 512
    if isinstance(value, float):
        return type(other) in {int, float} and other >= 0
    return isinstance(value, bytes) and isinstance(other, bytes)


@pytest.mark.parametrize(("message", "read"), CASES, ids=NAMES)
def test_every_field_refuses_every_other_type(message: m.AnyMessage, read: Callable[[bytes], Any]) -> None:
    body = body_of(message)
    for name, value in body.items():
        for wrong in WRONG:
            if not acceptable(name, value, wrong):
                refusal(read, packed({**body, name: wrong}))


BAD_TOKENS: list[Any] = ["", TOKEN[1:], TOKEN + "0", TOKEN[1:] + "\n", TOKEN + "\n", TOKEN.upper(), b"0" * 16, 16]
BAD_COUNTS: list[Any] = [0, -5, 2**40, True, False, 1.0, NAN, INF, "9"]
UPDATE_FAULTS: dict[str, list[Any]] = {
    "federation": ["", "a/b", "a\n", "..", "+", "#", "a" * 65, "\u00e4", "a\0"],
    "device_id": ["", "a/b", "press-07\n", "\npress", ".", "a b", "a" * 65, "\U0001f600", None],
    "epoch": [*BAD_TOKENS],
    "incarnation": [*BAD_TOKENS],
    "layout": ["", DIGEST[1:], DIGEST + "a", DIGEST[:-1] + "\n", DIGEST + "\n", DIGEST[:-1] + "g"],
    "sequence": [0, -1, 2**53, 2**64 - 1, True, 1.0, "1", None, NAN],
    "base_version": [-1, 2**53, False, 0.0, "0", NAN],
    "num_examples": [*BAD_COUNTS],
    "num_steps": [*BAD_COUNTS],
    "codec": ["", "INT8", "f32\n", "a" * 33, "f 32", "../f32", 8],
    "delta": ["YQ==", "", [1, 2], 7, None, {}],
    "metrics": [
        *([], None, {"loss": NAN}, {"loss": INF}, {"a": 1.0, "loss": -INF}),
        *({"loss": True}, {"loss": "1"}, {"loss": None}, {"loss": [1.0]}, {"x" * 65: 1.0}),
        {str(number): 0.5 for number in range(33)},
    ],
    "type": ["manifest", "receipt", "", 1, None, True, ["update"], "Update", "update\n"],
}


@pytest.mark.parametrize(("name", "value"), [(name, bad) for name, all_bad in UPDATE_FAULTS.items() for bad in all_bad])
def test_a_fault_in_an_update_is_refused(name: str, value: Any) -> None:
    payload = packed({**body_of(UPDATE), name: value})
    assert refusal(packing.decode_up, payload)
    refusal(packing.decode_update, payload)


BLOB_FAULTS: list[dict[str, Any]] = [
    {"total_bytes": 0},
    {"total_bytes": m.MAX_UPDATE_BYTES + 1},
    {"total_bytes": True},
    {"chunk_bytes": 0},
    {"chunk_bytes": m.MAX_CHUNK_BYTES + 1},
    {"total_bytes": m.MAX_UPDATE_BYTES, "chunk_bytes": 1},
    {"digest": "x"},
    {"digest": DIGEST.upper()},
    {"encoding": "update\n"},
    {"extra": 1},
]


@pytest.mark.parametrize("fault", BLOB_FAULTS, ids=str)
def test_a_fault_in_a_blob_is_refused_wherever_it_is_named(fault: dict[str, Any]) -> None:
    for message, read in ((CHUNK, packing.decode_up), (MANIFEST, packing.decode_manifest)):
        body = body_of(message)
        refusal(read, packed({**body, "blob": {**body["blob"], **fault}}))
    body = body_of(MANIFEST)
    delta = {"base_version": 1, "blob": {**body["blob"], **fault}}
    refusal(packing.decode_manifest, packed({**body, "deltas": [delta]}))


OTHER_FAULTS: list[tuple[m.AnyMessage, Callable[[bytes], Any], str, Any]] = [
    *[(CHUNK, packing.decode_up, "index", bad) for bad in (-1, MAX_CHUNKS, True, 0.0)],
    *[(RECEIPT, packing.decode_receipt, "status", bad) for bad in ("Accepted", "", None, 1, "accepted\n")],
    *[(RECEIPT, packing.decode_receipt, "next_after_s", bad) for bad in (-1, NAN, INF, 1e10, True, "1")],
    *[(RECEIPT, packing.decode_receipt, "missing", bad) for bad in ([-1], [True], [0.5], [2**20], "01", [0] * 4097)],
    (RECEIPT, packing.decode_receipt, "reason", "x" * 513),
    (MANIFEST, packing.decode_manifest, "model", [["kind", "mlp"]]),
    (MANIFEST, packing.decode_manifest, "training", None),
    (MANIFEST, packing.decode_manifest, "features", None),
    (MANIFEST, packing.decode_manifest, "deltas", [body_of(MANIFEST)["deltas"][0]] * 4),
    *[
        (MANIFEST, packing.decode_manifest, "participation", bad)
        for bad in (
            None,
            {"sampling_fraction": 0.0},
            {"sampling_fraction": 1.01},
            {"sampling_fraction": NAN},
            {"sampling_fraction": True},
            {"contributions_per_version": 0},
            {"contributions_per_version": True},
            {"codec": "../etc"},
            {"quorum": 1},
        )
    ],
    *[(COMMAND, packing.decode_command, "action", bad) for bad in ("reboot", "", None, True)],
    (COMMAND, packing.decode_command, "request_id", "1"),
]


@pytest.mark.parametrize(("message", "read", "name", "value"), OTHER_FAULTS)
def test_a_fault_in_another_message_is_refused(
    message: m.AnyMessage, read: Callable[[bytes], Any], name: str, value: Any
) -> None:
    refusal(read, packed({**body_of(message), name: value}))


RAW: dict[str, bytes] = {
    "nothing": b"",
    "never used": b"\xc1",
    "nil": b"\xc0",
    "number": b"\x07",
    "text": packed("update"),
    "list of pairs": packed(list(body_of(UPDATE).items())),
    "list of lists": b"\x91" * 100_000,
    "map of maps": b"\x81\xa1a" * 30_000,
    "nested 500 deep": b"\x91" * 500 + b"\xc0",
    "array of four billion": b"\xdd\xff\xff\xff\xff",
    "map of four billion": b"\xdf\xff\xff\xff\xff",
    "bytes of four billion": b"\xc6\xff\xff\xff\xff",
    "text of four billion": b"\xdb\xff\xff\xff\xff",
    "ext of four billion": b"\xc9\xff\xff\xff\xff\x01",
    "ext": packed(msgpack.ExtType(7, b"abc")),
    "empty ext": packed(msgpack.ExtType(7, b"")),
    "timestamp": packed(msgpack.Timestamp(1, 0)),
    "ext as a value": packed({**body_of(UPDATE), "metrics": msgpack.ExtType(7, b"abc")}),
    "timestamp as a value": packed({**body_of(UPDATE), "num_steps": msgpack.Timestamp(1, 0)}),
    "number as a key": packed({**body_of(UPDATE), 7: 1}),
    "nil as a key": packed({None: 1}),
    "list as a key": b"\x81\x91\x01\x01",
    "bytes as a key": packed({b"type": "update"}),
    "bytes as the type": packed({**body_of(UPDATE), "type": b"update"}),
    "not utf-8": b"\x81\xa4type\xa2\xff\xfe",
    "surrogate": b"\x81\xa4type\xa3\xed\xa0\x80",
    "json": msgspec.json.encode(PROBE),
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "no type": packed({"federation": "demo"}),
}


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("read", [read for _, read in CASES[1:]], ids=NAMES[1:])
def test_what_is_no_message_is_refused(name: str, read: Callable[[bytes], Any]) -> None:
    refusal(read, RAW[name])


def test_deep_nesting_inside_a_manifest_is_data_for_the_model_to_refuse_or_refused_here() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    manifest = packing.decode_manifest(packed({**body_of(MANIFEST), "model": {"hidden": deep}}))
    assert list(manifest.model) == ["hidden"]


def test_extension_types_do_not_hide_in_a_manifest() -> None:
    body = {**body_of(MANIFEST), "model": {"kind": msgpack.ExtType(7, b"abc")}}
    assert "max_ext_len" in refusal(packing.decode_manifest, packed(body))


def test_size_is_looked_at_first() -> None:
    big = b"\x00" * (m.MAX_MESSAGE_BYTES + 1)
    assert refusal(packing.decode_up, big) == "payload of 131073 bytes where at most 131072 are allowed"
    for read, most in (
        (packing.decode_manifest, 4096),
        (packing.decode_signed, 4096),
        (packing.decode_receipt, 32 * 1024),
    ):
        assert f"at most {most}" in refusal(read, bytes(most + 1))
    large = msgspec.structs.replace(UPDATE, delta=bytes(m.MAX_MESSAGE_BYTES))
    assert "at most" in refusal(packing.decode_up, packing.encode(large))
    assert packing.decode_update(packing.encode(large)) == large


def test_chunks_that_add_up_to_something_else_are_no_update() -> None:
    assert refusal(packing.decode_update, packing.encode(PROBE)) == "the chunks do not add up to an update or a report"


def test_the_largest_chunk_and_the_longest_ids_fit_one_message() -> None:
    chunk = msgspec.structs.replace(
        CHUNK, federation="f" * 64, device_id="d" * 64, sequence=2**53 - 1, data=bytes(m.MAX_CHUNK_BYTES)
    )
    assert len(packing.encode(chunk)) <= m.MAX_MESSAGE_BYTES


def test_a_receipt_with_all_that_may_be_missing_is_read() -> None:
    receipt = msgspec.structs.replace(RECEIPT, missing=[MAX_CHUNKS - 1] * 4096, reason="\u20ac" * 512)
    assert packing.decode_receipt(packing.encode(receipt)) == receipt


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(payload: bytes) -> None:
    for _, read in CASES:
        try:
            read(payload)
        except ProtocolError:
            continue


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(CASES), st.data())
def test_any_value_in_any_field_is_read_or_refused(
    case: tuple[m.AnyMessage, Callable[[bytes], Any]], data: Any
) -> None:
    message, read = case
    body = body_of(message)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.sampled_from(sorted(body)))] = data.draw(VALUES)
    try:
        found = read(packed(body))
    except ProtocolError:
        return
    assert read(packing.encode(found)) == found or "model" in body
