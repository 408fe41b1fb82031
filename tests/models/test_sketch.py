from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.errors import DataError
from models.sketch import LARGEST, MAX_COUNT, SMALLEST, Grid, pack, unpack

GRID = Grid(0.05)
SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0)

numbers = st.floats(-1e8, 1e8, width=32)


def of_rank(values: list[float], share: float) -> float:
    return sorted(values)[math.floor(share * (len(values) - 1))]


@given(st.lists(numbers, min_size=1, max_size=60), st.sampled_from(SHARES))
def test_a_quantile_is_within_the_accuracy_of_the_value_of_that_rank(values: list[float], share: float) -> None:
    counts = GRID.count(np.array(values)[:, None])[0]

    (found,) = GRID.quantiles(counts, [share])

    wanted = of_rank(values, share)
    assert abs(found - wanted) <= 0.05 * abs(wanted) * (1 + 1e-6) + SMALLEST


@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 30), st.just(3)), elements=numbers), st.integers(0, 30))
def test_the_counts_of_two_parts_are_those_of_the_whole(values: np.ndarray, cut: int) -> None:
    parts = GRID.count(values[:cut]) + GRID.count(values[cut:])

    assert np.array_equal(parts, GRID.count(values))


def test_what_is_missing_or_infinite_is_not_counted() -> None:
    values = np.array([[1.0, np.nan], [np.inf, np.nan], [-np.inf, np.nan]])

    assert GRID.count(values).sum(axis=1).tolist() == [1, 0]


def test_of_nothing_there_is_no_quantile() -> None:
    assert math.isnan(GRID.quantiles(np.zeros(GRID.size, np.int64), [0.5])[0])


@pytest.mark.parametrize(
    ("value", "seen"), [(0.0, 0.0), (-0.0, 0.0), (SMALLEST / 2, 0.0), (1e30, LARGEST), (-1e30, -LARGEST)]
)
def test_beyond_its_range_a_value_is_taken_for_the_nearest(value: float, seen: float) -> None:
    (found,) = GRID.quantiles(GRID.count(np.array([[value]]))[0], [0.5])

    assert found == pytest.approx(seen, rel=0.11)


def test_buckets_are_in_the_order_of_their_values() -> None:
    values = np.array([-1e9, -3.0, -1e-6, 0.0, 1e-6, 0.5, 1e9])
    places = [int(np.argmax(GRID.count(np.array([[value]]))[0])) for value in values]

    assert places == sorted(places)
    assert len(set(places)) == len(values)
    assert (places[0], places[-1]) == (0, GRID.size - 1)


@given(st.lists(numbers, max_size=20))
def test_counts_come_back_from_their_data(values: list[float]) -> None:
    counts = GRID.count(np.array(values, np.float64).reshape(-1, 1))[0]

    assert np.array_equal(unpack(pack(counts), GRID.size), counts)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        [0],
        [0, 1],
        [-1, [1]],
        [True, [1]],
        [GRID.size, [1]],
        [0, [1] * (GRID.size + 1)],
        [0, [-1]],
        [0, [1.5]],
        [0, [True]],
        [0, [MAX_COUNT + 1]],
        [0, ["1"]],
        [0, [1], 2],
        {"first": 0},
    ],
)
def test_wrong_data_are_refused(data: object) -> None:
    with pytest.raises(DataError):
        unpack(data, GRID.size)
