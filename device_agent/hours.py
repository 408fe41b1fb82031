"""Spans of the day such as ``22:00-06:00``. Pure: the time of day comes as seconds since local midnight."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

DAY_S = 86_400
HOURS_PATTERN = r"\A(?:[01]\d|2[0-3]):[0-5]\d-(?:(?:[01]\d|2[0-3]):[0-5]\d|24:00)\Z"


def span(text: str) -> tuple[int, int]:
    """Return start and end of ``HH:MM-HH:MM`` in seconds since midnight; the end may lie on the next day.

    Raise ``ValueError`` when both are the same: nobody could say whether that means always or never.
    """
    start, end = (_seconds(part) for part in text.split("-"))
    if start == end:
        raise ValueError(f"{text!r} begins and ends at the same time: write 00:00-24:00 for the whole day")
    return start, end if end > start else end + DAY_S


def left_within(spans: Iterable[str], clock_s: int) -> int | None:
    """Return in how many seconds the span ends in which ``clock_s`` lies (the end is outside); None when in none."""
    found = [end - at for start, end in map(span, spans) for at in (clock_s, clock_s + DAY_S) if start <= at < end]
    return max(found, default=None)


def until_next(spans: Iterable[str], clock_s: int) -> int:
    """Return in how many seconds the next of the spans begins; 0 < result <= a day."""
    return min(((start - clock_s - 1) % DAY_S + 1 for start, _end in map(span, spans)), default=DAY_S)


def time_of_day(seconds: int) -> str:
    """Return ``HH:MM`` of so many seconds since some midnight."""
    minutes = seconds % DAY_S // 60
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _seconds(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60
