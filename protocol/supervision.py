"""What a process tells the service manager that started it, and when: ready, a line for people, and "still alive".

The sending is ``protocol.adapters.notify``'s; the protocol is that of sd_notify(3). Times are seconds of one monotonic
clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

STATUS_EVERY_S = 1.0
"""A line for people need not change faster than they read."""

SHARE = 0.5
"""The watchdog is fed twice in its time, as sd_watchdog_enabled(3) advises."""

AGAIN = 0.25
"""Of the time between two feedings: so soon a process that was not whole is looked at again."""

MAX_LINE = 300
"""Characters: what ``systemctl status`` shows on a wide terminal, and then some."""


def all_alive(
    *,
    link_answers: bool,
    trainer_alive: bool = True,
    step_s: float = 0.0,
    max_step_s: float = 0.0,
    sensing_alive: bool = True,
) -> bool:
    """Return whether the watchdog is to be fed, asked by the worker, who is alive to ask.

    ``link_answers``: the network thread did what it was asked to do last time, or there is none on purpose.
    ``step_s``: for how long the trainer has been at its step, 0 between tasks; at most ``max_step_s``, where 0 stands
    for any time. A long training is no reason; a step that does not end is. ``sensing_alive``: so are the threads that
    take samples in, or there are none on purpose.
    """
    return link_answers and trainer_alive and sensing_alive and (max_step_s <= 0 or step_s <= max_step_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """One message to the service manager."""

    ready: bool = False
    line: str = ""
    fed: bool = False
    stopping: bool = False

    @property
    def text(self) -> str:
        """The message as sd_notify(3) wants it: one assignment a line."""
        assignments = ["READY=1"] * self.ready + ["STOPPING=1"] * self.stopping + ["WATCHDOG=1"] * self.fed
        if self.line:
            assignments.append(f"STATUS={one_line(self.line)}")
        return "\n".join(assignments)


def one_line(text: str) -> str:
    """Return the text fit for one assignment, whatever a message from outside brought into it."""
    return "".join(character if character.isprintable() else " " for character in text)[:MAX_LINE]


class Supervision:
    """When to tell what. ``due`` decides, ``told`` or ``not_told`` says what became of it."""

    def __init__(self, watchdog_s: float | None = None) -> None:
        """``watchdog_s``: after so long a silence we are killed; None: nobody watches."""
        self._feed_every_s = watchdog_s * SHARE if watchdog_s else math.inf
        self._feed_at = -math.inf if watchdog_s else math.inf
        self._settled = self._ready = False
        self._stopping = self._goodbye_said = False
        self._news = True
        self._line = ""
        self._speak_at = -math.inf

    def settle(self) -> None:
        """Note that we are connected, or know that we are not: the start is over."""
        self._settled = True

    def stop(self) -> None:
        """Note that the end has begun."""
        self._stopping = True

    def note(self) -> None:
        """Note that something happened, so that the line may be another one."""
        self._news = True

    @property
    def next_at(self) -> float:
        """When ``due`` wants to be asked again; infinity = not before something happens."""
        speaking = self._speak_at if self._something_to_say else math.inf
        return min(self._feed_at, speaking)

    def due(self, now: float, line: Callable[[], str], alive: Callable[[], bool]) -> Telling | None:
        """Return what to tell now, if anything. ``line`` and ``alive`` are asked only when it matters."""
        fed = now >= self._feed_at and self._is_fed(now, alive)
        new = ""
        if self._news and now >= self._speak_at:
            self._news = False
            new = line()
        telling = Telling(
            ready=self._settled and not self._ready,
            line=new if new != self._line else "",
            fed=fed,
            stopping=self._stopping and not self._goodbye_said,
        )
        return telling if telling.text else None

    def told(self, telling: Telling, now: float) -> None:
        """Note that the message is with the service manager."""
        self._ready = self._ready or telling.ready
        self._goodbye_said = self._goodbye_said or telling.stopping
        if telling.line:
            self._line = telling.line
            self._speak_at = now + STATUS_EVERY_S

    def not_told(self, telling: Telling, now: float) -> None:
        """Note that the message could not be sent; it is due again soon."""
        self._speak_at = now + STATUS_EVERY_S
        self._news = True
        if telling.fed:
            self._feed_at = now + self._feed_every_s * AGAIN

    @property
    def _something_to_say(self) -> bool:
        return self._news or self._settled > self._ready or self._stopping > self._goodbye_said

    def _is_fed(self, now: float, alive: Callable[[], bool]) -> bool:
        living = alive()
        self._feed_at = now + self._feed_every_s * (1.0 if living else AGAIN)
        return living
