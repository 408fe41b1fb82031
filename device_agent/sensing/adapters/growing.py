"""Files that grow: read from where it was left off, through rotation and truncation, every line exactly once."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from device_agent.sensing.lines import MAX_LINE_BYTES, Position, cut, mark_of
from device_agent.sensing.rows import Row

if TYPE_CHECKING:
    from device_agent.sensing.lines import LineReader
    from device_agent.sensing.rows import Moment
    from device_agent.sensing.sources import CsvSource, JsonlSource

BLOCK_BYTES = 2 * MAX_LINE_BYTES
"""Read at once; a line fits in it."""

PACKED = frozenset({".gz", ".xz", ".bz2", ".zst", ".zip", ".Z"})

MAX_SIBLINGS = 32
"""Rotated files in which the rest of what was read before the start is looked for."""


class GrowingFile:
    """One ``csv`` or ``jsonl`` source. For one thread."""

    def __init__(self, name: str, table: CsvSource | JsonlSource, reader: LineReader) -> None:
        self.name = name
        self.reader = reader
        self.next_at = 0.0
        """Monotonic seconds: when to call ``poll``."""
        self._table = table
        self._path = Path(table.path)
        self._fd: int | None = None
        self._position = Position()
        self._seen: tuple[int, int] | None = None

    def resume(self, stored: bytes | None) -> None:
        """Go on from the stored position; None, or one that cannot be read: from the beginning."""
        self.close()
        try:
            self._position = msgspec.msgpack.decode(stored, type=Position) if stored else Position()
        except msgspec.DecodeError:
            self._position = Position()
        self.reader.resume(self._position)
        if self._position.label is not None:
            self.reader.intake.hold_label(self._position.label)

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self._seen = None

    def poll(self, at: Moment) -> tuple[list[Row], bytes] | None:
        """Return the rows of at most one block, and the position behind them; None when there is nothing new.

        ``next_at`` tells when to ask again: at once while there is more.
        """
        self.next_at = at.monotonic_s + self._table.poll_s
        try:
            found = self._read(at)
        except OSError as exc:
            self.close()
            missing = isinstance(exc, FileNotFoundError)
            self.reader.intake.trouble = "there is no such file" if missing else f"cannot be read: {exc.strerror}"
            return None
        self.reader.intake.trouble = ""
        return found

    # -- which file

    def _read(self, at: Moment) -> tuple[list[Row], bytes] | None:
        if self._fd is None:
            self._fd = self._find()
        if not self._unchanged(self._fd):
            # Emptied and written anew, under the same name: what was left may be in a copy.
            self.close()
            self._fd = self._find()
        block = os.pread(self._fd, BLOCK_BYTES, self._position.offset)
        rotated = self._rotated(self._fd)
        before = self._position
        rows = self._take(block, at, rotated=rotated)
        return None if self._position is before else (rows, msgspec.msgpack.encode(self._position))

    def _find(self) -> int:
        """Open the file that was being read when the position was stored, or else the one that is there."""
        position = self._position
        if position.offset:
            fd = _open(self._path) if self._path.exists() else None
            if fd is not None and self._is_ours(fd):
                return fd
            if fd is not None:
                os.close(fd)
            copy = self._sibling()
            if copy is not None:
                return copy
            self._start_over()
        return self._successor()

    def _successor(self) -> int:
        """Open the file that comes after the one that was read to its end: of those younger than it the oldest.

        There are several when it was rotated more than once since. The one with the name itself is opened first: what
        is renamed meanwhile is among the rotated ones.
        """
        best = _open(self._path) if self._path.exists() else None
        for path in self._younger(*self._position.after):
            try:
                found = path.stat()
                now = os.fstat(best) if best is not None else None
                if now is not None and (found.st_ino == now.st_ino or found.st_mtime_ns >= now.st_mtime_ns):
                    continue
                older = _open(path)
            except OSError:
                continue
            if best is not None:
                os.close(best)
            best = older
        return best if best is not None else _open(self._path)

    def _younger(self, inode: int, changed: int) -> list[Path]:
        """Return rotated files that were written after that one; nothing if there was none."""
        return [path for path in self._siblings() if changed and _is_younger(path, inode, changed)]

    def _siblings(self) -> list[Path]:
        """Return rotated files, the youngest first; those that were packed cannot be read."""
        beside = self._path.parent.glob(f"{_escaped(self._path.name)}?*")
        plain = [path for path in beside if path.suffix not in PACKED]
        return sorted(plain, key=_modified, reverse=True)[:MAX_SIBLINGS]

    def _sibling(self) -> int | None:
        """Open the rotated file, or the copy, that goes on where the position is."""
        if not self._position.mark:
            return None
        for path in self._siblings():
            try:
                fd = _open(path)
            except OSError:
                continue
            if self._is_ours(fd):
                return fd
            os.close(fd)
        return None

    def _is_ours(self, fd: int) -> bool:
        """Whether the bytes before the position are those that were there when it was read."""
        position = self._position
        size = len(position.mark)
        return os.fstat(fd).st_size >= position.offset and os.pread(fd, size, position.offset - size) == position.mark

    def _unchanged(self, fd: int) -> bool:
        found = os.fstat(fd)
        seen = (found.st_mtime_ns, found.st_size)
        if seen == self._seen:
            return True
        self._seen = seen
        return self._is_ours(fd)

    def _rotated(self, fd: int) -> bool:
        """Whether there is a newer file; while there is none, the writer may still be writing to this one."""
        ours = os.fstat(fd)
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return bool(self._younger(ours.st_ino, ours.st_mtime_ns))
        return (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino)

    def _finish(self) -> None:
        if self._fd is not None:
            done = os.fstat(self._fd)
            self._position = replace(self._position, after=(done.st_ino, done.st_mtime_ns))
        self.close()
        self._start_over()

    def _start_over(self) -> None:
        self._position = replace(self._position, offset=0, line=0, skipping=False, header=[], mark=b"")
        self.reader.resume(self._position)
        self._seen = None

    # -- what is in it

    def _take(self, block: bytes, at: Moment, *, rotated: bool) -> list[Row]:
        lines, used = cut(block)
        last = len(block) < BLOCK_BYTES
        if not used and block:
            # The writer is in the middle of a line, or it never ends, or nobody will write its end any more.
            if not last:
                lines, used = self._skip(block)
            elif rotated:
                lines, used = [block], len(block)
        rows = self._rows(lines, at)
        if used:
            self._advance(block[:used])
        if rotated and last and used == len(block):
            self._finish()
            self.next_at = at.monotonic_s
        elif used and (not last or rotated):
            self.next_at = at.monotonic_s
        return rows

    def _skip(self, block: bytes) -> tuple[list[bytes], int]:
        if not self._position.skipping:
            self.reader.intake.refuse("a line that is too long", f"line {self._position.line + 1}")
        self._position = replace(self._position, skipping=True)
        return [], len(block)

    def _rows(self, lines: list[bytes], at: Moment) -> list[Row]:
        rows = []
        for line in lines:
            if self._position.skipping:
                self._position = replace(self._position, skipping=False, line=self._position.line + 1)
                continue
            self._position = replace(self._position, line=self._position.line + 1)
            if len(line) > MAX_LINE_BYTES:
                self.reader.intake.refuse("a line that is too long", f"line {self._position.line}")
                continue
            row = self.reader.read(line, self._position.line, at)
            if row is not None:
                rows.append(row)
        return rows

    def _advance(self, used: bytes) -> None:
        said = self.reader.intake.said
        self._position = replace(
            self._position,
            offset=self._position.offset + len(used),
            header=self.reader.header,
            mark=mark_of(self._position.mark + used),
            label=None if math.isnan(said) or not self._table.label_holds else said,
        )


def _open(path: Path) -> int:
    """Open a regular file; anything else could keep us waiting for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(0, "it is no file")
    return fd


def _is_younger(path: Path, inode: int, changed: int) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_ino != inode and found.st_mtime_ns > changed


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
