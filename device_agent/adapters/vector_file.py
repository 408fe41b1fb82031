"""A file of float32 vectors with a head that says what they are: replaced whole, so there is a good one or none.

Without NumPy.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

_HEADER = struct.Struct(">8s32sI")
"""Magic, SHA-256 of all that follows the header, length of the head; then head and vectors."""

MAX_HEAD_BYTES = 64 * 1024


class Head(Protocol):
    """A struct that msgspec reads and writes as JSON."""

    @property
    def arrays(self) -> dict[str, int]:
        """Number of float32 of each vector, in the order in which they follow."""


H = TypeVar("H", bound=Head)


class VectorFileError(Exception):
    """The file is damaged, of another version of fedmq, or could not be written."""


class VectorFile(Generic[H]):
    """One file; beside it ``.aside`` is the last one that could not be used, ``.part`` one that is being written."""

    def __init__(self, path: Path, magic: bytes, head: type[H], max_bytes: int) -> None:
        """``magic``: 8 bytes, the last of which changes with the form of the file."""
        self.path = path
        self._magic, self._type, self._max_bytes = magic, head, max_bytes
        self._part = path.with_suffix(".part")
        self._aside = path.with_suffix(".aside")

    def tidy(self) -> None:
        """Remove what a kill left half written."""
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def write(self, head: H, vectors: Sequence[memoryview]) -> int:
        """Replace the file, synced; return its size. Raise ``VectorFileError``, and the one before stays.

        The folder is not synced: a power cut leaves this file or the one before. Either is a place to go on from.
        """
        encoded = msgspec.json.encode(head)
        body = [memoryview(encoded), *vectors]
        size = _HEADER.size + sum(piece.nbytes for piece in body)
        if size > self._max_bytes or len(encoded) > MAX_HEAD_BYTES:
            raise VectorFileError(f"{size} bytes where at most {self._max_bytes} are kept")
        digest = hashlib.sha256()
        for piece in body:
            digest.update(piece)
        try:
            with self._part.open("wb") as file:
                file.write(_HEADER.pack(self._magic, digest.digest(), len(encoded)))
                for piece in body:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            self._part.replace(self.path)
        except OSError as exc:
            self.tidy()
            raise VectorFileError(str(exc.strerror or exc)) from exc
        return size

    def look(self) -> H | None:
        """Return the head, vectors unseen; None when there is no file, or none that can be read."""
        try:
            with self.path.open("rb") as file:
                return self._read_head(file)[1]
        except (OSError, VectorFileError):
            return None

    def read(self) -> tuple[H, dict[str, bytes]] | None:
        """Return head and vectors, checked against the digest; None when there is no file.

        Raises ``VectorFileError`` for a file that cannot be used: put it aside.
        """
        try:
            with self.path.open("rb") as file:
                return self._read(file)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise VectorFileError(str(exc.strerror or exc)) from exc

    def put_aside(self) -> None:
        """Get the file out of the way, for somebody to look at; the one that was aside before goes."""
        with contextlib.suppress(OSError):
            self.path.replace(self._aside)

    def drop(self) -> None:
        """Delete the file, if there is one."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def erase(self) -> None:
        """Delete the file with all that is beside it."""
        for path in (self.path, self._part, self._aside):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _read_head(self, file: BinaryIO) -> tuple[bytes, H, bytes]:
        header = file.read(_HEADER.size)
        if len(header) != _HEADER.size:
            raise VectorFileError("it is cut short")
        magic, digest, length = _HEADER.unpack(header)
        if magic != self._magic:
            known = magic[:-1] == self._magic[:-1]
            raise VectorFileError("another version of fedmq wrote it" if known else "it is another kind of file")
        if length > MAX_HEAD_BYTES:
            raise VectorFileError("it is damaged")
        head = file.read(length)
        try:
            return digest, msgspec.json.decode(head, type=self._type), head
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            raise VectorFileError("its head is damaged") from exc

    def _read(self, file: BinaryIO) -> tuple[H, dict[str, bytes]]:
        wanted, kept, head = self._read_head(file)
        lengths = kept.arrays.values()
        if any(length < 0 for length in lengths) or 4 * sum(lengths) > self._max_bytes:
            raise VectorFileError("it is damaged")
        digest = hashlib.sha256(head)
        vectors: dict[str, bytes] = {}
        for name, length in kept.arrays.items():
            vectors[name] = file.read(4 * length)
            digest.update(vectors[name])
        if digest.digest() != wanted or file.read(1):
            raise VectorFileError("it is damaged")
        return kept, vectors
