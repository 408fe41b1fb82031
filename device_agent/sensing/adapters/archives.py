"""Archives of NumPy arrays (.npz), read without NumPy, a piece at a time, once per content.

The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from device_agent.sensing.intake import Intake
from device_agent.sensing.sources import array_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from device_agent.sensing.labelling import LabelBoard
    from device_agent.sensing.rows import Moment, Row
    from device_agent.sensing.sources import NpzSource

ROWS_AT_ONCE = 1024
MAX_HEADER_BYTES = 65536
MAX_WIDTH = 65536
HASH_BYTES = 1 << 18

FORMATS = {
    "f4": "f", "f8": "d", "f2": "e", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "b1": "?",
}  # fmt: skip
DATES = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Of arrays of dates: how many to the second."""

_HEADER = re.compile(
    r"\s*\{\s*'descr':\s*'([<>|=])(\w\d+)(?:\[(\w+)\])?',\s*'fortran_order':\s*(True|False),\s*"
    r"'shape':\s*\((\d{1,12}),?(?:\s*(\d{1,6}),?)?\),?\s*\}\s*"
)

UNREADABLE = (OSError, EOFError, ValueError, KeyError, struct.error, zipfile.BadZipFile, zlib.error, RuntimeError)


class Progress(Struct, frozen=True, kw_only=True):
    """How far which content has been read."""

    digest: str = ""
    rows: int = 0
    finished: bool = False


class Archive:
    """One ``npz`` source. For one thread."""

    def __init__(self, name: str, table: NpzSource, board: LabelBoard, now: float) -> None:
        self.name = name
        self.intake = Intake(name, table, board, now)
        self.next_at = 0.0
        self._table = table
        self._path = Path(table.path)
        self._progress = Progress()
        self._seen: tuple[int, int, int] | None = None
        self._pieces: Iterator[list[Sequence[Any]]] | None = None

    def resume(self, stored: bytes | None) -> None:
        """Go on from what was stored."""
        self.close()
        try:
            self._progress = msgspec.msgpack.decode(stored, type=Progress) if stored else Progress()
        except msgspec.DecodeError:
            self._progress = Progress()

    def close(self) -> None:
        """Forget the file."""
        self._pieces = None
        self._seen = None

    def poll(self, at: Moment) -> tuple[list[Row], bytes] | None:
        """Return some rows and the progress behind them; None when there is nothing new."""
        self.next_at = at.monotonic_s + self._table.poll_s
        try:
            found = self._read(at)
        except UNREADABLE as exc:
            seen, missing = self._seen, isinstance(exc, FileNotFoundError)
            self.close()
            self._seen = seen  # not again before it is another one
            self.intake.trouble = "there is no such file" if missing else f"cannot be read as .npz: {exc}"[:120]
            return None
        self.intake.trouble = ""
        return found

    def _read(self, at: Moment) -> tuple[list[Row], bytes] | None:
        if self._pieces is None and not self._begin():
            return None
        piece = next(self._pieces, None) if self._pieces is not None else None
        if piece is None:
            self._pieces = None
            finished = Progress(digest=self._progress.digest, rows=self._progress.rows, finished=True)
            self._progress = finished
            return [], msgspec.msgpack.encode(finished)
        rows = self._rows(piece, at)
        self._progress = Progress(digest=self._progress.digest, rows=self._progress.rows + len(piece))
        self.next_at = at.monotonic_s
        return rows, msgspec.msgpack.encode(self._progress)

    def _begin(self) -> bool:
        """Return whether there is something to read."""
        found = self._path.stat()
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen == self._seen:
            return False
        self._seen = seen
        digest = _digest(self._path)
        if digest == self._progress.digest and self._progress.finished:
            return False
        if digest != self._progress.digest:
            self._progress = Progress(digest=digest)
        self._modified = found.st_mtime
        self._pieces = self._pieces_from(self._progress.rows)
        return True

    def _pieces_from(self, done: int) -> Iterator[list[Sequence[Any]]]:
        """Return the rows from number ``done`` on, each with fields, time and label, in pieces."""
        table = self._table
        places = [*table.fields.values(), *(place for place in (table.time, table.label) if place)]
        with zipfile.ZipFile(self._path) as archive:
            arrays = [_Column(archive, place) for place in places]
            lengths = {array.rows for array in arrays}
            if len(lengths) != 1:
                raise ValueError(f"its arrays have {', '.join(map(str, sorted(lengths)))} rows; all need the same")
            self._total = lengths.pop()
            for array in arrays:
                array.skip(done)
            for begin in range(done, self._total, ROWS_AT_ONCE):
                count = min(ROWS_AT_ONCE, self._total - begin)
                yield list(zip(*(array.read(count) for array in arrays), strict=True))

    def _rows(self, piece: list[Sequence[Any]], at: Moment) -> list[Row]:
        table, width, rows = self._table, len(self._table.fields), []
        first = self._progress.rows
        for number, values in enumerate(piece, first):
            rest = list(values[width:])
            time = rest.pop(0) if table.time else self._modified - (self._total - 1 - number) * table.interval_s
            label = rest.pop(0) if table.label else None
            row = self.intake.take(
                [None if value != value else value for value in values[:width]],  # noqa: PLR0124 - NaN
                at,
                time=time,
                label=None if label != label else label,  # noqa: PLR0124 - NaN
                where=f"row {number + 1}",
            )
            if row is not None:
                rows.append(row)
        return rows


class _Column:
    """An array, or one column of it, read from the beginning to the end."""

    def __init__(self, archive: zipfile.ZipFile, place: str) -> None:
        name, column = array_of(place)
        if f"{name}.npy" not in archive.namelist():
            names = [entry.removesuffix(".npy") for entry in archive.namelist()[:10]]
            raise ValueError(f"has no array {name!r}; it has {names}")
        self._file = archive.open(f"{name}.npy")
        order, self._per_second, width, self.rows = _header(self._file, name)
        if (column is None and width is not None) or (column is not None and column >= (width or 0)):
            raise ValueError(
                f"array {name!r} has {'no' if width is None else width} columns; {place!r} is none of them"
            )
        self._column = column or 0
        self._width = width or 1
        self._row = struct.Struct(f"{order[0]}{self._width}{order[1]}")

    def skip(self, rows: int) -> None:
        """Go past some rows."""
        left = rows * self._row.size
        while left > 0:
            left -= len(self._exactly(min(left, HASH_BYTES)))

    def read(self, rows: int) -> list[Any]:
        """Return the values of the next rows; raise ``EOFError`` when there are fewer."""
        found = [values[self._column] for values in self._row.iter_unpack(self._exactly(rows * self._row.size))]
        return found if self._per_second is None else [value / self._per_second for value in found]

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size > 0:
            part = self._file.read(min(size, HASH_BYTES))
            if not part:
                raise EOFError("an array is shorter than it says")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _header(file: IO[bytes], name: str) -> tuple[tuple[str, str], float | None, int | None, int]:
    """Return byte order and format, how many to the second (dates), columns and rows."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY":
        raise ValueError(f"array {name!r} is no array")
    long = start[6] > 1
    (length,) = struct.unpack("<I" if long else "<H", file.read(4 if long else 2))
    found = _HEADER.fullmatch(file.read(min(length, MAX_HEADER_BYTES)).decode("latin-1"))
    if found is None:
        raise ValueError(f"array {name!r} is no plain array of numbers with one or two dimensions")
    order, kind, unit, fortran, rows, columns = found.groups()
    width = None if columns is None else int(columns)
    if fortran == "True" and width not in (None, 1):
        raise ValueError(f"array {name!r} is stored by columns: save numpy.ascontiguousarray of it")
    if width is not None and not 1 <= width <= MAX_WIDTH:
        raise ValueError(f"array {name!r} has {width} columns")
    per_second = DATES.get(unit) if kind == "M8" else None
    if (kind not in FORMATS and per_second is None) or (unit and per_second is None):
        raise ValueError(f"array {name!r} holds {kind}, not numbers")
    return (">" if order == ">" else "<", "q" if per_second else FORMATS[kind]), per_second, width, int(rows)


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()
