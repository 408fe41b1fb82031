"""Sealed updates: HPKE (RFC 9180, base mode) to the aggregator's key, so that brokers carry what they cannot read.

KEM: DHKEM(X25519, HKDF-SHA256), or the hybrid of ML-KEM-768 and X25519 (X-Wing) against those who record now and
compute later. KDF: HKDF-SHA256. AEAD: ChaCha20-Poly1305, because most small boards have no AES instructions. What stays
readable is bound to what is sealed through HPKE's ``info``: an update that is moved to another device, incarnation,
sequence, base version, epoch or federation does not open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import structs

from protocol.errors import ProtocolError
from protocol.fields import SealingSuite
from protocol.hpke import seal as seal_classic
from protocol.libcrypto import library
from protocol.messages import ModelUpdate, SealedUpdate, Sealing, UpdateContent
from protocol.packing import decode_content, encode
from protocol.signing import key_id
from protocol.surveys import Report, SealedReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.hpke import Suite

PRIVATE_KEY_BYTES: dict[SealingSuite, int] = {"x25519": 32, "mlkem768-x25519": 64 + 32}
"""Length of a raw private key: X25519's, for the hybrid after ML-KEM-768's seed (d and z of FIPS 203)."""

_MLKEM_SEED_BYTES = 64
_MLKEM_PUBLIC_BYTES = 1184

_HpkeKey: TypeAlias = Any  # X25519 or hybrid, private or public: the library has no common name for them


class SealingError(ProtocolError):
    """An update that cannot be sealed or opened; the text says what to look at, and nothing of a key."""


def info_of(update: ModelUpdate | SealedUpdate | Report | SealedReport) -> bytes:
    """Return HPKE's ``info``: whose update or report this is. None of the parts can hold a slash."""
    parts = [
        update.federation,
        update.epoch,
        update.device_id,
        update.incarnation,
        str(update.sequence),
        str(update.base_version),
    ]
    if isinstance(update, Report | SealedReport):
        return b"fedmq/v1 report\0" + "/".join([*parts, update.survey]).encode()
    return b"fedmq/v1 update\0" + "/".join(parts).encode()


def seal(update: ModelUpdate, sealing: Sealing) -> SealedUpdate:
    """Return the update sealed to this key, different each time; raise ``SealingError`` when the key is no good."""
    content = UpdateContent(**{name: getattr(update, name) for name in UpdateContent.__struct_fields__})
    sealed = _sealed(sealing, encode(content), info_of(update))
    return SealedUpdate(
        federation=update.federation,
        epoch=update.epoch,
        device_id=update.device_id,
        incarnation=update.incarnation,
        sequence=update.sequence,
        base_version=update.base_version,
        key=key_id(sealing.key),
        sealed=sealed,
    )


def seal_report(report: Report, sealing: Sealing) -> SealedReport:
    """Return the report sealed to this key; raise ``SealingError`` when the key is no good."""
    clear = structs.asdict(report)
    content = clear.pop("content")
    return SealedReport(**clear, key=key_id(sealing.key), sealed=_sealed(sealing, content, info_of(report)))


class Opener:
    """The aggregator's sealing keys. Updates are sealed to the first; the others still open what is under way."""

    def __init__(self, keys: Sequence[tuple[SealingSuite, bytes]]) -> None:
        """Take suites and raw private keys; raise ``ValueError`` when there is none, one is malformed, or one twice."""
        made = [(suite, _private_key(suite, raw)) for suite, raw in keys]
        if not made:
            raise ValueError("no sealing key")
        announced = [Sealing(suite=suite, key=_public_bytes(suite, raw)) for suite, raw in keys]
        self.sealing = announced[0]
        """What devices are told to seal with."""
        self._keys = {key_id(one.key): key for one, key in zip(announced, made, strict=True)}
        if len(self._keys) != len(made):
            raise ValueError("the same sealing key twice")

    def open(self, sealed: SealedUpdate) -> ModelUpdate:
        """Return the update; raise ``SealingError`` when it was not sealed to us, or not as what it says it is.

        Raise ``ProtocolError`` when it opens, and what is inside is malformed.
        """
        content = decode_content(self._decrypted(sealed))
        clear = structs.asdict(sealed)
        del clear["key"], clear["sealed"]
        return ModelUpdate(**clear, **structs.asdict(content))

    def open_report(self, sealed: SealedReport) -> Report:
        """Return the report; raise ``SealingError`` as ``open`` does."""
        clear = structs.asdict(sealed)
        del clear["key"], clear["sealed"]
        return Report(**clear, content=self._decrypted(sealed))

    def _decrypted(self, sealed: SealedUpdate | SealedReport) -> bytes:
        if sealed.key not in self._keys:
            raise SealingError(f"sealed to key {sealed.key}, which is not ours; ours are {', '.join(self._keys)}")
        suite, key = self._keys[sealed.key]
        try:
            return _hpke(suite).decrypt(sealed.sealed, key, info=info_of(sealed))
        except Exception as exc:
            # The library's exceptions differ by suite and fault; none of them says more than that it does not open.
            raise SealingError("it does not open: damaged, or sealed as another message than this one") from exc


def _sealed(sealing: Sealing, plaintext: bytes, info: bytes) -> bytes:
    try:
        return _encrypted(sealing, plaintext, info)
    except Exception as exc:
        raise SealingError(f"cannot seal with suite {sealing.suite}: {type(exc).__name__} {exc}".rstrip()) from exc


def _encrypted(sealing: Sealing, plaintext: bytes, info: bytes) -> bytes:
    ours = library() if sealing.suite == "x25519" else None
    if ours is not None:
        return seal_classic(ours, sealing.key, plaintext, info)
    # The hybrid needs ML-KEM, which OpenSSL has since 3.5.
    return _hpke(sealing.suite).encrypt(plaintext, _public_key(sealing), info=info)


def _hpke(suite: SealingSuite) -> Suite:
    from cryptography.hazmat.primitives import hpke  # noqa: PLC0415 - megabytes that only who seals pays for

    kem = hpke.KEM.X25519 if suite == "x25519" else hpke.KEM.MLKEM768_X25519
    return hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


def _public_key(sealing: Sealing) -> _HpkeKey:
    from cryptography.hazmat.primitives import hpke  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519  # noqa: PLC0415 - as above

    if sealing.suite == "x25519":
        return x25519.X25519PublicKey.from_public_bytes(sealing.key)
    return hpke.MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(sealing.key[:_MLKEM_PUBLIC_BYTES]),
        x25519.X25519PublicKey.from_public_bytes(sealing.key[_MLKEM_PUBLIC_BYTES:]),
    )


def _private_key(suite: SealingSuite, raw: bytes) -> _HpkeKey:
    from cryptography.hazmat.primitives import hpke  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519  # noqa: PLC0415 - as above

    if len(raw) != PRIVATE_KEY_BYTES[suite]:
        raise ValueError(f"a private key of {len(raw)} bytes where {suite} has {PRIVATE_KEY_BYTES[suite]}")
    if suite == "x25519":
        return x25519.X25519PrivateKey.from_private_bytes(raw)
    return hpke.MLKEM768X25519PrivateKey(
        mlkem.MLKEM768PrivateKey.from_seed_bytes(raw[:_MLKEM_SEED_BYTES]),
        x25519.X25519PrivateKey.from_private_bytes(raw[_MLKEM_SEED_BYTES:]),
    )


def _public_bytes(suite: SealingSuite, raw: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519  # noqa: PLC0415 - as above

    if suite == "x25519":
        return x25519.X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
    return (
        mlkem.MLKEM768PrivateKey.from_seed_bytes(raw[:_MLKEM_SEED_BYTES]).public_key().public_bytes_raw()
        + x25519.X25519PrivateKey.from_private_bytes(raw[_MLKEM_SEED_BYTES:]).public_key().public_bytes_raw()
    )
