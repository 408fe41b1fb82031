"""Python's own OpenSSL does what ``cryptography`` does and the RFCs say, and says no to everything else."""

from __future__ import annotations

import _hashlib
import ctypes
import ssl
import subprocess
import sys
import threading

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import hpke, libcrypto
from protocol.libcrypto import LibCrypto, LibCryptoError, library
from protocol.messages import Sealing
from protocol.sealing import Opener, SealingError, seal
from protocol.signing import SignatureError, Signer, verified_body
from tests.protocol.samples import UPDATE

FOUND = library()
assert FOUND is not None, "this Python has no OpenSSL 3 that can be reached: its devices would take cryptography's"
OURS: LibCrypto = FOUND
KEYS = st.binary(min_size=32, max_size=32)


def h(text: str) -> bytes:
    return bytes.fromhex(text)


RFC_8032 = [  # section 7.1: secret key, public key, message, signature
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
]

# RFC 9180, A.2.1: base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305, sequence number 0.
HPKE_EPHEMERAL = h("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600")
HPKE_PUBLIC = h("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a")
HPKE_INFO = h("4f6465206f6e2061204772656369616e2055726e")
HPKE_ENC = h("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a")
HPKE_SEALED = h("1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28")

SMALL_ORDER = [  # of Curve25519, as listed at https://cr.yp.to/ecdh.html
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


# -- what the RFCs say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_ed25519_as_published(secret: str, public: str, message: str, signature: str) -> None:
    assert Ed25519PrivateKey.from_private_bytes(h(secret)).public_key().public_bytes_raw() == h(public)
    assert OURS.verify_ed25519(h(public), h(signature), h(message))
    assert not OURS.verify_ed25519(h(public), h(signature), h(message) + b"\0")


def test_hpke_as_published() -> None:
    text = b"Beauty is truth, truth beauty"
    sealed = hpke.seal_with(OURS, HPKE_EPHEMERAL, HPKE_PUBLIC, text, info=HPKE_INFO, associated=b"Count-0")
    assert sealed == HPKE_ENC + HPKE_SEALED


# -- what cryptography says ------------------------------------------------------------------------------------------


@given(KEYS, st.binary(max_size=300), st.integers(0, 64 * 8 - 1))
def test_a_signature_is_believed_and_none_of_its_bits_can_change(secret: bytes, text: bytes, bit: int) -> None:
    key = Ed25519PrivateKey.from_private_bytes(secret)
    public, signature = key.public_key().public_bytes_raw(), key.sign(text)
    spoiled = bytearray(signature)
    spoiled[bit // 8] ^= 1 << bit % 8

    assert OURS.verify_ed25519(public, signature, text)
    assert not OURS.verify_ed25519(public, bytes(spoiled), text)


@given(KEYS, st.binary(min_size=64, max_size=64), st.binary(max_size=50))
@example(bytes(32), bytes(64), bytes(3))
def test_noise_as_key_and_signature_gets_the_same_verdict(public: bytes, signature: bytes, text: bytes) -> None:
    """Hardly ever a yes: the example's key is a point of order 4, which nobody has pinned or signed for."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except InvalidSignature:
        assert not OURS.verify_ed25519(public, signature, text)
    else:
        assert OURS.verify_ed25519(public, signature, text)


@given(KEYS, KEYS)
def test_x25519_is_the_same(one: bytes, other: bytes) -> None:
    ours, theirs = X25519PrivateKey.from_private_bytes(one), X25519PrivateKey.from_private_bytes(other)
    public = theirs.public_key().public_bytes_raw()

    assert OURS.x25519(one, public) == (
        ours.public_key().public_bytes_raw(),
        ours.exchange(X25519PublicKey.from_public_bytes(public)),
    )


@given(KEYS, st.binary(min_size=12, max_size=12), st.binary(max_size=200), st.binary(max_size=40))
def test_chacha20_poly1305_is_the_same(key: bytes, nonce: bytes, text: bytes, more: bytes) -> None:
    assert OURS.seal_chacha20_poly1305(key, nonce, text, more) == ChaCha20Poly1305(key).encrypt(nonce, text, more)


# -- no is the answer to everything else -----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_of_another_length_is_none(length: int) -> None:
    assert not OURS.verify_ed25519(h(RFC_8032[0][1]), bytes(length), b"")


def test_an_order_added_to_a_signature_makes_another_signature_that_is_none() -> None:
    """Ed25519's S has one form only (RFC 8032, 5.1.7): a second one would let anybody make a second valid message."""
    order = 2**252 + 27742317777372353535851937790883648493
    signature = h(RFC_8032[1][3])
    again = int.from_bytes(signature[32:], "little") + order
    assert not OURS.verify_ed25519(h(RFC_8032[1][1]), signature[:32] + again.to_bytes(32, "little"), b"\x72")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(LibCryptoError):
        OURS.verify_ed25519(bytes(length), bytes(64), b"")
    with pytest.raises(LibCryptoError):
        OURS.x25519(bytes(length), HPKE_PUBLIC)
    with pytest.raises(LibCryptoError):
        OURS.x25519(HPKE_EPHEMERAL, bytes(length))
    with pytest.raises(LibCryptoError):
        OURS.seal_chacha20_poly1305(bytes(length), bytes(12), b"")
    with pytest.raises(LibCryptoError):
        OURS.seal_chacha20_poly1305(bytes(32), bytes(length), b"")


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_nothing_is_sealed_to_a_key_that_makes_no_secret(point: str) -> None:
    with pytest.raises(LibCryptoError):
        hpke.seal(OURS, h(point), b"text", b"info")
    with pytest.raises(SealingError):
        seal(UPDATE, Sealing(suite="x25519", key=h(point)))


def test_a_refusal_leaves_nothing_behind_for_the_next_who_asks_openssl() -> None:
    """Failures stay in a queue of the thread, where ``ssl`` would find them and take them for its own."""
    peek = ctypes.CDLL(_hashlib.__file__).ERR_peek_error
    peek.restype = ctypes.c_ulong
    for _ in range(3):
        assert not OURS.verify_ed25519(h(RFC_8032[0][1]), bytes(64), b"")
        assert not OURS.verify_ed25519(b"\xff" * 32, b"\xff" * 64, b"")
        with pytest.raises(LibCryptoError):
            OURS.x25519(HPKE_EPHEMERAL, bytes(32))
        assert peek() == 0
    ssl.create_default_context()


def test_threads_do_not_disturb_each_other() -> None:
    faults: list[bool] = []

    def work(right: bool) -> None:
        secret, public, message, signature = (h(text) for text in RFC_8032[1])
        for _ in range(300):
            faults.append(OURS.verify_ed25519(public, signature if right else bytes(64), message) != right)
            faults.append(OURS.x25519(secret, HPKE_PUBLIC)[1] != X25519PrivateKey.from_private_bytes(secret).exchange(
                X25519PublicKey.from_public_bytes(HPKE_PUBLIC)
            ))  # fmt: skip

    threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(faults) == 4 * 300 * 2
    assert not any(faults)


# -- which library is used -------------------------------------------------------------------------------------------


@pytest.fixture(params=["ours", "cryptography"])
def _either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "cryptography":
        monkeypatch.setattr("protocol.signing.library", lambda: None)
        monkeypatch.setattr("protocol.sealing.library", lambda: None)


@pytest.mark.usefixtures("_either")
def test_both_ways_agree_on_what_is_believed_and_what_opens() -> None:
    signer, opener = Signer([b"k" * 32]), Opener([("x25519", b"s" * 32)])
    payload = signer.sign("manifest", b"body")

    assert verified_body(payload, "manifest", signer.public_keys) == b"body"
    with pytest.raises(SignatureError):
        verified_body(payload, "command", signer.public_keys)
    assert opener.open(seal(UPDATE, opener.sealing)) == UPDATE


@pytest.mark.parametrize("wrong", ["verify_ed25519", "x25519", "seal_chacha20_poly1305"])
def test_a_library_that_answers_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setattr(LibCrypto, wrong, lambda *_: True)
    assert libcrypto.library.__wrapped__() is None


def test_a_library_that_is_no_openssl_3_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttributeError):
        LibCrypto("libc.so.6")
    with pytest.raises(OSError, match="nowhere"):
        LibCrypto("/nowhere/lib.so")
    monkeypatch.setattr(libcrypto, "_OPENSSL_3", 0xF0000000)
    assert libcrypto.library.__wrapped__() is None


def test_it_is_the_library_that_hashlib_has_loaded_and_no_other() -> None:
    program = """
import hashlib
hashlib.sha256(b"")
def loaded():
    return {line.split()[-1] for line in open("/proc/self/maps") if "libcrypto" in line or "_rust" in line}
before = loaded()
from protocol.libcrypto import library
assert library() is not None and before
print(loaded() == before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
