"""Two models on the same examples of many devices: sums, their mean, and how sure it is."""

from __future__ import annotations

import functools
import math
import operator

import numpy as np
import pytest

from models.comparison import MEASURES, Comparison
from models.errors import DataError
from models.metrics import ClassificationMetrics, Metrics, ReconstructionMetrics, RegressionMetrics


def classified(count: int, correct: int, loss: float = 1.0) -> ClassificationMetrics:
    return ClassificationMetrics(count=count, correct=correct, loss_sum=loss * count)


def test_the_mean_and_its_error_are_those_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(5, 200, 30)
    before, after = rng.integers(0, counts + 1), rng.integers(0, counts + 1)
    parts = [
        Comparison.of("classification", classified(int(n), int(b)), classified(int(n), int(a)), 100)
        for n, b, a in zip(counts, before, after, strict=True)
    ]

    found = functools.reduce(operator.add, parts, Comparison.none("classification")).by["accuracy"]

    weights = np.minimum(counts, 100)
    worse = before / counts - after / counts
    mean = np.average(worse, weights=weights)
    error = math.sqrt((weights**2 * (worse - mean) ** 2).sum() * 30 / 29) / weights.sum()
    assert found.devices == 30
    assert found.mean == pytest.approx(mean, rel=1e-12)
    assert found.mean_base == pytest.approx(np.average(before / counts, weights=weights), rel=1e-12)
    assert found.error == pytest.approx(error, rel=1e-9)


def test_parts_add_up_in_any_grouping_and_come_back_from_data() -> None:
    a, b, c = (Comparison.of("classification", classified(8, n), classified(8, 2 * n), 50) for n in (1, 2, 3))
    assert ((a + b) + c).to_data() == (a + (b + c)).to_data()
    both = a + b
    assert (Comparison.none("classification") + both).to_data() == both.to_data()
    assert Comparison.from_data("classification", both.to_data()).to_data() == both.to_data()


def test_one_device_says_nothing_of_the_error_and_one_without_examples_nothing_at_all() -> None:
    one = Comparison.of("classification", classified(10, 5), classified(10, 3), 100)
    assert one.by["accuracy"].error == math.inf
    assert one.by["accuracy"].mean == pytest.approx(0.2)
    nobody = Comparison.of("classification", ClassificationMetrics(), ClassificationMetrics(), 100)
    assert (one + nobody).devices == 1


def test_a_device_with_many_examples_does_not_decide_alone() -> None:
    honest = [Comparison.of("classification", classified(50, 40), classified(50, 10), 100) for _ in range(9)]
    liar = Comparison.of("classification", classified(10**9, 0), classified(10**9, 10**9), 100)

    found = functools.reduce(operator.add, honest, liar).by["accuracy"]

    assert found.mean > 0.25, "worse, whatever one of ten claims"


PAIRS: list[tuple[Metrics, Metrics]] = [
    (
        RegressionMetrics(count=4, squared_error_sum=4.0, absolute_error_sum=4.0, loss_sum=2.0),
        RegressionMetrics(count=4, squared_error_sum=8.0, absolute_error_sum=5.0, loss_sum=4.0),
    ),
    (ReconstructionMetrics.of(np.full(4, 0.5), 2.0), ReconstructionMetrics.of(np.full(4, 1.0), 4.0)),
]


@pytest.mark.parametrize(("task", "pair"), [("regression", PAIRS[0]), ("reconstruction", PAIRS[1])])
def test_of_errors_more_is_worse(task: str, pair: tuple[Metrics, Metrics]) -> None:
    found = Comparison.of(task, *pair, 100)  # type: ignore[arg-type] # one of the tasks
    assert all(found.by[name].mean > 0 for name in MEASURES[task])  # type: ignore[index] # as above


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(DataError, match="on 4 examples"):
        Comparison.of("classification", classified(4, 1), classified(5, 1), 10)
    good = Comparison.none("classification").to_data()
    for broken in ({}, {**good, "by": {}}, {**good, "by": {"accuracy": [1], "loss": [1]}}, [1]):
        with pytest.raises(DataError):
            Comparison.from_data("classification", broken)
