"""Files of signing and sealing keys: PEM, PKCS#8, not encrypted. For who holds them: this imports cryptography.

Every fault is a ``ConfigurationError`` that names the file and says what to do; what is in a file never gets into it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from protocol.adapters.secret_files import read_private, read_public
from protocol.fields import SealingSuite
from protocol.sealing import Opener
from protocol.settings import ConfigurationError
from protocol.signing import Signer

if TYPE_CHECKING:
    from collections.abc import Sequence

_PrivateKey: TypeAlias = Ed25519PrivateKey | MLKEM768PrivateKey | X25519PrivateKey

_BLOCK = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)
_SIGNING = "signing key"
_STANDBY = "standby signing key"
_SEALING = "sealing key"


# -- making them ---------------------------------------------------------------------------------------------------


def new_signing_key() -> bytes:
    """Return a fresh Ed25519 private key as PEM."""
    return _pem(Ed25519PrivateKey.generate())


def public_signing_key(private_pem: bytes) -> bytes:
    """Return the public half of a signing key as PEM: what ``standby_signing_key`` names."""
    key = _signing_key(private_pem, f"{_SIGNING}:")
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def new_sealing_key(suite: SealingSuite) -> bytes:
    """Return a fresh private key of the suite as PEM; of the hybrid, ML-KEM-768 and X25519 one after the other."""
    x25519 = _pem(X25519PrivateKey.generate())
    return x25519 if suite == "x25519" else _pem(MLKEM768PrivateKey.generate()) + x25519


def raw_public_signing_key(pem: bytes) -> bytes:
    """Return the 32 raw bytes of a signing key's public half, from the PEM of either half."""
    if b"PRIVATE" in pem:
        return _signing_key(pem, f"{_SIGNING}:").public_key().public_bytes_raw()
    return _public_signing_key(pem, f"{_SIGNING}:")


# -- reading them --------------------------------------------------------------------------------------------------


def read_signer(names: Sequence[str], standby: str = "") -> Signer | None:
    """Return the signer with the keys in these files, the current one first; None for no files.

    ``standby`` names the file of the public key that is to come next, or is empty.
    """
    if not names:
        return None
    keys = [_signing_key(read_private(name, _SIGNING), f"{_SIGNING} {name}:").private_bytes_raw() for name in names]
    following = _public_signing_key(read_public(standby, _STANDBY), f"{_STANDBY} {standby}:") if standby else None
    try:
        return Signer(keys, following)
    except ValueError as exc:
        raise ConfigurationError(f"signing keys: {exc}") from exc


def read_opener(names: Sequence[str]) -> Opener | None:
    """Return the opener with the keys in these files, the current one first; None for no files."""
    if not names:
        return None
    keys = [_sealing_key(read_private(name, _SEALING), f"{_SEALING} {name}:") for name in names]
    try:
        return Opener(keys)
    except ValueError as exc:
        raise ConfigurationError(f"sealing keys: {exc}") from exc


# -- what is in them -----------------------------------------------------------------------------------------------


def _pem(key: _PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _signing_key(pem: bytes, what: str) -> Ed25519PrivateKey:
    match _private_keys(pem, what):
        case [Ed25519PrivateKey() as key]:
            return key
        case _:
            raise ConfigurationError(f"{what} not one Ed25519 private key")


def _sealing_key(pem: bytes, what: str) -> tuple[SealingSuite, bytes]:
    keys = _private_keys(pem, what)
    match keys:
        case [X25519PrivateKey() as key]:
            return "x25519", key.private_bytes_raw()
        case [MLKEM768PrivateKey() as first, X25519PrivateKey() as second]:
            return "mlkem768-x25519", first.private_bytes_raw() + second.private_bytes_raw()
        case _:
            raise ConfigurationError(f"{what} neither one X25519 private key, nor ML-KEM-768 followed by X25519")


def _private_keys(pem: bytes, what: str) -> list[object]:
    blocks = _BLOCK.findall(pem)
    if not blocks:
        raise ConfigurationError(f"{what} no PEM file; fedmq provision writes such keys")
    return [_private_key(block, what) for block in blocks]


def _private_key(block: bytes, what: str) -> object:
    try:
        return load_pem_private_key(block, None)
    except TypeError as exc:
        raise ConfigurationError(f"{what} is encrypted, and nobody is here to be asked for its password") from exc
    except UnsupportedAlgorithm as exc:
        raise ConfigurationError(f"{what} the installed cryptography package does not know this kind of key") from exc
    except Exception as exc:  # OpenSSL's own faults come as other types than ValueError
        raise ConfigurationError(f"{what} no private key in PEM (PKCS#8)") from exc


def _public_signing_key(pem: bytes, what: str) -> bytes:
    fault = f"{what} not the PEM of an Ed25519 public key (it must be the public half: the private one stays away)"
    try:
        key = load_pem_public_key(pem)
    except Exception as exc:  # as above
        raise ConfigurationError(fault) from exc
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(fault)
    return key.public_bytes_raw()
