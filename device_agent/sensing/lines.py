"""Lines of files that grow: CSV with a header, and one JSON document a line."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from device_agent.sensing.intake import Intake
from device_agent.sensing.labelling import LabelBoard
from device_agent.sensing.paths import look_up, parse_path
from device_agent.sensing.rows import Moment, Row
from device_agent.sensing.sources import CsvSource, JsonlSource

MAX_LINE_BYTES = 65536
"""What is longer is no line of a sensor; it is left out up to its end."""

MAX_COLUMNS = 1024
MARK_BYTES = 256


class Position(Struct, frozen=True, kw_only=True):
    """How far a file has been read: stored in the transaction of the rows that came from it."""

    offset: int = 0
    """Bytes; just behind the end of a line, save while a line is skipped."""
    line: int = 0
    """Lines read so far."""
    skipping: bool = False
    """Whether what comes next is the rest of a line that is too long."""
    header: list[str] = []
    mark: bytes = b""
    """The last bytes before ``offset``: whether a file is still the same is seen by these, not only by its inode."""
    after: tuple[int, int] = (0, 0)
    """Inode and time of change (ns) of the file that was read before this one: the next one is younger."""
    label: float | None = None
    """Which holds at this place, if any."""


def cut(block: bytes) -> tuple[list[bytes], int]:
    """Return the complete lines at the beginning of the block, without their ends, and how many bytes they take."""
    end = block.rfind(b"\n") + 1
    return (block[: end - 1].split(b"\n") if end else []), end


def mark_of(before: bytes) -> bytes:
    """Return what to remember of the bytes before a position."""
    return before[-MARK_BYTES:]


class LineReader(Protocol):
    """What a kind of line leads to. Not thread-safe."""

    intake: Intake

    def read(self, line: bytes, number: int, at: Moment) -> Row | None:
        """Return the row in the line; None when there is none."""
        ...

    def resume(self, position: Position) -> None:
        """Go on from a position that was stored, perhaps at a file's beginning."""
        ...

    @property
    def header(self) -> list[str]:
        """What has to be known of earlier lines."""
        ...


class CsvLines:
    """One ``kind = "csv"`` source."""

    def __init__(self, name: str, table: CsvSource, board: LabelBoard, now: float) -> None:
        self.intake = Intake(name, table, board, now)
        self.header: list[str] = []
        self._table = table
        self._wanted = {*table.fields.values(), *(place for place in (table.time, table.label) if place)}

    def resume(self, position: Position) -> None:
        """Take on the columns that were known there."""
        self._begin(position.header)

    def read(self, line: bytes, number: int, at: Moment) -> Row | None:
        """Return the row in the line; a line that names columns, anywhere, is a header from then on."""
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", "replace").rstrip("\r")
        if not text.strip():
            return None
        where = f"line {number}"
        try:
            cells = [cell.strip() for cell in next(csv.reader([text], delimiter=self._table.delimiter))]
        except (csv.Error, StopIteration):
            self.intake.refuse("no CSV", where)
            return None
        if self._is_header(cells):
            self._begin(cells)
            return None
        if not self.header:
            self.intake.refuse("no header before it", where)
            return None
        if len(cells) != len(self.header):
            self.intake.refuse("another number of values than columns", where)
            return None
        return _row_of(self.intake, self._table, self._picked(cells), at, where)

    def _is_header(self, cells: Sequence[str]) -> bool:
        return not self._wanted.isdisjoint(cells) and len(cells) <= MAX_COLUMNS and not any(map(_is_number, cells))

    def _begin(self, header: Sequence[str]) -> None:
        self.header = list(header)
        missing = sorted(self._wanted - set(header)) if header else []
        self.intake.column_trouble = f"no column {', '.join(map(repr, missing[:3]))}" if missing else ""

    def _picked(self, cells: Sequence[str]) -> dict[str, str]:
        return dict(zip(self.header, cells, strict=True))


class JsonLines:
    """One ``kind = "jsonl"`` source."""

    def __init__(self, name: str, table: JsonlSource, board: LabelBoard, now: float) -> None:
        self.intake = Intake(name, table, board, now)
        self._table = table
        places = [*table.fields.values(), *(place for place in (table.time, table.label) if place)]
        self._paths = {place: parse_path(place) for place in places}

    @property
    def header(self) -> list[str]:
        """Nothing: each line speaks for itself."""
        return []

    def resume(self, position: Position) -> None:
        """Nothing has to be known."""

    def read(self, line: bytes, number: int, at: Moment) -> Row | None:
        """Return the row in the line."""
        if not line.strip():
            return None
        where = f"line {number}"
        try:
            document = msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            self.intake.refuse("no JSON", where)
            return None
        found = {place: look_up(document, path) for place, path in self._paths.items()}
        return _row_of(self.intake, self._table, found, at, where)


def _row_of(
    intake: Intake, table: CsvSource | JsonlSource, found: dict[str, Any], at: Moment, where: str
) -> Row | None:
    label = found.get(table.label) if table.label else None
    if table.label_holds:
        if label is not None and label != "":
            intake.hold_label(label, where)
        label = None
    if not table.fields:
        return None
    time = found.get(table.time) if table.time else None
    if table.time and (time is None or time == ""):
        intake.refuse("no time", where)
        return None
    raws = [found.get(place) for place in table.fields.values()]
    return intake.take(raws, at, time=time, label=label, where=where)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
