"""The running median of norms, and deltas shortened to a multiple of it."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.clipping import MAX_VOTES, MIN_VOTES, NormMedian
from aggregator.configuration import AdmissionTable, ScheduleTable
from tests.aggregator.harness import SIZE, Bench, settings_with

NEVER = ScheduleTable(goal=0, interval_s=60.0)
HONEST = np.full(SIZE, 0.1, np.float32)


def bench_of(clip_factor: float) -> Bench:
    return Bench(settings_with(schedule=NEVER, admission=AdmissionTable(clip_factor=clip_factor, messages_per_s=0.0)))


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0.0, 1e6)), max_size=600))
def test_it_is_the_median_of_each_device_s_last_norm(notes: list[tuple[int, float]]) -> None:
    median = NormMedian()
    last: dict[str, float] = {}
    for device, norm in notes:
        median.note(str(device), norm)
        last.pop(str(device), None)
        last[str(device)] = norm
    votes = list(last.values())[-MAX_VOTES:]
    expected = statistics.median_low(votes) if len(votes) >= MIN_VOTES else None
    assert median.median == expected


def test_one_device_has_one_vote_however_often_it_sends() -> None:
    median = NormMedian((f"honest-{i}", 1.0) for i in range(6))
    for _ in range(10_000):
        median.note("loud", 1e9)
    assert median.median == 1.0


@pytest.mark.parametrize(("norm", "expected"), [(1.0, 1.0), (3.0, 1.0), (3.1, 3.0 / 3.1), (3e6, 1e-6)])
def test_only_what_is_too_long_is_shortened(norm: float, expected: float) -> None:
    median = NormMedian((f"{i}", 1.0) for i in range(MIN_VOTES))
    assert median.factor(norm, 3.0) == pytest.approx(expected)
    assert median.factor(norm, 0.0) == 1.0


def test_steps_of_no_length_are_no_measure() -> None:
    assert NormMedian((f"{i}", 0.0) for i in range(9)).factor(5.0, 3.0) == 1.0


def test_too_few_votes_are_no_measure() -> None:
    assert NormMedian((f"{i}", 1.0) for i in range(MIN_VOTES - 1)).factor(1e9, 3.0) == 1.0


def test_a_boosted_update_moves_the_model_no_further_than_allowed() -> None:
    bench = bench_of(clip_factor=4.0)
    for i in range(9):
        assert bench.answer(bench.update(f"honest-{i}", delta=HONEST), f"honest-{i}").status == "accepted"
    attack = np.full(SIZE, -50.0, np.float32)
    assert bench.answer(bench.update("mallory", delta=attack), "mallory").status == "accepted"

    mean = bench.core.ledger.buffer.sum.mean()
    expected = (9 * HONEST.astype(np.float64) - 4.0 * HONEST) / 10
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    assert bench.core.fleet.counters.clipped == 1
    last = bench.core.ledger.buffer.contributions[-1]
    assert last.clip == pytest.approx(4.0 * 0.1 / 50.0, rel=1e-5)
    assert last.weight == 10.0


def test_what_is_not_clipped_has_the_same_bits_as_without_clipping() -> None:
    sums = []
    for factor in (0.0, 10.0):
        bench = bench_of(factor)
        rng = np.random.default_rng(3)
        for i in range(30):
            bench.send(bench.update(f"d{i}", delta=rng.normal(size=SIZE).astype(np.float32)), f"d{i}")
        sums.append(bench.core.ledger.buffer.sum)
    assert sums[0].total.tobytes() == sums[1].total.tobytes()
    assert sums[0].weight == sums[1].weight


def test_a_restart_replays_clipped_updates_bit_for_bit_and_knows_the_median() -> None:
    bench = bench_of(clip_factor=2.0)
    rng = np.random.default_rng(4)
    for i in range(20):
        delta = (rng.normal(size=SIZE) * (100.0 if i % 5 == 4 else 1.0)).astype(np.float32)
        bench.now += 1.0
        bench.send(bench.update(f"d{i}", delta=delta), f"d{i}")
    assert bench.core.fleet.counters.clipped > 0

    again = bench.restart()

    assert again.core.ledger.buffer.sum.total.tobytes() == bench.core.ledger.buffer.sum.total.tobytes()
    boosted = {"delta": np.full(SIZE, 1e3, np.float32)}
    clips = []
    for each in (bench, again):
        each.send(each.update("new", **boosted), "new")
        clips.append(each.core.ledger.buffer.contributions[-1].clip)
    assert clips[0] == clips[1] < 1.0
