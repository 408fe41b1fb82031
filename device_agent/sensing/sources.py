"""The tables ``[sources.NAME]`` and ``[samples]``: where samples come from, and how many are kept."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from msgspec import Meta, Struct

from device_agent.sensing.paths import WHOLE, PathError, parse_path
from protocol.filters import check_filter
from protocol.link import BrokerSettings
from protocol.settings import FilePath

Channel: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Place: TypeAlias = Annotated[str, Meta(max_length=256)]
Topic: TypeAlias = Annotated[str, Meta(max_length=1024)]
Pause: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
"""Seconds; 0 switches the thing off."""
Fields: TypeAlias = Annotated[dict[Channel, Annotated[str, Meta(min_length=1, max_length=256)]], Meta(max_length=256)]


class SourceTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all kinds of sources have in common."""

    fields: Fields = {}
    """Channel: where its value is."""
    scale: dict[Channel, float] = {}
    offset: dict[Channel, float] = {}
    """``value = raw * scale + offset``."""
    limits: dict[Channel, Annotated[list[float], Meta(min_length=2, max_length=2)]] = {}
    """Lowest and highest value that can be, in the channel's unit, after scale and offset."""
    error_values: dict[Channel, Annotated[list[float], Meta(max_length=64)]] = {}
    """Raw values by which the sensor says that it has none."""
    freeze_s: dict[Channel, Annotated[float, Meta(gt=0, le=1e9)]] = {}
    """A channel that has not changed at all for so long is frozen."""
    silence_s: Pause = 0.0
    """No row for so long is reported."""
    max_rows_per_s: Annotated[float, Meta(gt=0, le=100_000)] = 100.0
    labels: dict[Annotated[str, Meta(max_length=64)], float] = {}
    """The number that stands for a text, or for ``true`` and ``false``."""
    label_scope: Literal["source", "all"] = "source"
    """Whose rows a label that holds is for."""

    places_are_paths: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("scale", "offset", "limits", "error_values", "freeze_s"):
            unknown = [channel for channel in getattr(self, name) if channel not in self.fields]
            if unknown:
                raise ValueError(f"{name} names {unknown[0]!r}, which is none of the channels in fields")
        for channel, (low, high) in self.limits.items():
            if low > high:
                raise ValueError(f"limits of {channel!r} are [{low:g}, {high:g}]: the lowest value comes first")
        if self.places_are_paths:
            _check_paths([*self.fields.values(), *self._further_places()])

    def _further_places(self) -> list[str]:
        return [place for name in ("time", "label") if (place := getattr(self, name, ""))]

    def _need_fields(self) -> None:
        if not self.fields:
            raise ValueError('fields is missing: channel = "where its value is", at least one')


class MqttSource(SourceTable, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mqtt"):
    """Messages on topics of a broker, by default the one on this board."""

    topics: Annotated[list[Topic], Meta(max_length=256)] = []
    qos: Literal[0, 1] = 1
    retained: Literal["skip", "use"] = "skip"
    """What to do with the message that the broker had kept: it may be from yesterday."""
    time: Place = ""
    label: Place = ""
    """Of the row, in its message; with ``label_topic``: in the messages there."""
    label_topic: Topic = ""
    label_from: Place = ""
    label_until: Place = ""
    """In messages on ``label_topic``: the stretch of time that the label is for, also long past."""
    broker: BrokerSettings = BrokerSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        for topic in (*self.topics, *([self.label_topic] if self.label_topic else [])):
            check_filter(topic)
        if not self.topics and not self.label_topic:
            raise ValueError("topics is missing; without it there has to be a label_topic")
        if bool(self.topics) != bool(self.fields):
            raise ValueError("topics and fields belong together: where messages come, and what is in them")
        if (self.label_from or self.label_until) and not (self.label_topic and self.label_from):
            raise ValueError("label_until needs label_from, and both are for messages on a label_topic")

    def _further_places(self) -> list[str]:
        return [place for place in (self.time, self.label, self.label_from, self.label_until) if place]


class FileSource(SourceTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What sources that are files have in common."""

    path: FilePath
    time: Place = ""
    label: Place = ""
    poll_s: Annotated[float, Meta(gt=0, le=1e6)] = 10.0


class GrowingSource(FileSource, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file to whose end lines are added."""

    label_holds: bool = False
    """Whether a label is for all rows from its own until the next label."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fields and not (self.label and self.label_holds):
            self._need_fields()


class CsvSource(GrowingSource, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="csv"):
    """Lines of values, under a line that names the columns."""

    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","

    places_are_paths: ClassVar[bool] = False


class JsonlSource(GrowingSource, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="jsonl"):
    """One JSON document a line."""


class NpzSource(FileSource, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="npz"):
    """An archive of NumPy arrays, read once per content."""

    interval_s: Pause = 0.0
    """Between rows, where there is no array of times; the last row is as old as the file."""

    places_are_paths: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._need_fields()
        if bool(self.time) == bool(self.interval_s):
            raise ValueError("either time (the array of times) or interval_s is needed, and not both")
        for place in (*self.fields.values(), *self._further_places()):
            _array_place(place)


class PluginSource(SourceTable, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="plugin"):
    """A Python object that somebody else wrote, found by its entry point in the group ``fedmq.sources``."""

    plugin: Annotated[str, Meta(min_length=1, max_length=128)]
    options: dict[str, Any] = {}
    """Handed to the plug-in as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._need_fields()


Source: TypeAlias = MqttSource | CsvSource | JsonlSource | NpzSource | PluginSource


class SamplesSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the sample store, and how often it writes."""

    max_bytes: Annotated[int, Meta(ge=65536, le=2**40)] = 64 * 1024 * 1024
    max_rows: Annotated[int, Meta(ge=100, le=1_000_000_000)] = 1_000_000
    max_age_s: Pause = 30 * 86400.0
    commit_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    """A power cut may lose so much."""
    read_rows: Annotated[int, Meta(ge=100, le=100_000_000)] = 100_000
    """The newest ones, that a training reads: they are in memory all at once."""


def array_of(place: str) -> tuple[str, int | None]:
    """Return the array's name and, for a column of a table, its number: ``x[3]`` is column 3 of ``x``."""
    steps = parse_path(place)
    column = steps[1] if len(steps) > 1 else None
    return str(steps[0]), column if isinstance(column, int) else None


def _array_place(place: str) -> None:
    steps = parse_path(place)
    shape = [type(step) for step in steps]
    if shape not in ([str], [str, int]):
        raise ValueError(f"{place!r} is no array, nor a column of one such as x[3]")


def _check_paths(places: list[str]) -> None:
    for place in places:
        try:
            parse_path(place)
        except PathError as exc:
            raise ValueError(f"{exc}; {WHOLE!r} is the whole payload") from exc
