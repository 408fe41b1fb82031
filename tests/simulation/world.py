"""A clock that jumps from event to event, and the chance that decides about the weather."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What the network and the processes suffer. Probabilities are per message, or per batch for crashes."""

    drop: float = 0.0
    """A broker drops a message after acknowledging it, as Mosquitto does past its queue limit."""
    duplicate: float = 0.0
    min_delay_s: float = 0.001
    max_delay_s: float = 0.01
    """Each message is delayed on its own, so a wide range reorders."""
    cut_every_s: float = 0.0
    """Mean time between cuts of somebody's connection; 0: never."""
    crash_aggregator: float = 0.0
    crash_device: float = 0.0
    store_fails: float = 0.0
    heat: float = 0.0
    """Share of the looks at its sensors that find a device too hot to train."""
    broker_restart_every_s: float = 0.0
    broker_forgets: float = 0.5
    """Share of the broker's restarts that lose everything retained and every session."""


FINE = Weather()


class World:
    """Time, chance and weather of one simulation."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.weather = weather
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, moment: float, action: Callable[[], None]) -> None:
        moment = max(self.now, moment)
        heapq.heappush(self._queue, (moment, next(self._order), action))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay_s, action)

    def transit_s(self) -> float:
        weather = self.weather
        return weather.min_delay_s + (weather.max_delay_s - weather.min_delay_s) * self.rng.random()

    def chance(self, probability: float) -> bool:
        return probability > 0.0 and self.rng.random() < probability

    def run(self, until: float, max_events: int = 500_000) -> None:
        queue = self._queue
        for _ in range(max_events):
            if not queue or queue[0][0] > until:
                self.now = until
                return
            self.now, _, action = heapq.heappop(queue)
            action()
        raise AssertionError(f"more than {max_events} events by {self.now:.1f} s: somebody is busy with nothing")


class Alarm:
    """One process's tick at the deadline that its core names: never more than one is on its way.

    ``deadline`` is asked again when the moment has come, for meanwhile it may have been put off.
    """

    def __init__(self, world: World, deadline: Callable[[], float | None], ring: Callable[[], None]) -> None:
        self._world, self._deadline, self._ring = world, deadline, ring
        self._set_for: float | None = None

    def set(self) -> None:
        """Look at the deadline; to be called whenever the core has handled something."""
        deadline = self._deadline()
        if deadline is None:
            return
        # A deadline in the past is served soon, not at once: a core that asks for ever must not freeze the clock.
        moment = max(deadline, self._world.now + 1e-3)
        if self._set_for is None or moment < self._set_for:
            self._set_for = moment
            self._world.at(moment, lambda: self._due(moment))

    def cancel(self) -> None:
        """Ring no more: the process is gone."""
        self._set_for = None

    def _due(self, moment: float) -> None:
        if self._set_for != moment:
            return  # replaced by an earlier one, or cancelled
        self._set_for = None
        deadline = self._deadline()
        if deadline is not None and deadline <= moment:
            self._ring()
        else:
            self.set()
