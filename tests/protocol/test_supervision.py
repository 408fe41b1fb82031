"""When a process tells what to its service manager, and when it lets the watchdog starve."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from protocol.supervision import Supervision, Telling, all_alive


@dataclass
class World:
    """A process of which the test decides how it is."""

    plan: Supervision
    line: str = "fine"
    alive: bool = True
    asked: list[str] = field(default_factory=list)

    def turn(self, now: float, *, sent: bool = True) -> Telling | None:
        telling = self.plan.due(now, self.say, self.look)
        if telling is not None:
            (self.plan.told if sent else self.plan.not_told)(telling, now)
        return telling

    def say(self) -> str:
        self.asked.append("line")
        return self.line

    def look(self) -> bool:
        self.asked.append("alive")
        return self.alive


@pytest.mark.parametrize(
    ("link", "trainer", "step_s", "max_step_s", "expected"),
    [
        (True, True, 0.0, 600.0, True),
        (True, True, 600.0, 600.0, True),
        (True, True, 600.1, 600.0, False),
        (True, True, 1e9, 0.0, True),  # 0: a step may take any time
        (False, True, 0.0, 600.0, False),
        (True, False, 0.0, 600.0, False),
        (False, False, 1e9, 0.0, False),
    ],
)
def test_the_watchdog_is_fed_only_while_all_are_alive(
    *, link: bool, trainer: bool, step_s: float, max_step_s: float, expected: bool
) -> None:
    assert all_alive(link_answers=link, trainer_alive=trainer, step_s=step_s, max_step_s=max_step_s) is expected


def test_it_is_ready_once_and_only_when_settled() -> None:
    world = World(Supervision())
    assert world.turn(0.0) == Telling(line="fine")
    world.plan.settle()
    assert world.turn(0.1) == Telling(ready=True)
    world.plan.settle()
    assert world.turn(0.2) is None


def test_a_line_is_told_when_it_changes_and_at_most_once_a_second() -> None:
    world = World(Supervision())
    world.turn(0.0)
    for tenth in range(1, 10):
        world.line = f"changed {tenth}"
        world.plan.note()
        assert world.turn(tenth / 10) is None
    assert world.plan.next_at == 1.0
    assert world.turn(1.0) == Telling(line="changed 9")
    world.plan.note()
    assert world.turn(5.0) is None  # the same as before
    assert world.asked.count("line") == 3


def test_nothing_is_due_and_nobody_is_woken_while_nothing_happens() -> None:
    world = World(Supervision())
    world.turn(0.0)
    assert world.plan.next_at == math.inf
    assert world.turn(1000.0) is None
    assert "alive" not in world.asked  # nobody watches


def test_it_is_fed_twice_in_the_watchdogs_time() -> None:
    world = World(Supervision(10.0))
    world.turn(0.0)
    assert world.plan.next_at == 5.0
    assert world.turn(4.9) is None
    assert world.turn(5.1) == Telling(fed=True)
    assert world.plan.next_at == 10.1


def test_one_that_is_not_whole_is_looked_at_again_sooner_and_is_fed_when_it_is() -> None:
    world = World(Supervision(10.0))
    world.turn(0.0)
    world.alive = False
    assert world.turn(5.0) is None
    assert world.plan.next_at == 6.25
    world.alive = True
    assert world.turn(6.25) == Telling(fed=True)
    assert world.plan.next_at == 11.25


def test_what_could_not_be_sent_is_due_again() -> None:
    world = World(Supervision(10.0))
    world.plan.settle()
    everything = Telling(ready=True, line="fine", fed=True)
    assert world.turn(0.0, sent=False) == everything
    assert world.plan.next_at == 1.0
    assert world.turn(1.0) == Telling(ready=True, line="fine")
    assert world.plan.next_at == 1.25
    assert world.turn(1.25) == Telling(fed=True)


def test_the_end_is_told_once() -> None:
    world = World(Supervision())
    world.turn(0.0)
    world.plan.stop()
    assert world.turn(0.1) == Telling(stopping=True)
    assert world.turn(0.2) is None


def test_a_line_from_outside_cannot_say_anything_else() -> None:
    text = Telling(ready=True, line="paused\nMAINPID=1\x00" + "x" * 1000).text
    assert text.startswith("READY=1\nSTATUS=paused MAINPID=1 x")
    assert len(text.splitlines()) == 2
    assert len(text) < 400
