from __future__ import annotations

from fedmq.chaos import Strike
from fedmq.demo_plan import DevicePlan
from fedmq.timeline import Action, Timeline, timeline

PLANS = [
    DevicePlan(name="early", training_s=1.0),
    DevicePlan(name="late", training_s=1.0, joins_at_s=10.0),
    DevicePlan(name="away", training_s=1.0, leaves_at_s=20.0, returns_at_s=30.0),
]


def did(actions: list[Action]) -> list[tuple[str, str]]:
    return [(action.kind, action.target) for action in actions]


def test_devices_come_and_go_by_plan() -> None:
    line = Timeline(timeline(PLANS, []))

    assert did(line.due(0.0)) == [("join", "early"), ("join", "away")]
    assert did(line.due(9.9)) == []
    assert did(line.due(25.0)) == [("join", "late"), ("leave", "away")]
    assert did(line.due(99.0)) == [("return", "away")]


def test_who_is_not_there_cannot_be_killed() -> None:
    strikes = [Strike(at_s=5.0, target="late", back_at_s=6.0), Strike(at_s=21.0, target="away", back_at_s=22.0)]
    line = Timeline(timeline(PLANS, strikes))

    assert did(line.due(25.0)) == [("join", "early"), ("join", "away"), ("join", "late"), ("leave", "away")]


def test_who_leaves_while_down_stays_away() -> None:
    line = Timeline(timeline(PLANS, [Strike(at_s=19.0, target="away", back_at_s=21.0)]))
    line.due(15.0)

    assert did(line.due(29.0)) == [("kill", "away")]
    assert did(line.due(30.0)) == [("return", "away")]


def test_who_returns_while_down_is_started_once() -> None:
    plans = [DevicePlan(name="away", training_s=1.0, leaves_at_s=2.0, returns_at_s=3.0)]
    line = Timeline(timeline(plans, [Strike(at_s=1.0, target="away", back_at_s=4.0)]))

    assert did(line.due(10.0)) == [("join", "away"), ("kill", "away"), ("revive", "away")]


def test_at_the_end_everybody_who_is_down_comes_back_and_nothing_else_happens() -> None:
    strikes = [Strike(at_s=1.0, target="broker", back_at_s=5.0), Strike(at_s=2.0, target="early", back_at_s=3.0)]
    line = Timeline(timeline(PLANS, strikes), present=["broker"])
    line.due(2.5)
    assert line.down == {"broker", "early"}

    assert did(line.last_words()) == [("revive", "broker"), ("revive", "early")]
    assert line.due(99.0) == []
    assert line.down == frozenset()
