r"""Signatures over manifests and commands: Ed25519, verified on the bytes as they came, before anything reads them.

What is signed is ``b"fedmq/v1 <kind>\0" + body``, so that a command never passes for a manifest. A message carries one
signature, or two while the federation changes its key: the new key's, and the old one's for devices that were away.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal, TypeAlias

from protocol.envelope import Signature, Signed
from protocol.errors import ProtocolError
from protocol.libcrypto import LibCryptoError, library
from protocol.packing import decode_signed, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SignedKind: TypeAlias = Literal["manifest", "command"]
Distrust: TypeAlias = Literal["unsigned", "unknown-key", "bad-signature"]

MAX_SIGNATURES = 2


class SignatureError(ProtocolError):
    """A message that nobody whom we trust has signed. ``code`` is stable, for counting; the text is for people."""

    def __init__(self, code: Distrust, text: str) -> None:
        super().__init__(text)
        self.code: Distrust = code


def key_id(public_key: bytes) -> str:
    """Return the 16 hexadecimal digits that name a public key: the begin of the SHA-256 of its raw bytes."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def signed_bytes(kind: SignedKind, body: bytes) -> bytes:
    """Return what is signed."""
    return b"fedmq/v1 " + kind.encode() + b"\0" + body


class Signer:
    """The federation's signing keys, for who holds them. Nothing here shows a private key."""

    def __init__(self, private_keys: Sequence[bytes], standby: bytes | None = None) -> None:
        """Take the raw private keys, the current one first, and the raw public key that is to come next, if any.

        Raise ``ValueError`` when these are not 1 or 2 different private keys of 32 bytes, and a third key.
        """
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - 9 MB, for who signs

        if not 1 <= len(private_keys) <= MAX_SIGNATURES:
            raise ValueError(f"{len(private_keys)} where 1 or 2 are wanted: the current one, and the one before")
        self._keys = [ed25519.Ed25519PrivateKey.from_private_bytes(key) for key in private_keys]
        own = [key.public_key().public_bytes_raw() for key in self._keys]
        self.public_keys = (*own, *([standby] if standby else []))
        """What devices are told to trust, raw: current, previous, next."""
        if len(set(self.public_keys)) != len(self.public_keys):
            raise ValueError("the same key twice: current, previous and standby signing key must be different ones")
        self._ids = [key_id(public_key) for public_key in own]

    def sign(self, kind: SignedKind, body: bytes) -> bytes:
        """Return the body in its envelope, signed by every key that we hold."""
        text = signed_bytes(kind, body)
        signatures = [
            Signature(key=name, signature=key.sign(text)) for name, key in zip(self._ids, self._keys, strict=True)
        ]
        return encode(Signed(body=body, signatures=signatures))


def verified_body(payload: bytes, kind: SignedKind, trusted: Iterable[bytes]) -> bytes:
    """Return the body of an envelope that one of these (raw, public) keys has signed; raise as ``verified``."""
    return verified(payload, kind, trusted)[0]


def verified(payload: bytes, kind: SignedKind, trusted: Iterable[bytes]) -> tuple[bytes, list[bytes]]:
    """Return the body of an envelope, and which of these (raw, public) keys have signed it: one at least.

    Raise ``SignatureError`` when none has, or when this is no envelope; then nothing of the body was looked at.
    """
    try:
        envelope = decode_signed(payload)
    except ProtocolError as exc:
        raise SignatureError("unsigned", f"the {kind} is not signed ({exc})"[:400]) from exc
    known = {key_id(key): key for key in trusted}
    theirs = [one for one in envelope.signatures if one.key in known]
    if not theirs:
        named = ", ".join(one.key for one in envelope.signatures)
        raise SignatureError("unknown-key", f"the {kind} is signed by {named}; trusted are {', '.join(known)}")
    text = signed_bytes(kind, envelope.body)
    signers = [known[one.key] for one in theirs if _is_by(known[one.key], one.signature, text)]
    if not signers:
        raise SignatureError("bad-signature", f"the signature of the {kind} is wrong")
    return envelope.body, signers


def looks_signed(payload: bytes) -> bool:
    """Return whether this is an envelope, whoever signed it."""
    try:
        decode_signed(payload)
    except ProtocolError:
        return False
    return True


def _is_by(public_key: bytes, signature: bytes, text: bytes) -> bool:
    ours = library()
    if ours is not None:
        try:
            return ours.verify_ed25519(public_key, signature, text)
        except LibCryptoError:
            return False  # what cannot be judged is not believed
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - 9 MB, where Python's own OpenSSL will not do
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - as above

    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public_key).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True
