"""The open buffer's deltas beside the database, when there are many bytes of them.

SQLite writes every page twice (log, then database), with a checksum over each: for updates of 40 KB that was half of
the aggregator's work. So a batch's deltas go into one of two plain files, in one write, and the journal's rows say
where. The order is what makes it safe: **the bytes are on the disk before the transaction that names them**, and no
byte is overwritten that a committed row, or one of which that is not certain, may name:

* A batch is appended behind all that was ever begun in its file, whether that came to a commit or not.
* A transaction that empties the journal (a version) writes into the *other* file. When it has succeeded no row names
  the file before, and that one is used from its beginning again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import Struct

from aggregator.adapters.errors import StoreDamaged, StoreError

FROM_BYTES = 256 * 1024
"""Batches with fewer bytes of deltas stay in the database: a second fsync would cost more than it saves."""

KEPT_BYTES = 64 * 1024 * 1024
"""A file that a large buffer has made longer is cut to this when it is used again. Shorter ones are overwritten, which
spares the file system allocating blocks."""

SUFFIXES = ("-deltas-0", "-deltas-1")
"""What the two files are called behind the name of their database."""

_FILES = range(len(SUFFIXES))

_BLOCK_BYTES = 4096
"""Batches begin at multiples of this, so that a write that power cuts in half touches no sector of another batch."""

_BUFFERS_AT_ONCE = 512
"""Below the kernel's IOV_MAX, 1024."""


class Place(Struct, frozen=True, kw_only=True):
    """Where the bytes of a delta lie. The sum tells if a file does not belong to its database."""

    file: int
    offset: int
    size: int
    sum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    file: int
    offset: int
    deltas: Sequence[bytes]


def sum_of(data: bytes) -> int:
    """Return the sum of the little-endian 64-bit words, modulo 2^64, as a signed number; the last is zero-padded."""
    whole = len(data) // 8
    tail = int.from_bytes(data[8 * whole :], "little")
    total = int(np.add.reduce(np.frombuffer(data, "<u8", whole), dtype=np.uint64)) + tail
    return (total + 2**63) % 2**64 - 2**63


class DeltaFiles:
    """The two files of one database. For one thread at a time, and one transaction at a time.

    A transaction is ``place``, then ``flush`` before its commit, then ``committed`` or ``dropped``.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._descriptors: dict[int, int] = {}
        self._current = 0
        self._ends = [0, 0]
        """Behind all bytes that a row may name."""
        self._pending: _Pending | None = None
        self._afresh = False

    def go_on_behind(self, places: Sequence[Place]) -> None:
        """Take note of what the journal names, at the start; in the journal's order."""
        for place in places:
            self._current = place.file
            self._ends[place.file] = max(self._ends[place.file], _aligned(place.offset + place.size))

    def place(self, deltas: Sequence[bytes], *, afresh: bool) -> list[Place] | None:
        """Return where the deltas will lie once ``flush`` was called, or None: they are few, keep them in the rows.

        ``afresh`` says that the same transaction empties the journal first.
        """
        self._afresh = afresh
        total = sum(map(len, deltas))
        if total < FROM_BYTES:
            return None
        file = 1 - self._current if afresh else self._current
        start = offset = self._ends[file]
        places = []
        for delta in deltas:
            places.append(Place(file=file, offset=offset, size=len(delta), sum=sum_of(delta)))
            offset += len(delta)
        # Now, not after the commit: of one that failed nobody knows for certain that no row of it is on the disk.
        self._ends[file] = _aligned(offset)
        self._pending = _Pending(file=file, offset=start, deltas=deltas)
        return places

    def flush(self) -> None:
        """Put on the disk what was placed; raise ``StoreError`` when it does not get there."""
        if self._pending is None:
            return
        pending = self._pending
        path = self._path(pending.file)
        try:
            descriptor = self._opened(pending.file)
            _write(descriptor, pending.deltas, pending.offset)
            os.fdatasync(descriptor)
        except OSError as exc:
            raise StoreError(f"{path}: {exc.strerror or exc}") from exc

    def committed(self) -> None:
        """Take note that the transaction succeeded."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._current = pending.file
        if self._afresh:
            for file in _FILES:
                if pending is None or file != pending.file:
                    self._begin_again(file)
        self._afresh = False

    def dropped(self) -> None:
        """Take note that the transaction failed."""
        self._pending = None
        self._afresh = False

    def read(self, place: Place) -> bytes:
        """Return the bytes; raise ``StoreDamaged`` when they are not what was written there."""
        path = self._path(place.file)
        if not path.exists():
            raise StoreDamaged(f"{path}, which the database needs, is missing")
        try:
            data = os.pread(self._opened(place.file), place.size, place.offset)
        except OSError as exc:
            raise StoreError(f"{path}: {exc.strerror or exc}") from exc
        if len(data) != place.size or sum_of(data) != place.sum:
            raise StoreDamaged(f"{path} does not hold what the database says")
        return data

    def size_bytes(self) -> int:
        """Return the size of both."""
        return sum(path.stat().st_size for path in map(self._path, _FILES) if path.exists())

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _path(self, file: int) -> Path:
        return self._database.with_name(self._database.name + SUFFIXES[file])

    def _begin_again(self, file: int) -> None:
        if self._ends[file] > KEPT_BYTES and file in self._descriptors:
            with contextlib.suppress(OSError):  # then it stays long
                os.ftruncate(self._descriptors[file], KEPT_BYTES)
        self._ends[file] = 0

    def _opened(self, file: int) -> int:
        descriptor = self._descriptors.get(file)
        if descriptor is None:
            path = self._path(file)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _sync_folder(path.parent)
            except OSError:
                os.close(descriptor)
                raise
            self._descriptors[file] = descriptor
        return descriptor


def _aligned(offset: int) -> int:
    return -(-offset // _BLOCK_BYTES) * _BLOCK_BYTES


def _write(descriptor: int, deltas: Sequence[bytes], offset: int) -> None:
    for first in range(0, len(deltas), _BUFFERS_AT_ONCE):
        buffers = [memoryview(delta) for delta in deltas[first : first + _BUFFERS_AT_ONCE]]
        while buffers:
            written = os.pwritev(descriptor, buffers, offset)
            offset += written
            while buffers and written >= len(buffers[0]):
                written -= len(buffers[0])
                del buffers[0]
            if written:
                buffers[0] = buffers[0][written:]


def _sync_folder(folder: Path) -> None:
    # A new file is not on the disk before its entry in the folder is.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
