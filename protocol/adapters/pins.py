"""``federation.json``: the federation's public signing keys, which a device pins. Imports nothing of cryptography."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct

from protocol.adapters.secret_files import read_public
from protocol.fields import PUBLIC_KEY_BYTES, Identifier
from protocol.settings import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable


class FederationKeys(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file's content."""

    federation: Identifier
    signing_keys: Annotated[list[str], Meta(min_length=1, max_length=3)]
    """Raw Ed25519 public keys in base64."""


def federation_json(federation: str, signing_keys: Iterable[bytes]) -> bytes:
    """Return the content of ``federation.json`` with these raw public keys."""
    keys = FederationKeys(federation=federation, signing_keys=[base64.b64encode(key).decode() for key in signing_keys])
    return msgspec.json.format(msgspec.json.encode(keys), indent=2) + b"\n"


def read_pins(name: str, federation: str) -> tuple[bytes, ...]:
    """Return the raw public keys in the file; none for an empty name.

    Raise ``ConfigurationError`` when it cannot be read, is malformed, or is another federation's.
    """
    if not name:
        return ()
    what = "federation keys"
    content = read_public(name, what)
    try:
        found = msgspec.json.decode(content, type=FederationKeys)
        keys = tuple(base64.b64decode(key, validate=True) for key in found.signing_keys)
    except (msgspec.DecodeError, binascii.Error, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{what} {name}: not what fedmq provision writes: {exc}"[:400]) from exc
    if found.federation != federation:
        raise ConfigurationError(f"{what} {name}: of federation {found.federation!r}, this device is in {federation!r}")
    if any(len(key) != PUBLIC_KEY_BYTES for key in keys) or len(set(keys)) != len(keys):
        raise ConfigurationError(f"{what} {name}: signing_keys must be different keys of {PUBLIC_KEY_BYTES} bytes")
    return keys
