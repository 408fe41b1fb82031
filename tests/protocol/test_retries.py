from __future__ import annotations

import random

import pytest

from protocol.link import BrokerSettings
from protocol.retries import SUSPICIOUS_AFTER, Contention, Retries, peace_s

TOP = 1.0 - 1e-9


class Highest(random.Random):
    """Draws the longest wait."""

    def random(self) -> float:
        return TOP


def retries(takeover_wait_s: float = 60.0) -> Retries:
    settings = BrokerSettings(reconnect_min_s=1.0, reconnect_max_s=4.0)
    return Retries(settings, takeover_wait_s, Highest())


def waits(subject: Retries, count: int, kind: str = "lost") -> list[float]:
    found = []
    for number in range(count):
        subject.lost(kind, float(number), silently=False)  # type: ignore[arg-type]
        found.append(round(subject.wait_s(), 3))
    return found


def test_waits_double_up_to_the_longest() -> None:
    assert waits(retries(), 5) == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_waits_after_takeovers_are_long_and_grow() -> None:
    assert waits(retries(), 7, "taken-over") == [60.0, 120.0, 240.0, 480.0, 960.0, 960.0, 960.0]


def test_a_takeover_is_the_first_again_after_an_hour_of_peace() -> None:
    subject = retries()
    waits(subject, 3, "taken-over")
    subject.lost("taken-over", 2.0 + peace_s(60.0), silently=False)
    assert subject.wait_s() == pytest.approx(60.0)


def test_other_losses_between_takeovers_change_nothing() -> None:
    subject = retries()
    waits(subject, 3, "taken-over")
    assert waits(subject, 1, "unreachable") == [1.0]
    assert waits(subject, 1, "taken-over") == [480.0]


def closed_soon(subject: Retries, now: float) -> str:
    subject.came_up(now, resumed=False)
    return subject.lost("lost", now + 0.5, silently=True)


def test_a_broker_that_closes_all_connections_without_a_word_is_suspicious() -> None:
    subject = retries()
    kinds = [closed_soon(subject, float(number)) for number in range(SUSPICIOUS_AFTER + 1)]
    assert kinds == ["lost"] * (SUSPICIOUS_AFTER - 1) + ["perhaps-taken-over"] * 2
    assert subject.wait_s() == pytest.approx(60.0)


def test_a_broker_that_is_away_in_between_only_crashes() -> None:
    subject = retries()
    for number in range(3 * SUSPICIOUS_AFTER):
        assert closed_soon(subject, float(number)) == "lost"
        assert subject.lost("unreachable", number + 0.6, silently=False) == "unreachable"


def test_connections_that_last_are_above_suspicion() -> None:
    subject = retries()
    for number in range(3 * SUSPICIOUS_AFTER):
        subject.came_up(100.0 * number, resumed=False)
        assert subject.lost("lost", 100.0 * number + 50.0, silently=True) == "lost"


def test_takeovers_are_counted() -> None:
    contention = Contention(60.0)
    assert [contention.taken_over(float(now)) for now in range(3)] == [1, 2, 3]


def test_takeovers_far_apart_are_not_added_up() -> None:
    contention = Contention(60.0)
    assert {contention.taken_over(number * peace_s(60.0)) for number in range(10)} == {1}
