"""Keys in files: what was written is read, and a mistake says which file and what to do, and nothing of a key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from protocol.adapters import key_files
from protocol.adapters.pins import federation_json, read_pins
from protocol.fields import SealingSuite
from protocol.sealing import seal
from protocol.settings import ConfigurationError
from protocol.signing import verified_body
from tests.protocol.samples import UPDATE


def written(path: Path, content: bytes, mode: int = 0o600) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_signing_keys_and_the_next_one_go_through_files(tmp_path: Path) -> None:
    old, new, following = (key_files.new_signing_key() for _ in range(3))
    names = [written(tmp_path / "new.key", new), written(tmp_path / "old.key", old)]
    standby = written(tmp_path / "next.pub", key_files.public_signing_key(following), 0o644)

    signer = key_files.read_signer(names, standby)

    assert signer
    assert signer.public_keys == tuple(key_files.raw_public_signing_key(pem) for pem in (new, old, following))
    assert key_files.raw_public_signing_key(Path(standby).read_bytes()) == signer.public_keys[2]
    pins = read_pins(written(tmp_path / "federation.json", federation_json("demo", signer.public_keys[:1])), "demo")
    assert verified_body(signer.sign("manifest", b"body"), "manifest", pins) == b"body"
    assert key_files.read_signer([]) is None


@pytest.mark.parametrize("suite", ["x25519", "mlkem768-x25519"])
def test_sealing_keys_go_through_files(tmp_path: Path, suite: SealingSuite) -> None:
    names = [written(tmp_path / f"{i}.key", key_files.new_sealing_key(suite)) for i in range(2)]
    both, old = key_files.read_opener(names), key_files.read_opener(names[1:])

    assert both
    assert old
    assert both.sealing.suite == suite
    for opener in (both, old):
        assert both.open(seal(UPDATE, opener.sealing)) == UPDATE
    assert key_files.read_opener([]) is None


def refusal(read: object, *arguments: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(*arguments)  # type: ignore[operator] # each reader has its own arguments
    assert "PRIVATE" not in str(caught.value)
    return str(caught.value)


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    loose = written(tmp_path / "signing.key", key_files.new_signing_key(), 0o640)

    assert f"chmod 600 {loose}" in refusal(key_files.read_signer, [loose])


def test_files_of_the_wrong_kind_are_named(tmp_path: Path) -> None:
    signing, sealing = key_files.new_signing_key(), key_files.new_sealing_key("mlkem768-x25519")
    half = sealing.index(b"-----BEGIN", 1)
    swapped = sealing[half:] + sealing[:half]
    elliptic = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = load_pem_private_key(signing, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    path = tmp_path / "a.key"
    for content, words in (
        (sealing, "not one Ed25519 private key"),
        (signing * 2, "not one Ed25519 private key"),
        (elliptic, "not one Ed25519 private key"),
        (b"no key", "no PEM file"),
        (locked, "is encrypted"),
        (signing.replace(b"M", b"!", 1), "no private key"),
    ):
        found = refusal(key_files.read_signer, [written(path, content)])
        assert str(path) in found
        assert words in found
    for content in (signing, sealing * 2, elliptic, swapped):
        assert str(path) in refusal(key_files.read_opener, [written(path, content)])
    assert "there" in refusal(key_files.read_signer, [str(tmp_path / "there")])
    assert "same key twice" in refusal(key_files.read_signer, [written(path, signing)] * 2)
    private = written(tmp_path / "next.key", key_files.new_signing_key())
    assert "public half" in refusal(key_files.read_signer, [str(path)], private)


def test_pins_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    path = tmp_path / "federation.json"
    good = json.loads(federation_json("demo", [b"k" * 32]))
    for content, words in (
        (good | {"federation": "other"}, "of federation 'other', this device is in 'demo'"),
        (good | {"signing_keys": []}, "signing_keys"),
        (good | {"signing_keys": ["AAAA"]}, "32 bytes"),
        (good | {"signing_keys": good["signing_keys"] * 2}, "different"),
        (good | {"signing_keys": ["%%%"]}, "provision"),
        (good | {"colour": "red"}, "colour"),
        ([], "provision"),
    ):
        assert words in refusal(read_pins, written(path, json.dumps(content).encode(), 0o644), "demo")
    assert "provision" in refusal(read_pins, written(path, b"\xff{", 0o644), "demo")
    assert str(tmp_path / "gone") in refusal(read_pins, str(tmp_path / "gone"), "demo")
    assert read_pins("", "demo") == ()
