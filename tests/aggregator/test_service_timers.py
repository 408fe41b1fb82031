"""Timers under clocks that jump: one event, never a storm, never silence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from aggregator.adapters.timers import LOOK_S, CronLine, Timers
from aggregator.events import MetricsDue, ScheduleDue
from protocol.settings import ConfigurationError

DAY_S = 86400.0


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def timers(*, interval_s: float = 0.0, cron: str = "", metrics_s: float = 1e9, wall: float = 0.0) -> Timers:
    return Timers(interval_s=interval_s, cron=cron, metrics_s=metrics_s, now=100.0, wall=wall)


def test_an_interval_keeps_its_step() -> None:
    clock = timers(interval_s=10.0)
    due = [now for now in range(100, 151) if clock.due(float(now), 0.0)]
    assert due == [110, 120, 130, 140, 150]


def test_an_interval_does_not_look_at_the_wall_clock() -> None:
    clock = timers(interval_s=10.0, wall=at("2025-06-01"))
    assert clock.due(109.0, at("2025-06-02")) == []
    assert clock.due(110.0, at("2025-05-31")) == [ScheduleDue()]
    assert clock.due(119.0, at("1970-01-01")) == []
    assert clock.due(120.0, at("2031-01-01")) == [ScheduleDue()]


def test_what_was_slept_through_is_one_event() -> None:
    clock = timers(interval_s=10.0, metrics_s=5.0)
    assert clock.due(100.0 + 3 * DAY_S + 1.0, 0.0) == [ScheduleDue(), MetricsDue()]
    assert clock.due(100.0 + 3 * DAY_S + 1.0, 0.0) == []
    assert clock.due(100.0 + 3 * DAY_S + 10.0, 0.0) == [ScheduleDue(), MetricsDue()]


def test_zero_means_never() -> None:
    clock = timers()
    assert clock.due(1e8, 0.0) == []
    assert clock.wait_s(100.0, 0.0) == LOOK_S


def test_cron() -> None:
    clock = timers(cron="30 3 * * *", wall=at("2025-06-01T03:29:50"))
    assert clock.wait_s(100.0, at("2025-06-01T03:29:50")) == LOOK_S
    assert clock.wait_s(100.0, at("2025-06-01T03:29:57")) == pytest.approx(3.0)
    assert clock.due(100.0, at("2025-06-01T03:29:59")) == []
    assert clock.due(101.0, at("2025-06-01T03:30:00")) == [ScheduleDue()]
    assert clock.due(102.0, at("2025-06-01T03:30:01")) == []
    assert clock.due(103.0, at("2025-06-02T03:30:01")) == [ScheduleDue()]


def test_cron_and_interval_at_once_are_one_event() -> None:
    clock = timers(interval_s=10.0, cron="* * * * *", wall=at("2025-06-01T00:00:30"))
    assert clock.due(110.0, at("2025-06-01T00:01:00")) == [ScheduleDue()]


def test_a_jump_of_fifty_years_is_one_event_at_once() -> None:
    clock = timers(cron="* * * * *", wall=30.0)
    begin = time.process_time()
    assert clock.due(101.0, at("2025-06-01T00:00:30")) == [ScheduleDue()]
    # Walking through every minute of fifty years takes many minutes of processor time.
    assert time.process_time() - begin < 5.0
    assert clock.due(102.0, at("2025-06-01T00:00:59")) == []
    assert clock.due(103.0, at("2025-06-01T00:01:00")) == [ScheduleDue()]


def test_a_jump_back_takes_the_new_time() -> None:
    clock = timers(cron="0 * * * *", wall=at("2025-06-02T12:30:00"))
    assert clock.due(101.0, at("2025-06-01T12:30:00")) == []
    assert clock.due(102.0, at("2025-06-01T13:00:00")) == [ScheduleDue()]


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("0", [6]),
        ("7", [6]),
        ("1-5", [0, 1, 2, 3, 4]),
        ("0-2", [6, 0, 1]),
        ("5-7", [4, 5, 6]),
        ("*/2", [6, 1, 3, 5]),
        ("1,3", [0, 2]),
        ("4/2", [3, 5]),
        ("mon,FRI", [0, 4]),
        ("mon-wed,0", [0, 1, 2, 6]),
        ("*", [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_days_of_the_week_are_crontabs(field: str, days: list[int]) -> None:
    line = CronLine(f"0 0 * * {field}")
    moment, found = at("2025-06-01T12:00:00"), set()
    for _ in range(7):
        moment = line.after(moment)
        found.add(datetime.fromtimestamp(moment, UTC).weekday())
    assert found == set(days)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("61 * * * *", "61"),
        ("x * * * *", "x"),
        ("* * * * 8", "0 to 7"),
        ("* * * * 5-2", "0 to 7"),
        ("* * * * */0", "0 to 7"),
        ("* * * * funday", "funday"),
    ],
)
def test_bad_cron_lines_are_named(line: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        CronLine(line)
    assert "schedule.cron" in str(caught.value)


def test_a_time_that_never_comes() -> None:
    assert CronLine("0 0 31 2 *").after(at("2025-06-01")) == float("inf")
