"""Numbers as people read them. Pure. ``-`` stands for what is not known."""

from __future__ import annotations

UNKNOWN = "-"
KILO = 1000
MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86400


def count_text(count: int | None) -> str:
    """Return the count, thousands set apart."""
    return UNKNOWN if count is None else f"{count:,}"


def percent_text(share: float | None) -> str:
    """Return a share from 0 to 1 as per cent with one decimal."""
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def number_text(value: float | None) -> str:
    """Return a number with three significant digits."""
    return UNKNOWN if value is None else f"{value:.3g}"


def rate_text(per_second: float | None) -> str:
    """Return a rate with one decimal."""
    return UNKNOWN if per_second is None else f"{per_second:.1f}/s"


def seconds_text(seconds: float | None) -> str:
    """Return a duration in the unit that suits it: ``0.4 s``, ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    if seconds is None:
        return UNKNOWN
    if seconds < 10:  # noqa: PLR2004 - from two digits on, decimals are noise
        return f"{seconds:.1f} s"
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    if seconds < 2 * DAY_S:
        return f"{seconds / HOUR_S:.0f} h"
    return f"{seconds / DAY_S:.0f} d"


def bytes_text(size: int | None) -> str:
    """Return a size in bytes, kB, MB or GB (powers of 1000)."""
    if size is None:
        return UNKNOWN
    if size < KILO:
        return f"{size} B"
    value, unit = float(size), "B"
    for unit in ("kB", "MB", "GB"):  # noqa: B007 - the unit it stops at is the result
        value /= KILO
        if value < KILO:
            break
    return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"  # noqa: PLR2004 - three digits suffice
