"""Messages of local topics: JSON as zigbee2mqtt, Tasmota and many others send it, and bare numbers and words."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from device_agent.sensing.intake import Intake
from device_agent.sensing.labelling import LabelBoard
from device_agent.sensing.paths import WHOLE, look_up, parse_path
from device_agent.sensing.rows import Moment, Row, Stretch
from device_agent.sensing.sources import MqttSource
from device_agent.sensing.values import Sent
from protocol.filters import matches

MAX_PAYLOAD_BYTES = 65536
"""What is larger is no message of a sensor."""

MAX_BARE = 256
"""Bytes of a payload that is no JSON, but a word."""

SHOWN = 80
"""Characters of a topic in messages."""

Taken: TypeAlias = Row | Stretch


class PayloadError(ValueError):
    """A payload that is neither JSON nor a word; the text is short."""


def document_of(payload: bytes) -> Sent:
    """Return the JSON document, or the text of a payload that is no JSON; None for an empty one.

    Raise ``PayloadError``.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PayloadError("too large")
    if not payload.strip():
        return None
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _bare(payload)


def _bare(payload: bytes) -> str:
    # A word: ON, 21.5 with a comma in front of its unit, unavailable. What begins like JSON was meant to be that.
    if len(payload) > MAX_BARE or payload.lstrip()[:1] in (b"{", b"[", b'"'):
        raise PayloadError("no JSON")
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise PayloadError("no JSON") from None


class MessageReader:
    """One ``kind = "mqtt"`` source: what its messages lead to. Not thread-safe."""

    def __init__(self, name: str, table: MqttSource, board: LabelBoard, now: float) -> None:
        self.intake = Intake(name, table, board, now)
        self.table = table
        self._paths = [parse_path(place) for place in table.fields.values()]
        self._time = parse_path(table.time) if table.time else None
        self._label = parse_path(table.label or WHOLE)
        self._from = parse_path(table.label_from) if table.label_from else None
        self._until = parse_path(table.label_until) if table.label_until else None

    @property
    def topics(self) -> tuple[str, ...]:
        """What to subscribe to."""
        table = self.table
        return tuple(dict.fromkeys([*table.topics, *([table.label_topic] if table.label_topic else [])]))

    def read(self, topic: str, payload: bytes, at: Moment, *, retained: bool = False) -> list[Taken]:
        """Return what the message leads to; nothing if it is none of this source's, or cannot be used."""
        found: list[Taken] = []
        if self.table.label_topic and matches(self.table.label_topic, topic):
            found += self._read_label(topic, payload, at)
        if any(matches(text, topic) for text in self.table.topics):
            found += self._read_row(topic, payload, at, retained=retained)
        return found

    def _read_row(self, topic: str, payload: bytes, at: Moment, *, retained: bool) -> list[Taken]:
        intake = self.intake
        if retained and self.table.retained == "skip":
            intake.note("kept by the broker", topic[:SHOWN])
            return []
        if not intake.allows(at.monotonic_s):
            return []
        document = self._document(topic, payload)
        if document is None:
            return []
        time = None if self._time is None else look_up(document, self._time)
        if self._time is not None and time is None:
            intake.refuse("no time", topic[:SHOWN])
            return []
        in_row = self.table.label and not self.table.label_topic
        label = look_up(document, self._label) if in_row else None
        raws = [look_up(document, path) for path in self._paths]
        row = intake.take(raws, at, time=time, label=label, where=topic[:SHOWN])
        return [] if row is None else [row]

    def _document(self, topic: str, payload: bytes) -> Sent:
        try:
            document = document_of(payload)
        except PayloadError as exc:
            self.intake.refuse(str(exc), topic[:SHOWN])
            return None
        if document is None:
            self.intake.note("empty", topic[:SHOWN])
        return document

    def _read_label(self, topic: str, payload: bytes, at: Moment) -> list[Taken]:
        intake, where = self.intake, topic[:SHOWN]
        try:
            document = document_of(payload)
        except PayloadError as exc:
            intake.note(f"label: {exc}", where)
            return []
        label = look_up(document, self._label)
        if self._from is None or look_up(document, self._from) is None:
            intake.hold_label(label, where)
            return []
        stretch = self._stretch(document, label, at, where)
        return [] if stretch is None else [stretch]

    def _stretch(self, document: Sent, label: Sent, at: Moment, where: str) -> Stretch | None:
        intake = self.intake
        number = intake.label(label, where)
        begin = look_up(document, self._from or ())
        end = look_up(document, self._until) if self._until is not None else None
        start = intake.moment(begin, at, where) if begin is not None else None
        until = at.wall_s if end is None else intake.moment(end, at, where)
        if number is None or start is None or until is None or not start <= until:
            intake.note("label: no stretch of time", where)
            return None
        scope = None if self.table.label_scope == "all" else intake.name
        return Stretch(source=scope, start=start, until=until, label=number)
