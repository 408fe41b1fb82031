"""Sealed updates open for the aggregator, as what they were sealed as, and for nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.errors import ProtocolError
from protocol.fields import SealingSuite
from protocol.messages import SealedUpdate, Sealing
from protocol.packing import decode_content, decode_up, encode
from protocol.sealing import PRIVATE_KEY_BYTES, Opener, SealingError, info_of, seal, seal_report
from protocol.signing import key_id
from protocol.surveys import SealedReport
from tests.protocol.samples import CONTENT, REPORT, UPDATE

SUITES: list[SealingSuite] = ["x25519", "mlkem768-x25519"]
OVERHEAD = {"x25519": 32 + 16, "mlkem768-x25519": 1088 + 32 + 16}


def private_key(suite: SealingSuite, seed: int = 1) -> bytes:
    return bytes((seed + i) % 256 for i in range(PRIVATE_KEY_BYTES[suite]))


def opener_of(suite: SealingSuite, *seeds: int) -> Opener:
    return Opener([(suite, private_key(suite, seed)) for seed in seeds or (1,)])


@pytest.mark.parametrize("suite", SUITES)
def test_what_was_sealed_comes_back_whole(suite: SealingSuite) -> None:
    opener = opener_of(suite)
    sealed = decode_up(encode(seal(UPDATE, opener.sealing)))

    assert isinstance(sealed, SealedUpdate)
    assert opener.open(sealed) == UPDATE
    assert len(sealed.sealed) == len(encode(CONTENT)) + OVERHEAD[suite]


@pytest.mark.parametrize("suite", SUITES)
def test_nothing_of_the_content_is_to_be_seen(suite: SealingSuite) -> None:
    wire = encode(seal(UPDATE, opener_of(suite).sealing))

    for secret in (UPDATE.delta, UPDATE.delta[:8], b"accuracy", b"num_examples", UPDATE.layout.encode(), b"int8"):
        assert secret not in wire


def test_it_looks_different_each_time() -> None:
    sealing = opener_of("x25519").sealing

    assert seal(UPDATE, sealing).sealed != seal(UPDATE, sealing).sealed


MOVES: dict[str, Any] = {
    "federation": "other",
    "epoch": "f" * 16,
    "device_id": "press-08",
    "incarnation": "f" * 16,
    "sequence": 4,
    "base_version": 3,
}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("field", MOVES)
def test_moved_to_anything_else_it_does_not_open(suite: SealingSuite, field: str) -> None:
    opener = opener_of(suite)
    moved = replace(seal(UPDATE, opener.sealing), **{field: MOVES[field]})

    with pytest.raises(SealingError, match="does not open"):
        opener.open(moved)


def test_every_clear_field_but_the_key_is_bound() -> None:
    assert set(MOVES) == set(SealedUpdate.__struct_fields__) - {"key", "sealed"}


@pytest.mark.parametrize("suite", SUITES)
def test_damaged_or_cut_it_does_not_open(suite: SealingSuite) -> None:
    opener = opener_of(suite)
    sealed = seal(UPDATE, opener.sealing)
    for place in range(0, len(sealed.sealed), 41):
        damaged = bytearray(sealed.sealed)
        damaged[place] ^= 0x10
        for wrong in (bytes(damaged), sealed.sealed[:place]):
            with pytest.raises(SealingError):
                opener.open(replace(sealed, sealed=wrong))
    for wrong in (bytes(len(sealed.sealed)), sealed.sealed + b"\0"):
        with pytest.raises(SealingError):
            opener.open(replace(sealed, sealed=wrong))


def test_the_keys_before_still_open_and_no_others() -> None:
    before, now, stranger = (opener_of("x25519", seed) for seed in (1, 2, 3))
    overlap = opener_of("x25519", 2, 1)

    assert overlap.sealing == now.sealing
    for sealing in (before.sealing, now.sealing):
        assert overlap.open(seal(UPDATE, sealing)) == UPDATE
    with pytest.raises(SealingError, match=key_id(stranger.sealing.key)):
        overlap.open(seal(UPDATE, stranger.sealing))
    renamed = replace(seal(UPDATE, stranger.sealing), key=key_id(now.sealing.key))
    with pytest.raises(SealingError, match="does not open"):
        overlap.open(renamed)


def test_suites_may_follow_each_other() -> None:
    overlap = Opener([(suite, private_key(suite)) for suite in reversed(SUITES)])

    assert overlap.sealing.suite == "mlkem768-x25519"
    for suite in SUITES:
        assert overlap.open(seal(UPDATE, opener_of(suite).sealing)) == UPDATE


def test_a_device_in_another_language_needs_only_what_is_documented() -> None:
    """RFC 9180 with the documented suite, info and content, by hand."""
    private = X25519PrivateKey.from_private_bytes(private_key("x25519"))
    info = b"fedmq/v1 update\0demo/0123456789abcdef/press-07/0123456789abcdef/3/2"
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
    sealed = seal(UPDATE, Sealing(suite="x25519", key=private.public_key().public_bytes_raw()))

    assert info_of(UPDATE) == info
    assert decode_content(suite.decrypt(sealed.sealed, private, info=info)) == CONTENT
    mine = suite.encrypt(encode(CONTENT), private.public_key(), info=info)
    assert opener_of("x25519").open(replace(sealed, sealed=mine)) == UPDATE


def test_what_opens_is_checked_like_everything_from_outside() -> None:
    private = X25519PrivateKey.from_private_bytes(private_key("x25519"))
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
    sealed = seal(UPDATE, opener_of("x25519").sealing)
    for content in (b"", b"garbage", encode(UPDATE), encode(replace(CONTENT, metrics={"loss": float("nan")}))):
        wrong = replace(sealed, sealed=suite.encrypt(content, private.public_key(), info=info_of(sealed)))
        with pytest.raises(ProtocolError) as caught:
            opener_of("x25519").open(wrong)
        assert not isinstance(caught.value, SealingError)


def test_a_key_that_is_none_is_refused_by_who_seals() -> None:
    with pytest.raises(SealingError, match="cannot seal"):
        seal(UPDATE, Sealing(suite="x25519", key=bytes(32)))
    with pytest.raises(SealingError, match="cannot seal"):
        seal(UPDATE, Sealing(suite="mlkem768-x25519", key=b"\xff" * 1216))
    with pytest.raises(ValueError, match="1216"):
        Sealing(suite="mlkem768-x25519", key=bytes(32))


def test_an_opener_needs_good_and_different_keys() -> None:
    for keys, words in (
        ([], "no sealing key"),
        ([("x25519", b"short")], "5 bytes"),
        ([("x25519", b"k" * 32)] * 2, "twice"),
    ):
        with pytest.raises(ValueError, match=words):
            Opener(keys)  # type: ignore[arg-type] # what a test may


@given(st.binary(max_size=200))
def test_random_bytes_do_not_open(noise: bytes) -> None:
    sealed = seal(UPDATE, opener_of("x25519").sealing)
    with pytest.raises(ProtocolError):
        opener_of("x25519").open(replace(sealed, sealed=noise))


@pytest.mark.parametrize("suite", SUITES)
def test_a_sealed_report_comes_back_whole_and_shows_nothing(suite: SealingSuite) -> None:
    opener = opener_of(suite)
    wire = encode(seal_report(REPORT, opener.sealing))
    sealed = decode_up(wire)

    assert isinstance(sealed, SealedReport)
    assert opener.open_report(sealed) == REPORT
    assert b"metrics" not in wire


@pytest.mark.parametrize("field", [*MOVES, "survey"])
def test_a_report_moved_to_anything_else_does_not_open(field: str) -> None:
    opener = opener_of("x25519")
    elsewhere = MOVES | {"sequence": 5, "survey": "f" * 16}
    moved = replace(seal_report(REPORT, opener.sealing), **{field: elsewhere[field]})

    with pytest.raises(SealingError, match="does not open"):
        opener.open_report(moved)


def test_updates_and_reports_never_open_as_each_other() -> None:
    opener = opener_of("x25519")
    update, report = seal(UPDATE, opener.sealing), seal_report(REPORT, opener.sealing)
    clear = {name: getattr(update, name) for name in SealedUpdate.__struct_fields__ if name not in {"key", "sealed"}}
    as_report = SealedReport(**clear, survey=report.survey, key=update.key, sealed=update.sealed)
    named = {name: getattr(report, name) for name in clear}
    as_update = SealedUpdate(**named, key=report.key, sealed=report.sealed)

    with pytest.raises(SealingError, match="does not open"):
        opener.open_report(as_report)
    with pytest.raises(SealingError, match="does not open"):
        opener.open(as_update)
