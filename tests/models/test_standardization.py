"""Running mean and deviation: those of all examples together, whatever the parts; and what they make of examples."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models import DataError, Pipeline, Series, Standardization

EXAMPLES = arrays(np.float32, st.tuples(st.integers(0, 30), st.just(3)), elements=st.floats(-1e6, 1e6, width=32))


@settings(max_examples=60, deadline=None)
@given(x=EXAMPLES, y=EXAMPLES)
def test_two_parts_together_are_the_whole(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> None:
    both = np.concatenate([x, y])
    joined = Standardization.of(x) + Standardization.of(y)
    assert joined.count == len(both)
    if len(both):
        scale = np.abs(both).max(initial=1e-30)
        np.testing.assert_allclose(joined.mean, both.mean(axis=0, dtype=np.float64), atol=1e-9 * scale)
        np.testing.assert_allclose(joined.deviation, both.std(axis=0, dtype=np.float64), atol=1e-7 * scale)


def test_what_varies_little_around_much_keeps_its_deviation() -> None:
    pressure = (101_325 + np.random.default_rng(0).normal(0, 0.5, (100_000, 1))).astype(np.float32)
    found = Standardization.of(pressure)
    assert found.deviation.item() == pytest.approx(pressure.std(dtype=np.float64), rel=1e-9)


def test_examples_become_deviations_from_the_mean() -> None:
    x = np.random.default_rng(1).normal(20, 5, (5000, 3)).astype(np.float32)
    Standardization.of(x).apply(x)
    np.testing.assert_allclose(x.mean(axis=0, dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=0, dtype=np.float64), 1, atol=1e-5)


def test_an_input_that_does_not_move_has_no_deviation_to_be_measured_in() -> None:
    x = np.full((10, 2), 0.1, np.float32)
    x[:, 1] = 1e30
    found = Standardization.of(x)
    new = np.array([[0.35, 1e30]], np.float32)
    found.apply(new)
    np.testing.assert_allclose(new, [[0.25, 0.0]], atol=1e-6)


def test_a_broken_reading_is_cut() -> None:
    found = Standardization.of(np.array([[-1.0], [1.0]], np.float32))
    x = np.array([[3e38], [-50.0], [2.0]], np.float32)
    found.apply(x)
    assert x.ravel().tolist() == [20.0, -20.0, 2.0]


def test_nothing_changes_nothing() -> None:
    x = np.array([[1.0, -2.0]], np.float32)
    nothing = Standardization.nothing(2)
    (nothing + nothing).apply(x)
    assert x.tolist() == [[1.0, -2.0]]


def test_no_window_counts_twice() -> None:
    pipeline = Pipeline.from_data({"channels": ["a"], "max_gap_s": 5, "window": 2, "stride": 1, "compute": ["mean"]})
    times = np.arange(10, dtype=np.float64)
    values = np.arange(10, dtype=np.float32)[:, None]
    data = Series(times, values, np.full(10, math.nan), ("a",))
    first = Standardization.nothing(1).including(
        pipeline.windows(Series(times[:6], values[:6], data.labels[:6], ("a",)))
    )
    assert (first.count, first.until) == (5, 5.0)
    whole = pipeline.windows(data)
    both = first.including(whole)
    assert (both.count, both.until) == (9, 9.0)
    assert both.including(whole) is both
    np.testing.assert_allclose(both.mean, whole.x.mean(axis=0))


def test_as_data_it_keeps_every_bit() -> None:
    found = Standardization.of(np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32))
    for each in (found, Standardization.nothing(3)):
        again = Standardization.from_data(json.loads(json.dumps(each.to_data())), 3)
        assert (again.count, again.until) == (each.count, each.until)
        assert again.mean.tobytes() == each.mean.tobytes()
        assert again.spread.tobytes() == each.spread.tobytes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": -1}, "count is -1"),
        ({"mean": [0.0]}, "mean is a list of 1, allowed is a list of 2 finite numbers"),
        ({"mean": [0.0, math.nan]}, "mean is nan"),
        ({"spread": [0.0, -1.0]}, r"spread is -1.0, allowed is a list of 2 finite numbers from 0 up"),
        ({"spread": "no"}, "spread is 'no'"),
        ({"until": math.inf}, "until is inf"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_constants_that_are_none_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Standardization.from_data({"count": 1, "mean": [0.0, 1.0], "spread": [0.0, 1.0]} | changed, 2)
