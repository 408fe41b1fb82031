"""The federation's own keys: Ed25519 to sign with, X25519 (or the hybrid with ML-KEM-768) to seal to. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from fedmq.provision.records import FederationKey, KeyPlace, Suite, key_at
from protocol.adapters import key_files, pins
from protocol.signing import key_id

if TYPE_CHECKING:
    from collections.abc import Sequence


def new_signing_key(place: KeyPlace, now: int) -> FederationKey:
    """Return a new Ed25519 key."""
    private = key_files.new_signing_key()
    public = key_files.raw_public_signing_key(private)
    return FederationKey(kind="signing", id=key_id(public), place=place, private=private, public=public, made=now)


def new_sealing_key(suite: Suite, now: int) -> FederationKey:
    """Return a new key of the suite; the hybrid's file holds two PEM blocks, ML-KEM-768's first."""
    classic = x25519.X25519PrivateKey.generate()
    private, public = _pem(classic), classic.public_key().public_bytes_raw()
    if suite == "mlkem768-x25519":
        quantum = mlkem.MLKEM768PrivateKey.generate()
        private, public = _pem(quantum) + private, quantum.public_key().public_bytes_raw() + public
    return FederationKey(kind="sealing", id=key_id(public), place="current", private=private, public=public, made=now)


def public_pem(key: FederationKey) -> bytes:
    """Return the public half of a signing key as PEM."""
    return key_files.public_signing_key(key.private)


def federation_json(federation: str, signing: Sequence[FederationKey]) -> bytes:
    """Return what devices pin: the federation's name, and the public keys that sign now, next, and still.

    Still: an aggregator that has not been started again since a rotation signs with the key before alone.
    """
    pinned = [key for place in ("current", "next", "previous") if (key := key_at(signing, place)) is not None]
    return pins.federation_json(federation, [key.public for key in pinned])


def _pem(key: x25519.X25519PrivateKey | mlkem.MLKEM768PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
