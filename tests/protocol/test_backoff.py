from __future__ import annotations

import random

import pytest

from protocol.backoff import Backoff


def test_ceilings_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3.0, random.Random(1))
    ceilings = []
    for _ in range(5):
        ceilings.append(backoff.ceiling_s)
        backoff.next_s()

    assert ceilings == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("seed", range(20))
def test_waits_are_between_zero_and_the_ceiling(seed: int) -> None:
    backoff = Backoff(1.0, 64.0, random.Random(seed))

    for _ in range(20):
        ceiling_s = backoff.ceiling_s
        assert 0.0 <= backoff.next_s() <= ceiling_s


def test_the_jitter_is_full() -> None:
    waits = [Backoff(8.0, 8.0, random.Random(seed)).next_s() for seed in range(400)]

    assert min(waits) < 0.4
    assert max(waits) > 7.6
    assert 3.6 < sum(waits) / len(waits) < 4.4


def test_waits_are_the_rngs_alone() -> None:
    first, second = (Backoff(1.0, 9.0, random.Random(7)) for _ in range(2))

    assert [first.next_s() for _ in range(9)] == [second.next_s() for _ in range(9)]


def test_a_success_that_did_not_last_changes_nothing() -> None:
    backoff = Backoff(1.0, 60.0, random.Random(1))
    backoff.next_s()

    assert not backoff.lasted(19.9)
    assert backoff.ceiling_s == 2.0


def test_a_lasting_success_starts_again() -> None:
    backoff = Backoff(1.0, 60.0, random.Random(1))
    backoff.next_s()

    assert backoff.lasted(20.0)
    assert backoff.ceiling_s == 1.0


def test_what_lasted_as_long_as_the_longest_wait_is_enough() -> None:
    backoff = Backoff(1.0, 60.0, random.Random(1))
    for _ in range(10):
        backoff.next_s()

    assert backoff.lasted(60.0)


def test_a_longest_below_the_shortest_is_raised_to_it() -> None:
    backoff = Backoff(2.0, 1.0, random.Random(1))
    backoff.next_s()

    assert backoff.ceiling_s == 2.0


def test_no_wait_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Backoff(0.0, 1.0, random.Random(1))
