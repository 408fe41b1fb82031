"""When a row was measured, as its sender says it: ISO 8601, or seconds or milliseconds since 1970."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from device_agent.sensing.values import Sent

MILLISECONDS_FROM = 1e11
"""As seconds this would be the year 5138, as milliseconds it is 1973."""

LATEST = 1e14
"""In milliseconds the year 5138."""

EARLIEST_S = 946_684_800.0
"""The year 2000: clocks that were never set say less."""

MAX_AHEAD_S = 3600.0
"""A sender's clock may be ahead of ours by this; beyond it one of the two is wrong."""


class MomentError(ValueError):
    """No time, or one that cannot be; the text says which."""


def moment_of(value: Sent, now: float | None) -> float:
    """Return the time in seconds since 1970 UTC; raise ``MomentError``.

    A number below 1e11 is in seconds, above in milliseconds. A date and time without an offset is UTC. ``now``: the
    wall clock, if it can be trusted; then what is more than an hour ahead of it is refused.
    """
    seconds = _of_text(value) if isinstance(value, str) else _of_number(value)
    if not seconds >= EARLIEST_S:
        raise MomentError("a time before 2000")
    if now is not None and seconds > now + MAX_AHEAD_S:
        raise MomentError("a time more than an hour ahead of this board's clock")
    return seconds


def _of_number(value: Sent) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MomentError("a time that is neither text nor number")
    if not abs(value) < LATEST:
        raise MomentError("a time beyond the year 5000")
    number = float(value)
    return number / 1000.0 if number >= MILLISECONDS_FROM else number


def _of_text(text: str) -> float:
    text = text.strip()
    try:
        number = float(text)
    except ValueError:
        return _of_date(text)
    if not math.isfinite(number):
        raise MomentError("a time that is not finite")
    return _of_number(number)


def _of_date(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise MomentError("a time that is neither ISO 8601 nor a number") from None
