"""One file with the training that is not finished: replaced whole, so there is a good one or none. Without NumPy."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from typing import TYPE_CHECKING

import msgspec

from device_agent.keeping import MAX_CHECKPOINT_BYTES, Kept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

MAGIC = b"fedmq-t1"
"""The digit changes with the form of the file, and with the arithmetic of trainings: either makes old ones useless."""

_HEADER = struct.Struct(">8s32sI")
"""Magic, SHA-256 of all that follows the header, length of the head; then head and vectors."""

MAX_HEAD_BYTES = 64 * 1024


class CheckpointFileError(Exception):
    """The file is damaged, of another version of fedmq, or could not be written."""


class CheckpointFile:
    """The file ``training`` in the state directory; ``training.aside`` is the last one that could not be used."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "training"
        self._part = self.path.with_suffix(".part")
        self._aside = self.path.with_suffix(".aside")

    def tidy(self) -> None:
        """Remove what a kill left half written."""
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def write(self, kept: Kept, vectors: Sequence[memoryview]) -> int:
        """Replace the file, synced; return its size. Raise ``CheckpointFileError``, and the one before stays.

        The folder is not synced: a power cut leaves this file or the one before. Either is a place to go on from.
        """
        head = msgspec.json.encode(kept)
        body = [memoryview(head), *vectors]
        size = _HEADER.size + sum(piece.nbytes for piece in body)
        if size > MAX_CHECKPOINT_BYTES or len(head) > MAX_HEAD_BYTES:
            raise CheckpointFileError(f"{size} bytes where at most {MAX_CHECKPOINT_BYTES} are kept")
        digest = hashlib.sha256()
        for piece in body:
            digest.update(piece)
        try:
            with self._part.open("wb") as file:
                file.write(_HEADER.pack(MAGIC, digest.digest(), len(head)))
                for piece in body:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            self._part.replace(self.path)
        except OSError as exc:
            self.tidy()
            raise CheckpointFileError(str(exc.strerror or exc)) from exc
        return size

    def look(self) -> Kept | None:
        """Return the head, vectors unseen; None when there is no file, or none that can be read."""
        try:
            with self.path.open("rb") as file:
                return _read_head(file)[1]
        except (OSError, CheckpointFileError):
            return None

    def read(self) -> tuple[Kept, dict[str, bytes]] | None:
        """Return head and vectors, checked against the digest; None when there is no file.

        Raises ``CheckpointFileError`` for a file that cannot be used: put it aside.
        """
        try:
            with self.path.open("rb") as file:
                return _read(file)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise CheckpointFileError(str(exc.strerror or exc)) from exc

    def put_aside(self) -> None:
        """Get the file out of the way, for somebody to look at; the one that was aside before goes."""
        with contextlib.suppress(OSError):
            self.path.replace(self._aside)

    def drop(self) -> None:
        """Delete the file, if there is one."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def _read_head(file: BinaryIO) -> tuple[bytes, Kept, bytes]:
    header = file.read(_HEADER.size)
    if len(header) != _HEADER.size:
        raise CheckpointFileError("it is cut short")
    magic, digest, length = _HEADER.unpack(header)
    if magic != MAGIC:
        known = magic[:-1] == MAGIC[:-1]
        raise CheckpointFileError("another version of fedmq wrote it" if known else "it is no checkpoint")
    if length > MAX_HEAD_BYTES:
        raise CheckpointFileError("it is damaged")
    head = file.read(length)
    try:
        return digest, msgspec.json.decode(head, type=Kept), head
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise CheckpointFileError("its head is damaged") from exc


def _read(file: BinaryIO) -> tuple[Kept, dict[str, bytes]]:
    wanted, kept, head = _read_head(file)
    if any(length < 0 for length in kept.arrays.values()) or kept.size > MAX_CHECKPOINT_BYTES:
        raise CheckpointFileError("it is damaged")
    digest = hashlib.sha256(head)
    vectors: dict[str, bytes] = {}
    for name, length in kept.arrays.items():
        vectors[name] = file.read(4 * length)
        digest.update(vectors[name])
    if digest.digest() != wanted or file.read(1):
        raise CheckpointFileError("it is damaged")
    return kept, vectors
