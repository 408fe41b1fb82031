"""A link with TLS and a clock that is not set: certificates cannot be checked, so there is no use in trying at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.clock import jumped

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.adapters.loop import LinkLoop, Timer
    from protocol.adapters.system_clock import SystemClock

LOOK_S = 2.0
"""So often, and only while it is the clock that keeps us from connecting, it is looked at."""


class ClockWait:
    """Holds attempts back while the clock cannot be right, at most for a while. Loop thread only."""

    def __init__(self, loop: LinkLoop, clock: SystemClock | None) -> None:
        """``clock`` None: every clock will do."""
        self._loop = loop
        self._clock = clock
        self._until: float | None = None

    def reason(self) -> str:
        """Return why not to try now, in a line for people; empty: try.

        After ``wait_s`` it is tried whatever the clock says: the broker's certificate may be an old one.
        """
        complaint = self._clock.complaint() if self._clock is not None else ""
        if self._clock is None or not complaint:
            self._until = None
            return ""
        now = self._loop.now()
        if self._until is None:
            self._until = now + self._clock.wait_s
        if now >= self._until:
            return ""
        return (
            f"{complaint}: waiting up to {self._clock.wait_s:g} s for a time service to set it, then trying TLS anyway"
        )

    def call(self, due: float, call: Callable[[], None]) -> Recall | Timer:
        """Have the call made at ``due``, or as soon as the clock was set."""
        return self._loop.call_at(due, call) if self._clock is None else Recall(self._loop, self._clock, due, call)


class Recall:
    """A call at some time, or before that, when the clock was set: nothing tells a process, so it looks."""

    def __init__(self, loop: LinkLoop, clock: SystemClock, due: float, call: Callable[[], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._due = due
        self._call = call
        self._before = clock.read()
        self._timer = self._again()

    def cancel(self) -> None:
        """Never make the call."""
        self._timer.cancel()

    def _again(self) -> Timer:
        return self._loop.call_at(min(self._due, self._loop.now() + LOOK_S), self._look)

    def _look(self) -> None:
        if self._loop.now() >= self._due or jumped(self._before, self._clock.read()):
            self._call()
        else:
            self._timer = self._again()
