"""What sources lead to: rows of the sample store, and labels for stretches of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from device_agent.sensing.values import MISSING


class Moment(NamedTuple):
    """When something came in."""

    monotonic_s: float
    wall_s: float
    """Seconds since 1970 UTC."""
    clock_set: bool = True
    """Whether ``wall_s`` may be believed."""
    clock_sure: bool = True
    """Whether nobody will say that it is another time after all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one source measured at one time. At least one value is there."""

    source: str
    channels: tuple[str, ...]
    values: tuple[float, ...]
    """One for each channel; NaN: missing."""
    time: float
    """Seconds since 1970 UTC."""
    label: float = MISSING
    """NaN: not labelled (yet)."""
    arrived: float | None = None
    """Monotonic seconds, when ``time`` is what a clock said that was not set, or not surely: it is mended later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootTime:
    """What the clocks say of this boot, when rows are stored."""

    boot: str
    """Name of the boot."""
    awake: float
    """What is to be added to monotonic seconds to have seconds since boot, time spent suspended included."""
    offset: float
    """What is to be added to seconds since boot to have the time since 1970, if the clock is right."""
    dated: bool
    """Whether the clock says a date that can be."""
    sure: bool
    """Whether nobody will say that it is another one after all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A label for all rows of a time, also long past."""

    source: str | None
    """Whose rows; None: everybody's."""
    start: float
    until: float
    """Seconds since 1970 UTC, both included."""
    label: float
    """NaN takes labels away."""


class RowListener(Protocol):
    """Who is handed every row at once, before it is stored: predictions, for one.

    Called in the thread that took the row in (a link's, a file's or a plug-in's): it must not block, and hands the row
    on to a thread of its own.
    """

    def __call__(self, row: Row, /) -> None:
        """Take the row."""
