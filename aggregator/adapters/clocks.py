"""Waiting for the date, for the one thing here that cannot do without: the number of a new epoch."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from protocol.adapters.notify import Notifier

if TYPE_CHECKING:
    from protocol.adapters.system_clock import SystemClock

log = logging.getLogger(__name__)

LOOK_S = 0.5


def date_of_epoch(clock: SystemClock) -> float:
    """Return the date, after a wait of at most ``clock.wait_s`` for one that can be right.

    Raise ``ValueError`` when there is none then. It is never less than what was known before.
    """
    deadline = time.monotonic() + clock.wait_s
    said = False
    while complaint := clock.complaint():
        if time.monotonic() >= deadline:
            raise ValueError(
                f"{complaint}. A new history of the model is numbered by the clock, and devices would refuse one that "
                "seems older than what they know: set the clock, then start again"
            )
        if not said:
            said = True
            text = f"{complaint}: waiting up to {clock.wait_s:g} s for a time service to set it"
            log.warning(text)
            _show(text)
        time.sleep(LOOK_S)
    return max(clock.read().wall, clock.last_known)


def _show(text: str) -> None:
    notifier = Notifier()
    notifier.send(f"STATUS={text}")
    notifier.close()
