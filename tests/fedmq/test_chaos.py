from __future__ import annotations

import pytest

from fedmq.chaos import AGGREGATOR, BROKER, strikes

DEVICES = ["watch-1", "watch-2", "watch-3"]


@pytest.mark.parametrize("seed", range(30))
def test_every_kind_of_process_is_hit_and_comes_back_in_time(seed: int) -> None:
    schedule = strikes(DEVICES, seed, start_s=5.0, end_s=40.0, with_broker=True)

    assert {AGGREGATOR, BROKER} < {strike.target for strike in schedule}
    assert any(strike.target in DEVICES for strike in schedule)
    assert all(5.0 <= strike.at_s < strike.back_at_s <= 40.0 for strike in schedule)
    assert [strike.at_s for strike in schedule] == sorted(strike.at_s for strike in schedule)


@pytest.mark.parametrize("seed", range(30))
def test_nobody_is_killed_while_down(seed: int) -> None:
    back_at: dict[str, float] = {}
    for strike in strikes(DEVICES, seed, start_s=0.0, end_s=60.0, with_broker=True):
        assert strike.at_s > back_at.get(strike.target, -1.0)
        back_at[strike.target] = strike.back_at_s


def test_the_same_seed_gives_the_same_strikes() -> None:
    first, again, other = (strikes(DEVICES, seed, start_s=0.0, end_s=30.0, with_broker=True) for seed in (7, 7, 8))

    assert first == again
    assert first != other


def test_a_broker_that_is_not_ours_is_left_alone() -> None:
    schedule = strikes(DEVICES, 0, start_s=0.0, end_s=60.0, with_broker=False)

    assert BROKER not in {strike.target for strike in schedule}
    assert schedule


def test_a_run_too_short_for_chaos_has_none() -> None:
    assert strikes(DEVICES, 0, start_s=5.0, end_s=5.1, with_broker=True) == []
