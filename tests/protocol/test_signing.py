"""Who is believed, byte by byte."""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.messages import MAX_MANIFEST_BYTES
from protocol.packing import decode_signed, encode
from protocol.signing import SignatureError, Signer, key_id, looks_signed, signed_bytes, verified_body
from tests.protocol.samples import COMMAND, MANIFEST

OLD, NEW, NEXT = (Signer([letter * 32]) for letter in (b"o", b"n", b"x"))
BOTH = Signer([b"n" * 32, b"o" * 32])
BODY = encode(MANIFEST)


def refusal(payload: bytes, *trusted: Signer, kind: Any = "manifest") -> str:
    with pytest.raises(SignatureError) as caught:
        verified_body(payload, kind, [signer.public_keys[0] for signer in trusted])
    assert 0 < len(str(caught.value)) < 500
    return caught.value.code


def changed(payload: bytes, **fields: Any) -> bytes:
    packed: bytes = msgpack.packb(msgpack.unpackb(payload) | fields)
    return packed


def signatures(payload: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgpack.unpackb(payload)["signatures"]
    return found


def test_what_a_trusted_key_signed_comes_back() -> None:
    payload = OLD.sign("manifest", BODY)

    assert verified_body(payload, "manifest", NEW.public_keys + OLD.public_keys) == BODY
    assert len(payload) <= len(BODY) + 160


def test_the_bytes_that_are_signed_and_the_name_of_a_key_are_as_documented() -> None:
    public = OLD.public_keys[0]
    envelope = decode_signed(OLD.sign("command", b"abc"))

    assert signed_bytes("command", b"abc") == b"fedmq/v1 command\x00abc"
    assert envelope.signatures[0].key == hashlib.sha256(public).hexdigest()[:16] == key_id(public)
    Ed25519PublicKey.from_public_bytes(public).verify(envelope.signatures[0].signature, b"fedmq/v1 command\x00abc")


def test_an_overlap_is_believed_by_who_knows_either_key() -> None:
    payload = BOTH.sign("manifest", BODY)

    assert [one["key"] for one in signatures(payload)] == [key_id(key) for key in BOTH.public_keys]
    for signer in (OLD, NEW):
        assert verified_body(payload, "manifest", signer.public_keys) == BODY
    assert refusal(payload, NEXT) == "unknown-key"


def test_swapped_signatures_are_wrong_signatures() -> None:
    payload = BOTH.sign("manifest", BODY)
    first, second = signatures(payload)
    swapped = [{**first, "signature": second["signature"]}, {**second, "signature": first["signature"]}]

    assert refusal(changed(payload, signatures=swapped), OLD, NEW) == "bad-signature"


def test_one_right_signature_is_enough_beside_a_wrong_one() -> None:
    payload = BOTH.sign("manifest", BODY)
    first, second = signatures(payload)

    spoiled = changed(payload, signatures=[{**first, "signature": bytes(64)}, second])

    assert verified_body(spoiled, "manifest", OLD.public_keys) == BODY
    assert refusal(spoiled, NEW) == "bad-signature"


def test_a_key_that_only_claims_a_trusted_name_is_refused() -> None:
    forged = signatures(NEXT.sign("manifest", BODY))[0] | {"key": key_id(OLD.public_keys[0])}

    assert refusal(changed(NEXT.sign("manifest", BODY), signatures=[forged]), OLD) == "bad-signature"


def test_a_command_is_no_manifest_and_the_other_way_round() -> None:
    assert refusal(OLD.sign("command", encode(COMMAND)), OLD) == "bad-signature"
    assert refusal(OLD.sign("manifest", BODY), OLD, kind="command") == "bad-signature"


def test_a_plain_message_is_unsigned() -> None:
    assert refusal(BODY, OLD) == "unsigned"
    assert refusal(b"", OLD) == "unsigned"
    assert not looks_signed(BODY)
    assert looks_signed(NEXT.sign("manifest", BODY))


def test_any_changed_byte_of_the_body_is_noticed() -> None:
    payload = OLD.sign("manifest", BODY)
    for place in range(len(BODY)):
        body = bytearray(BODY)
        body[place] ^= 1
        assert refusal(changed(payload, body=bytes(body)), OLD) == "bad-signature"


def test_truncated_anywhere_it_is_refused() -> None:
    payload = OLD.sign("manifest", BODY)
    for length in range(len(payload)):
        assert refusal(payload[:length], OLD) == "unsigned"
    for length in range(0, len(BODY), 7):
        assert refusal(changed(payload, body=BODY[:length]), OLD) == "bad-signature"


def test_more_than_two_signatures_or_none_or_too_many_bytes_are_no_envelope() -> None:
    payload = BOTH.sign("manifest", BODY)
    two = signatures(payload)

    assert refusal(changed(payload, signatures=[*two, two[0]]), OLD) == "unsigned"
    assert refusal(changed(payload, signatures=[]), OLD) == "unsigned"
    assert refusal(changed(payload, signatures=[two[0] | {"signature": bytes(63)}]), OLD) == "unsigned"
    assert refusal(OLD.sign("manifest", bytes(MAX_MANIFEST_BYTES)), OLD) == "unsigned"


@given(st.binary(max_size=400), st.booleans())
def test_random_bytes_are_refused_in_or_out_of_an_envelope(noise: bytes, inside: bool) -> None:
    payload = changed(OLD.sign("manifest", b"body"), body=noise) if inside else noise
    with pytest.raises(ProtocolError):
        verified_body(payload, "manifest", OLD.public_keys)


def test_a_signer_holds_one_or_two_keys_and_announces_the_next() -> None:
    signer = Signer([b"n" * 32, b"o" * 32], standby=NEXT.public_keys[0])

    assert signer.public_keys == (*NEW.public_keys, *OLD.public_keys, *NEXT.public_keys)
    assert len(signatures(signer.sign("command", b""))) == 2
    for keys in ([], [b"1" * 32, b"2" * 32, b"3" * 32]):
        with pytest.raises(ValueError, match="1 or 2 are wanted"):
            Signer(keys)
    with pytest.raises(ValueError, match="same key twice"):
        Signer([b"o" * 32], standby=OLD.public_keys[0])
    assert "o" * 8 not in repr(vars(signer))
