from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator.buffer import Buffer, Contribution, WeightedSum

SIZE = 5

finite = st.floats(-1e6, 1e6, width=32)
weighted = st.tuples(st.lists(finite, min_size=SIZE, max_size=SIZE), st.floats(1e-3, 1e6))
updates = st.lists(weighted, max_size=12)


def folded(items: list[tuple[list[float], float]]) -> WeightedSum:
    total = WeightedSum(SIZE)
    for delta, weight in items:
        total.fold(np.array(delta, np.float32), weight)
    return total


def assert_close(a: WeightedSum, b: WeightedSum) -> None:
    scale = 1e6 * max(1.0, a.weight)
    np.testing.assert_allclose(a.total, b.total, rtol=0, atol=1e-12 * scale)
    assert a.weight == pytest.approx(b.weight, rel=1e-12)


@given(a=updates, b=updates)
def test_sums_commute_exactly(a: list[tuple[list[float], float]], b: list[tuple[list[float], float]]) -> None:
    left, right = folded(a) + folded(b), folded(b) + folded(a)

    assert left.total.tobytes() == right.total.tobytes()
    assert left.weight == right.weight


@given(a=updates, b=updates, c=updates)
def test_sums_associate_up_to_rounding(
    a: list[tuple[list[float], float]], b: list[tuple[list[float], float]], c: list[tuple[list[float], float]]
) -> None:
    assert_close((folded(a) + folded(b)) + folded(c), folded(a) + (folded(b) + folded(c)))


@given(a=updates, b=updates)
def test_a_sum_of_sums_is_the_sum_of_everything(
    a: list[tuple[list[float], float]], b: list[tuple[list[float], float]]
) -> None:
    assert_close(folded(a) + folded(b), folded(a + b))


@given(a=updates)
def test_an_empty_sum_changes_nothing(a: list[tuple[list[float], float]]) -> None:
    both = folded(a) + WeightedSum(SIZE)

    np.testing.assert_array_equal(both.total, folded(a).total)
    assert both.weight == folded(a).weight


@given(items=updates, seed=st.integers(0, 2**32 - 1))
def test_the_order_of_arrival_does_not_matter(items: list[tuple[list[float], float]], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(items))

    assert_close(folded(items), folded([items[i] for i in order]))


@given(items=updates)
def test_the_same_order_gives_the_same_bits(items: list[tuple[list[float], float]]) -> None:
    assert folded(items).total.tobytes() == folded(items).total.tobytes()


@given(items=st.lists(weighted, min_size=1, max_size=12))
def test_the_mean_lies_within_what_came_in(items: list[tuple[list[float], float]]) -> None:
    mean = folded(items).mean()
    deltas = np.array([delta for delta, _ in items])

    assert (mean <= deltas.max(axis=0) + 1e-3).all()
    assert (mean >= deltas.min(axis=0) - 1e-3).all()


def test_adding_leaves_both_parts_as_they_are() -> None:
    a, b = folded([([1.0] * SIZE, 2.0)]), folded([([3.0] * SIZE, 1.0)])

    both = a + b
    both.fold(np.ones(SIZE, np.float32), 5.0)

    assert (a.total == 2.0).all()
    assert (b.total == 3.0).all()


def test_products_are_taken_in_double_precision() -> None:
    # 16777217 has no float32: a product in float32 would lose the last one.
    total = folded([([16777216.0] * SIZE, 1.0), ([1.0] * SIZE, 1.0)])

    assert (total.total == 16777217.0).all()
    third = folded([([float(np.float32(0.1))] * SIZE, 1.0 / 3.0)])
    assert (third.total == np.float64(np.float32(0.1)) * (1.0 / 3.0)).all()


def test_the_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no updates"):
        WeightedSum(SIZE).mean()


def contribution(device: str, examples: int, weight: float) -> Contribution:
    return Contribution(
        device_id=device,
        incarnation="c" * 16,
        sequence=1,
        base_version=0,
        staleness=0,
        num_examples=examples,
        num_steps=1,
        weight=weight,
        update_bytes=1,
        metrics={},
    )


def ones() -> NDArray[np.float32]:
    return np.ones(SIZE, np.float32)


def test_a_buffer_counts_by_device() -> None:
    buffer = Buffer(SIZE)
    for device in ("a", "b", "a"):
        buffer.add(contribution(device, 10, 10.0), ones())

    assert (len(buffer), buffer.of_device("a"), buffer.of_device("b"), buffer.of_device("c")) == (3, 2, 1, 0)


def test_the_mean_staleness_weight_is_over_examples() -> None:
    buffer = Buffer(SIZE)
    buffer.add(contribution("a", 30, 30.0), ones())
    buffer.add(contribution("b", 10, 5.0), ones())

    assert buffer.mean_staleness_weight() == 35.0 / 40.0
