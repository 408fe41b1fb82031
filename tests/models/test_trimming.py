"""The trimmed mean against formulas written anew, with Python's own numbers, and against SciPy's."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped] # it comes with scikit-learn, without types

from models.trimming import bounded_weights, trimmed_count, trimmed_mean

NUMBERS = st.floats(-1e6, 1e6)


def reference(values: list[float], weights: list[float], cut: int) -> tuple[float, float]:
    """Return mean and standard error, by the definition and in exact sums."""
    pairs = sorted(zip(values, weights, strict=True))
    kept = pairs[cut : len(pairs) - cut]
    mean = math.fsum(v * w for v, w in kept) / math.fsum(w for _, w in kept)
    if len(pairs) == 1:
        return mean, math.inf
    if len(kept) == 1:
        kept, cut = pairs, 0
    low, high = kept[0][0], kept[-1][0]
    pulled = [(min(max(v, low), high), w) for v, w in pairs]
    total, count = math.fsum(weights), len(pairs)
    middle = math.fsum(v * w for v, w in pulled) / total
    squares = math.fsum((w * (v - middle)) ** 2 for v, w in pulled) * count / (count - 1)
    return mean, math.sqrt(squares) / total / (1 - 2 * cut / count)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.34, 0.49])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 10, 33, 100])
def test_it_is_what_the_formulas_say(count: int, share: float) -> None:
    rng = random.Random(count)
    values = [rng.gauss(0.0, 1.0) * 10 ** rng.uniform(-2, 2) for _ in range(count)]
    weights = [rng.uniform(1.0, 100.0) for _ in range(count)]

    found = trimmed_mean(values, np.array(weights), share)

    mean, error = reference(values, weights, found.trimmed)
    assert found.trimmed == trimmed_count(count, share)
    assert found.mean == pytest.approx(mean, rel=1e-12, abs=1e-12)
    assert found.error == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize(("count", "share"), [(10, 0.2), (20, 0.1), (25, 0.2), (41, 0.25)])
def test_with_equal_weights_it_is_scipys(count: int, share: float) -> None:
    values = np.random.default_rng(count).standard_t(2, count)
    found = trimmed_mean(values.tolist(), np.full(count, 7.0), share)
    cut = found.trimmed / count
    assert found.mean == pytest.approx(stats.trim_mean(values, cut), rel=1e-12)
    # SciPy takes the Winsorized variance over n, we that over n - 1, as Tukey and McLaughlin.
    scipys = float(stats.mstats.trimmed_stde(values, limits=(cut, cut)))
    assert found.error == pytest.approx(scipys, rel=0.06)


def test_how_many_are_left_out() -> None:
    assert [trimmed_count(count, 0.2) for count in (1, 2, 3, 4, 5, 9, 10, 15, 100)] == [0, 0, 1, 1, 1, 1, 2, 3, 20]
    assert [trimmed_count(count, 0.49) for count in (3, 4, 5, 100)] == [1, 1, 2, 49]
    assert [trimmed_count(count, 0.0) for count in (1, 3, 100)] == [0, 0, 0]


@given(st.lists(NUMBERS, min_size=3, max_size=30), st.data())
def test_as_many_liars_as_are_left_out_leave_it_among_the_honest(honest: list[float], data: st.DataObject) -> None:
    count = len(honest)
    liars = data.draw(st.integers(1, max(1, trimmed_count(count, 0.2))))
    lies = data.draw(st.lists(st.floats(-1e300, 1e300), min_size=liars, max_size=liars))
    claims = data.draw(st.lists(st.floats(1.0, 1e12), min_size=count + liars, max_size=count + liars))
    share = liars / (count + liars)

    found = trimmed_mean([*honest, *lies], bounded_weights(claims, 100.0), max(share, 0.2))

    slack = 1e-9 * max(abs(value) for value in honest) + 1e-300
    assert min(honest) - slack <= found.mean <= max(honest) + slack


def test_nobody_weighs_more_than_twice_the_median_device_nor_than_is_allowed() -> None:
    assert bounded_weights([1, 2, 3, 10**9], 100.0).tolist() == [1.0, 2.0, 3.0, 4.0]
    assert bounded_weights([80, 90, 10**9], 100.0).tolist() == [80.0, 90.0, 100.0]
    assert bounded_weights([5], 100.0).tolist() == [5.0]
    assert bounded_weights([1, 10**9], 100.0).tolist() == [1.0, 2.0]
    assert bounded_weights([], 100.0).tolist() == []


def test_a_mean_of_nothing_is_none() -> None:
    with pytest.raises(ValueError, match="no values"):
        trimmed_mean([], np.zeros(0), 0.2)
