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
    """Monotonic seconds, when ``time`` is what a clock said that was not set: it is mended before it is stored."""


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
