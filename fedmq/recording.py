"""A recording that can be played to MQTT topics as if a sensor measured it now. Only the reading touches the disk."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_ROWS = 5_000_000


class RecordingError(ValueError):
    """The file cannot be played; the text names file, line and column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was measured at one moment."""

    at_s: float
    """Since the recording began."""
    values: Mapping[str, float | None]
    """By channel; ``None`` where nothing was measured."""
    label: str = ""
    """What was going on, if anybody said so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message, and when it is due."""

    due_s: float
    """Since the playing began."""
    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Playing:
    """How a recording is played."""

    topic: str
    label_topic: str = ""
    """Gets the label whenever it changes, retained, as a switch or a status would be; empty: nobody says it."""
    speed: float = 1.0


def played(rows: Sequence[Row], how: Playing, wall: float) -> Iterator[Message]:
    """Yield the messages of a recording whose last row is measured when it is played, in their order.

    ``wall``: seconds since 1970 as the playing begins. Played faster than it was recorded, its first rows lie in the
    past: the distance between two of them stays what it was, and no row comes from the future.
    """
    if not rows:
        return
    last_s = rows[-1].at_s
    begun = wall - (last_s - last_s / how.speed)
    label: str | None = None
    for row in rows:
        due_s = row.at_s / how.speed
        if how.label_topic and row.label != label:
            label = row.label
            said = json.dumps({"time": round(begun + row.at_s, 6), "label": label}).encode()
            yield Message(due_s=due_s, topic=how.label_topic, payload=said, retain=True)
        measured = {"time": round(begun + row.at_s, 6), **row.values}
        yield Message(due_s=due_s, topic=how.topic, payload=json.dumps(measured).encode())


def read(path: Path, *, hz: float = 0.0, time_column: str = "", label_column: str = "") -> list[Row]:
    """Return the rows of a CSV file with a header; raise ``RecordingError``.

    Moments come from ``time_column`` (seconds, never decreasing), or rows are ``1 / hz`` apart. Empty fields are
    missing values.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            wanted = [name for name in (time_column, label_column) if name]
            for name in wanted:
                if header.count(name) != 1:
                    raise RecordingError(
                        f"{path}: {header.count(name)} columns are called {name!r}; there are {header}"
                    )
            channels = [name for name in header if name not in wanted]
            if not channels or len(set(header)) != len(header):
                raise RecordingError(f"{path}: the first line must name the columns, each once; it has {header}")
            return _rows(path, reader, header, hz, time_column, label_column)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise RecordingError(f"{path}: cannot be read as CSV: {exc}") from exc


def _rows(  # noqa: PLR0917 - one call, right above
    path: Path, reader: Iterator[list[str]], header: list[str], hz: float, time_column: str, label_column: str
) -> list[Row]:
    rows: list[Row] = []
    begun: float | None = None
    for line, fields in enumerate(reader, start=2):
        if not fields:
            continue
        if len(fields) != len(header):
            raise RecordingError(f"{path}: line {line} has {len(fields)} values where the header names {len(header)}")
        if len(rows) >= MAX_ROWS:
            raise RecordingError(f"{path}: more than {MAX_ROWS} rows")
        texts = dict(zip(header, fields, strict=True))
        label = texts.pop(label_column, "").strip()
        moment = _moment(path, line, texts.pop(time_column)) if time_column else len(rows) / hz
        begun = moment if begun is None else begun
        if rows and moment - begun < rows[-1].at_s:
            raise RecordingError(f"{path}: line {line}, column {time_column!r}: earlier than the line before")
        values = {name: _value(path, line, name, text) for name, text in texts.items()}
        rows.append(Row(at_s=moment - begun, values=values, label=label))
    return rows


def _moment(path: Path, line: int, text: str) -> float:
    value = _value(path, line, "time", text)
    if value is None:
        raise RecordingError(f"{path}: line {line} has no time")
    return value


def _value(path: Path, line: int, name: str, text: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        raise RecordingError(f"{path}: line {line}, column {name!r}: {text[:40]!r} is no number") from None
    return value if math.isfinite(value) else None
