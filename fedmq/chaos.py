"""Who is killed when: a schedule drawn from a seed before the demo begins. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

AGGREGATOR = "aggregator"
BROKER = "broker"

GAP_S = (1.0, 3.5)
"""Between two strikes: often enough that some fall into another one's recovery."""
DOWN_S = (0.2, 2.5)
"""From the SIGKILL until the supervisor starts the process again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """A SIGKILL: to whom, and when in seconds from the start."""

    at_s: float
    target: str
    back_at_s: float


def strikes(devices: list[str], seed: int, *, start_s: float, end_s: float, with_broker: bool) -> list[Strike]:
    """Return the strikes from ``start_s`` to ``end_s`` in order of time; the same ones for the same arguments.

    Half of them hit devices, the others the aggregator and, ``with_broker``, the broker. Nobody is struck while down,
    and everybody is back by ``end_s``.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    pillars = [AGGREGATOR, BROKER] if with_broker else [AGGREGATOR]
    back_at = dict.fromkeys([*devices, *pillars], 0.0)
    # The pillars come first and in turn: however short the run, each is hit once before any is hit twice.
    due = list(pillars)
    schedule: list[Strike] = []
    now = start_s
    while True:
        if len(schedule) % 2 == 0:
            due = due or rng.sample(pillars, len(pillars))
            target = due.pop(0)
        else:
            target = rng.choice(devices)
        down_s = rng.uniform(*DOWN_S)
        if now + down_s > end_s:
            return schedule
        if now > back_at[target]:
            schedule.append(Strike(at_s=now, target=target, back_at_s=now + down_s))
            back_at[target] = now + down_s
        now += rng.uniform(*GAP_S)
