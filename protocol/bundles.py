"""What an identity travels in: one JSON file with the texts that belong to it, and no paths in it. Pure.

Only names from a short list are allowed inside, every length has a bound, and the format has a number. The checksum
finds a file that was damaged on its way; it is no protection from people: who can read a bundle holds the identity.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from protocol.errors import ProtocolError
from protocol.identifiers import IDENTIFIER_PATTERN
from protocol.toml_block import block, quoted

FORMAT = 1
MAX_BUNDLE_BYTES = 256 * 1024
"""A bundle is about 5 KB; whatever was named by mistake is not read into memory."""
MAX_TEXT = 64 * 1024

Role: TypeAlias = Literal["device", "monitor"]
FileName: TypeAlias = Literal["certificate", "key", "ca", "federation", "configuration"]
Text: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]


class Bundle(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One identity, ready to be carried to its machine."""

    fedmq_bundle: Annotated[int, Meta(ge=1)] = FORMAT
    role: Role
    name: Annotated[str, Meta(pattern=IDENTIFIER_PATTERN)]
    federation: Annotated[str, Meta(pattern=IDENTIFIER_PATTERN)]
    host: Annotated[str, Meta(min_length=1, max_length=253)]
    port: Annotated[int, Meta(ge=1, le=65535)]
    files: dict[FileName, Text]
    """``certificate``, ``key`` and ``ca`` are PEM, ``federation`` is JSON, ``configuration`` is TOML with a block."""
    checksum: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")] = "0" * 64
    """SHA-256 of the same bundle with 64 zeros in this place, as ``encode`` writes it."""


FILE_NAMES: dict[FileName, str] = {
    "ca": "ca.crt",
    "certificate": "identity.crt",
    "key": "identity.key",
    "federation": "federation.json",
}
"""What the parts of an identity are called on disk."""


def identity_block(folder: str = "") -> str:
    """Return the part of a TOML file that names an identity's files in the folder, to be put in by ``with_block``."""
    path = {part: quoted(f"{folder}/{name}" if folder else name) for part, name in FILE_NAMES.items()}
    return block(
        "[broker.tls]",
        *(f"{part} = {path[part]}" for part in ("ca", "certificate", "key")),
        "",
        "[security]",
        f"federation_keys = {path['federation']}",
    )


WANTED: tuple[FileName, ...] = ("certificate", "key", "ca", "federation", "configuration")


def encode(bundle: Bundle) -> bytes:
    """Return the file's content, with its checksum."""
    return _text(msgspec.structs.replace(bundle, checksum=_checksum(bundle)))


def decode(content: bytes) -> Bundle:
    """Return what is in the file; raise ``ProtocolError``, which never quotes any of it, when it is no whole bundle."""
    if len(content) > MAX_BUNDLE_BYTES:
        raise ProtocolError(f"larger than {MAX_BUNDLE_BYTES} bytes; this is no bundle of fedmq")
    _check_format(content)
    try:
        bundle = msgspec.json.decode(content, type=Bundle, strict=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProtocolError("damaged, or no bundle of fedmq; copy it again") from None  # its text might quote a key
    missing = [name for name in WANTED if name not in bundle.files]
    if missing:
        raise ProtocolError(f"incomplete: there is no {missing[0]} in it")
    if bundle.checksum != _checksum(bundle):
        raise ProtocolError("damaged on its way: the checksum is wrong; copy it again")
    return bundle


class _Head(Struct):
    fedmq_bundle: int


def _check_format(content: bytes) -> None:
    try:
        head = msgspec.json.decode(content, type=_Head, strict=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProtocolError("damaged, or no bundle of fedmq; copy it again") from None
    if head.fedmq_bundle > FORMAT:
        raise ProtocolError(f"a bundle of format {head.fedmq_bundle}; this fedmq reads {FORMAT}: install a newer one")


def _checksum(bundle: Bundle) -> str:
    return hashlib.sha256(_text(msgspec.structs.replace(bundle, checksum="0" * 64))).hexdigest()


def _text(bundle: Bundle) -> bytes:
    return msgspec.json.format(msgspec.json.encode(bundle, order="sorted"), indent=1) + b"\n"
