"""Numbers that only grow, also when the store with the last one is lost: milliseconds of the wall clock, or more.

Devices refuse whatever is signed and has a lower number than they know: one that fell back would silence us.
"""

from __future__ import annotations

from protocol.clock import EARLIEST_S


def next_number(known: int, wall: float) -> int:
    """Return a number above ``known``, and above every one given before by the clock ``wall`` (seconds since 1970)."""
    return max(int(wall * 1000), known + 1)


def next_generation(known: int, wall: float, *, signed: bool) -> int:
    """Return the number of an epoch that begins now; raise ``ValueError`` when a clock that matters was never set.

    It matters where manifests are ``signed``: elsewhere nobody holds the numbers against us.
    """
    if signed and wall < EARLIEST_S:
        raise ValueError(
            "this machine's clock says that it is before 2025. A new history of the model is numbered by the clock, "
            "and devices would refuse one that seems older than what they know: set the clock, then start again"
        )
    return next_number(known, wall)
