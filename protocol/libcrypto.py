"""Three operations of the OpenSSL that Python's own ``hashlib`` and ``ssl`` have loaded already, through ``ctypes``.

For devices: the ``cryptography`` package brings an OpenSSL of its own, 10 MB more for a board. Only what a device does
is here, it holds no long-lived private key, and every answer but a plain yes is a no
(docs/decisions/0072-one-openssl-on-the-board.md). Who has keys to keep (the aggregator, ``fedmq provision``) uses
``cryptography``, and so does a device whose Python has no OpenSSL 3 that can be reached.

Only documented functions of libcrypto's EVP interface are called; nothing of it depends on the layout of a structure.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable, Iterator

KEY_BYTES = 32
"""Of Ed25519 and X25519, public and private, and of ChaCha20-Poly1305."""
NONCE_BYTES = 12
TAG_BYTES = 16
SIGNATURE_BYTES = 64

_OPENSSL_3 = 0x30000000
"""Of ``OpenSSL_version_num``; LibreSSL says 0x20000000, whatever it can do."""

# Numbers that belong to OpenSSL's interface: NID_X25519 and NID_ED25519 (obj_mac.h), EVP_CTRL_AEAD_GET_TAG (evp.h).
_X25519, _ED25519, _GET_TAG = 1034, 1087, 0x10

_MAX_BYTES = 2**31 - 1
"""EVP_EncryptUpdate takes an ``int``."""


class LibCryptoError(Exception):
    """The library did not do what it was asked to; the text names the function, and nothing of a key."""


@functools.cache
def library() -> LibCrypto | None:
    """Return the library when it is an OpenSSL 3, and answers the published test vectors; None otherwise."""
    try:
        import _hashlib  # noqa: PLC0415 - built without OpenSSL, Python has none

        # Opening it again by name gives what is loaded already, and looks for symbols in what it was linked to.
        found = LibCrypto(_hashlib.__file__)
        return found if _answers_rightly(found) else None
    except (ImportError, AttributeError, OSError, LibCryptoError):
        return None


class LibCrypto:
    """The operations. Any thread may call any of them."""

    def __init__(self, path: str) -> None:
        """Open the library; raise ``OSError``, ``AttributeError`` or ``LibCryptoError`` when it is not OpenSSL 3."""
        import ctypes  # noqa: PLC0415 - half a megabyte that an idle device spares

        self._ctypes = ctypes
        handle = ctypes.CDLL(path)
        pointer, number, size, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p
        sizes, numbers = ctypes.POINTER(size), ctypes.POINTER(number)

        def function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:  # noqa: ANN401 - types of C
            found = getattr(handle, name)
            found.restype, found.argtypes = result, arguments
            return found  # type: ignore[no-any-return]  # of ctypes

        if function("OpenSSL_version_num", ctypes.c_ulong)() < _OPENSSL_3:
            raise LibCryptoError("not OpenSSL 3")
        self._clear_errors = function("ERR_clear_error", None)
        self._new_public = function("EVP_PKEY_new_raw_public_key", pointer, number, pointer, text, size)
        self._new_private = function("EVP_PKEY_new_raw_private_key", pointer, number, pointer, text, size)
        self._public_of = function("EVP_PKEY_get_raw_public_key", number, pointer, pointer, sizes)
        self._free_key = function("EVP_PKEY_free", None, pointer)
        self._new_digest = function("EVP_MD_CTX_new", pointer)
        self._free_digest = function("EVP_MD_CTX_free", None, pointer)
        self._verify_init = function("EVP_DigestVerifyInit", number, *[pointer] * 5)
        self._verify = function("EVP_DigestVerify", number, pointer, text, size, text, size)
        self._new_exchange = function("EVP_PKEY_CTX_new", pointer, pointer, pointer)
        self._free_exchange = function("EVP_PKEY_CTX_free", None, pointer)
        self._derive_init = function("EVP_PKEY_derive_init", number, pointer)
        self._derive_peer = function("EVP_PKEY_derive_set_peer", number, pointer, pointer)
        self._derive = function("EVP_PKEY_derive", number, pointer, pointer, sizes)
        self._chacha = function("EVP_chacha20_poly1305", pointer)
        self._new_cipher = function("EVP_CIPHER_CTX_new", pointer)
        self._free_cipher = function("EVP_CIPHER_CTX_free", None, pointer)
        self._encrypt_init = function("EVP_EncryptInit_ex", number, pointer, pointer, pointer, text, text)
        self._encrypt = function("EVP_EncryptUpdate", number, pointer, pointer, numbers, text, number)
        self._encrypt_final = function("EVP_EncryptFinal_ex", number, pointer, pointer, numbers)
        self._control = function("EVP_CIPHER_CTX_ctrl", number, pointer, number, number, pointer)

    def verify_ed25519(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        """Return whether the signature over the message is this key's (RFC 8032, PureEdDSA).

        Raise ``LibCryptoError`` when the key cannot be one, or the library cannot judge.
        """
        if len(public_key) != KEY_BYTES:
            raise LibCryptoError(f"a public key of {len(public_key)} bytes")
        if len(signature) != SIGNATURE_BYTES:
            return False
        with (
            self._owned(self._new_public(_ED25519, None, public_key, KEY_BYTES), self._free_key) as key,
            self._owned(self._new_digest(), self._free_digest) as context,
        ):
            self._done(self._verify_init(context, None, None, None, key), "EVP_DigestVerifyInit")
            # 0: it is not; below 0: it could not be judged. Only 1 is a yes.
            return bool(self._verify(context, signature, SIGNATURE_BYTES, message, len(message)) == 1)

    def x25519(self, private_key: bytes, public_key: bytes) -> tuple[bytes, bytes]:
        """Return our public key, and the secret shared with the other one (RFC 7748).

        Raise ``LibCryptoError`` when the other key is of small order: the secret would be no secret (all zeros).
        """
        if len(private_key) != KEY_BYTES or len(public_key) != KEY_BYTES:
            raise LibCryptoError(f"X25519 keys of {len(private_key)} and {len(public_key)} bytes")
        with (
            self._owned(self._new_private(_X25519, None, private_key, KEY_BYTES), self._free_key) as ours,
            self._owned(self._new_public(_X25519, None, public_key, KEY_BYTES), self._free_key) as theirs,
            self._owned(self._new_exchange(ours, None), self._free_exchange) as context,
        ):
            self._done(self._derive_init(context), "EVP_PKEY_derive_init")
            self._done(self._derive_peer(context, theirs), "EVP_PKEY_derive_set_peer")
            shared = self._raw(lambda out, length: self._derive(context, out, length), "EVP_PKEY_derive")
            if not any(shared):  # OpenSSL refuses this by itself; RFC 9180 (7.1.4) wants to be sure
                raise LibCryptoError("a public key of small order")
            own = self._raw(lambda out, length: self._public_of(ours, out, length), "EVP_PKEY_get_raw_public_key")
            return own, shared

    def seal_chacha20_poly1305(self, key: bytes, nonce: bytes, plaintext: bytes, associated: bytes = b"") -> bytes:
        """Return ciphertext and tag (RFC 8439). A key and a nonce are used together once, never again."""
        if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES or len(plaintext) > _MAX_BYTES:
            raise LibCryptoError(f"{len(plaintext)} bytes, with a key of {len(key)} and a nonce of {len(nonce)}")
        with self._owned(self._new_cipher(), self._free_cipher) as context:
            written = self._ctypes.c_int(0)
            self._done(self._encrypt_init(context, self._chacha(), None, key, nonce), "EVP_EncryptInit_ex")
            if associated:
                done = self._encrypt(context, None, written, associated, len(associated))
                self._done(done, "EVP_EncryptUpdate")
            sealed = self._ctypes.create_string_buffer(len(plaintext) + TAG_BYTES)
            start = self._ctypes.addressof(sealed)
            if plaintext:
                self._done(self._encrypt(context, start, written, plaintext, len(plaintext)), "EVP_EncryptUpdate")
                if written.value != len(plaintext):
                    raise LibCryptoError("EVP_EncryptUpdate: not all of it")
            end = start + len(plaintext)
            self._done(self._encrypt_final(context, end, written), "EVP_EncryptFinal_ex")
            self._done(self._control(context, _GET_TAG, TAG_BYTES, end), "EVP_CIPHER_CTX_ctrl")
            return sealed.raw

    def _raw(self, fill: Callable[[ctypes.Array[ctypes.c_char], ctypes.c_size_t], int], name: str) -> bytes:
        out = self._ctypes.create_string_buffer(KEY_BYTES)
        length = self._ctypes.c_size_t(KEY_BYTES)
        self._done(fill(out, length), name)
        if length.value != KEY_BYTES:
            raise LibCryptoError(f"{name}: {length.value} bytes")
        return out.raw

    @contextmanager
    def _owned(self, made: int | None, free: Callable[[int], None]) -> Iterator[int]:
        try:
            if not made:
                raise LibCryptoError("out of memory, or no key")
            yield made
        finally:
            if made:
                free(made)
            # What a failure leaves in this thread's queue would be taken for a failure of the next TLS record.
            self._clear_errors()

    @staticmethod
    def _done(code: int, name: str) -> None:
        if code != 1:
            raise LibCryptoError(f"{name} failed")


# Published test vectors: RFC 8032 (7.1, test 2), RFC 7748 (6.1), RFC 9180 (A.2.1.1, the sequence number 0).
_SIGNER = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
_ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
_ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
_BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
_SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
_AEAD_KEY = bytes.fromhex("ad2744de8e17f4ebba575b3f5f5a8fa1f69c2a07f6e7500bc60ca6e3e3ec1c91")
_AEAD_NONCE = bytes.fromhex("5c4d98150661b848853b547f")
_AEAD_SEALED = bytes.fromhex(
    "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"
)


def _answers_rightly(found: LibCrypto) -> bool:
    """Return whether the published vectors come out: a library that we misunderstand is not used."""
    return (
        found.verify_ed25519(_SIGNER, _SIGNATURE, b"\x72")
        and not found.verify_ed25519(_SIGNER, _SIGNATURE, b"\x73")
        and found.x25519(_ALICE, _BOB_PUBLIC) == (_ALICE_PUBLIC, _SHARED)
        and found.seal_chacha20_poly1305(_AEAD_KEY, _AEAD_NONCE, b"Beauty is truth, truth beauty", b"Count-0")
        == _AEAD_SEALED
    )
