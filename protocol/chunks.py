"""Cutting byte strings into chunks, and putting them together again in any order under a bound on memory."""

from __future__ import annotations

import hashlib

from protocol.errors import ProtocolError
from protocol.messages import MAX_CHUNK_BYTES, BlobRef


def digest_of(data: bytes) -> str:
    """Return SHA-256 of the bytes, lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def blob_of(data: bytes, encoding: str, chunk_bytes: int = MAX_CHUNK_BYTES) -> BlobRef:
    """Return the reference under which ``data`` (not empty) travels."""
    if not data:
        raise ValueError("an empty byte string has no chunks")
    return BlobRef(digest=digest_of(data), total_bytes=len(data), chunk_bytes=chunk_bytes, encoding=encoding)


def split(data: bytes, chunk_bytes: int = MAX_CHUNK_BYTES) -> list[bytes]:
    """Return the chunks of ``data`` in order; all but the last are ``chunk_bytes`` long."""
    return [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]


class Assembly:
    """The chunks of one blob as they come: in any order, more than once, or never.

    Memory is bounded by ``blob.total_bytes``, and one byte for every chunk: chunks are written to their place in one
    buffer that is allocated with the first of them. The caller bounds ``total_bytes`` before it makes an assembly.
    """

    def __init__(self, blob: BlobRef) -> None:
        self.blob = blob
        self._present = bytearray(blob.chunk_count)
        self._wanted = blob.chunk_count
        self._buffer = bytearray()

    @property
    def missing(self) -> list[int]:
        """Indices still wanted, in ascending order."""
        return self.first_missing(self._wanted)

    def first_missing(self, count: int) -> list[int]:
        """Return the lowest indices still wanted, at most ``count`` of them, in ascending order."""
        found: list[int] = []
        index = -1
        while len(found) < count and (index := self._present.find(0, index + 1)) >= 0:
            found.append(index)
        return found

    def wants(self, index: int) -> bool:
        """Return whether chunk ``index`` belongs to the blob and is not there yet."""
        return 0 <= index < len(self._present) and not self._present[index]

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return not self._wanted

    def add(self, index: int, data: bytes) -> bool:
        """Put chunk ``index`` in its place; return whether it was new. Raise ``ProtocolError`` if it cannot belong."""
        blob = self.blob
        if not 0 <= index < blob.chunk_count:
            raise ProtocolError(f"chunk {index} of a blob of {blob.chunk_count}")
        start = index * blob.chunk_bytes
        expected = min(blob.chunk_bytes, blob.total_bytes - start)
        if len(data) != expected:
            raise ProtocolError(f"chunk {index} has {len(data)} bytes where {expected} belong")
        if self._present[index]:
            return False
        if not self._buffer:
            self._buffer = bytearray(blob.total_bytes)
        self._buffer[start : start + expected] = data
        self._present[index] = 1
        self._wanted -= 1
        return True

    def result(self) -> bytes:
        """Return the whole blob; raise ``ProtocolError`` when its digest is wrong (start again then)."""
        if self._wanted:
            raise ValueError(f"{self._wanted} chunks are missing")
        data = bytes(self._buffer)
        if digest_of(data) != self.blob.digest:
            raise ProtocolError("the chunks do not have the digest that was announced")
        return data
