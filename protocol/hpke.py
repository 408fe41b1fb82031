"""HPKE (RFC 9180) as far as a device needs it: base mode, one message, the sender's side.

DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305, on Python's own OpenSSL. Variables have the RFC's names.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING

from protocol.libcrypto import KEY_BYTES, NONCE_BYTES

if TYPE_CHECKING:
    from protocol.libcrypto import LibCrypto

_KEM_ID = b"\x00\x20"
_KEM_SUITE = b"KEM" + _KEM_ID
_SUITE = b"HPKE" + _KEM_ID + b"\x00\x01" + b"\x00\x03"
_MODE_BASE = b"\x00"


def seal(library: LibCrypto, public_key: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Return the encapsulated key and, behind it, what is sealed: another text each time.

    Raise ``LibCryptoError`` when the public key is no good.
    """
    return seal_with(library, secrets.token_bytes(KEY_BYTES), public_key, plaintext, info=info)


def seal_with(
    library: LibCrypto, ephemeral: bytes, public_key: bytes, plaintext: bytes, *, info: bytes, associated: bytes = b""
) -> bytes:
    """Seal with this private key, which must be fresh: apart from ``seal``, only test vectors bring their own."""
    enc, dh = library.x25519(ephemeral, public_key)
    eae_prk = _labeled_extract(_KEM_SUITE, b"", b"eae_prk", dh)
    shared_secret = _labeled_expand(_KEM_SUITE, eae_prk, b"shared_secret", enc + public_key, KEY_BYTES)
    psk_id_hash = _labeled_extract(_SUITE, b"", b"psk_id_hash", b"")
    info_hash = _labeled_extract(_SUITE, b"", b"info_hash", info)
    context = _MODE_BASE + psk_id_hash + info_hash
    secret = _labeled_extract(_SUITE, shared_secret, b"secret", b"")
    key = _labeled_expand(_SUITE, secret, b"key", context, KEY_BYTES)
    # The first message's nonce is the base nonce, and there is no second message.
    nonce = _labeled_expand(_SUITE, secret, b"base_nonce", context, NONCE_BYTES)
    return enc + library.seal_chacha20_poly1305(key, nonce, plaintext, associated)


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, "sha256")


def _labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled_info = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    # HKDF-Expand (RFC 5869) in one block: nothing here is longer than a SHA-256.
    return hmac.digest(prk, labeled_info + b"\x01", "sha256")[:length]
