"""The envelope of what is signed; ``protocol.signing`` makes and checks it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from protocol.fields import Token


class Signature(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key's word for a body."""

    key: Token
    """Id of the public key (see ``protocol.signing.key_id``)."""
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Signed(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="type", tag="signed"
):
    """The envelope of manifests and commands. The body is bytes, so that it is verified before it is read."""

    body: bytes
    """An encoded ``Manifest`` or ``DeviceCommand``."""
    signatures: Annotated[list[Signature], Meta(min_length=1, max_length=2)]
    """Of the current key and, while keys change, of the one before."""
