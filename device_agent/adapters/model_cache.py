"""The newest complete model, in one file that is replaced whole: there is always a good one or none."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from typing import TYPE_CHECKING, BinaryIO

from protocol.chunks import digest_of
from protocol.errors import ProtocolError
from protocol.messages import MAX_MANIFEST_BYTES, Manifest
from protocol.packing import decode_manifest, encode

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"fedmq-m1"
_HEADER = struct.Struct(">8s32sI")
"""Magic, SHA-256 of the manifest, length of the manifest; then manifest and blob."""


class CacheError(Exception):
    """The cached model is missing, damaged or could not be written."""


class ModelCache:
    """The file ``cache/model`` in the state directory; or another one there, which is kept in the same way."""

    def __init__(self, state_dir: Path, name: str = "model") -> None:
        self._folder = state_dir / "cache"
        self._path = self._folder / name

    def find(self) -> Manifest | None:
        """Return the manifest of the cached model when the file is whole; remove what is not."""
        for leftover in self._folder.glob(f"{self._path.name}.part"):
            leftover.unlink(missing_ok=True)
        try:
            with self.open() as file:
                return read_model(file)[0]
        except CacheError:
            self.drop()
            return None

    def open(self) -> BinaryIO:
        """Return the file, open for reading: a later ``replace`` does not change what is read."""
        try:
            return self._path.open("rb")
        except OSError as exc:
            raise CacheError(f"no model in the cache: {exc.strerror or exc}") from exc

    def replace(self, manifest: Manifest, data: bytes | memoryview) -> None:
        """Write the model beside the old one, sync it, and put it in its place.

        The folder is not synced: a power cut leaves this file or the old one, both whole, and either will do. (An
        outbox that knows of a newer version than the model is understood, see ``Ledger.permits``.)
        """
        head = encode(manifest)
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with part.open("wb") as file:
                file.write(_HEADER.pack(MAGIC, hashlib.sha256(head).digest(), len(head)))
                file.write(head)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        except OSError as exc:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise CacheError(str(exc.strerror or exc)) from exc

    def announce(self, manifest: Manifest) -> None:
        """Put a later announcement beside the model, if that is the one that it announces; raise ``CacheError``."""
        with self.open() as file:
            cached, data = read_model(file)
        if (cached.epoch, cached.version, cached.blob) == (manifest.epoch, manifest.version, manifest.blob):
            self.replace(manifest, data)

    def drop(self) -> None:
        """Delete the cached model."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def read_model(file: BinaryIO) -> tuple[Manifest, bytes]:
    """Return manifest and blob, both checked against their digests; raise ``CacheError`` for a damaged file."""
    header = file.read(_HEADER.size)
    if len(header) != _HEADER.size:
        raise CacheError("the cached model is cut short")
    magic, digest, length = _HEADER.unpack(header)
    if magic != MAGIC or length > MAX_MANIFEST_BYTES:
        raise CacheError("the cached model is no model file")
    head = file.read(length)
    if hashlib.sha256(head).digest() != digest:
        raise CacheError("the cached manifest is damaged")
    try:
        manifest = decode_manifest(head)
    except ProtocolError as exc:
        raise CacheError(f"the cached manifest is of another version: {exc}") from exc
    data = file.read(manifest.blob.total_bytes + 1)
    if len(data) != manifest.blob.total_bytes or digest_of(data) != manifest.blob.digest:
        raise CacheError("the cached model is damaged")
    return manifest, data
