"""Two models on the same examples of many devices: sums, their mean, and how sure it is."""

from __future__ import annotations

import functools
import math
import operator
import random
from collections.abc import Iterable

import numpy as np
import pytest

from models import comparison
from models.comparison import MEASURES, Comparison, Merging
from models.errors import DataError
from models.metrics import ClassificationMetrics, Metrics, ReconstructionMetrics, RegressionMetrics
from models.spec import Task


def classified(count: int, correct: int, loss: float = 1.0) -> ClassificationMetrics:
    return ClassificationMetrics(count=count, correct=correct, loss_sum=loss * count)


PLAIN = Merging(max_weight=100.0, trim=0.0)
ROBUST = Merging(max_weight=100.0, trim=0.2)


def joined(parts: Iterable[Comparison], task: Task = "classification") -> Comparison:
    return functools.reduce(operator.add, parts, Comparison.none(task))


def one(count: int, before: int, after: int) -> Comparison:
    return Comparison.of("classification", classified(count, before), classified(count, after))


def test_without_trimming_the_mean_and_its_error_are_those_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(60, 200, 30)
    before, after = rng.integers(0, counts + 1), rng.integers(0, counts + 1)
    parts = [one(int(n), int(b), int(a)) for n, b, a in zip(counts, before, after, strict=True)]

    found = joined(parts).by("accuracy", PLAIN)

    weights = np.minimum(counts, 100)
    worse = before / counts - after / counts
    mean = np.average(worse, weights=weights)
    error = math.sqrt((weights**2 * (worse - mean) ** 2).sum() * 30 / 29) / weights.sum()
    assert (found.devices, found.trimmed) == (30, 0)
    assert found.mean == pytest.approx(mean, rel=1e-12)
    assert found.first == pytest.approx(np.average(before / counts, weights=weights), rel=1e-12)
    assert found.second == pytest.approx(np.average(after / counts, weights=weights), rel=1e-12)
    assert found.error == pytest.approx(error, rel=1e-9)


def test_the_order_in_which_devices_say_it_changes_not_a_bit() -> None:
    rng = random.Random(1)
    parts = [one(n, rng.randint(0, n), rng.randint(0, n)) for n in [20, 20, 30, 50, 80, 110] * 3]
    first = joined(parts).by("loss", ROBUST)
    for _ in range(5):
        rng.shuffle(parts)
        assert joined(parts).by("loss", ROBUST) == first


def test_answers_and_sums_come_back_from_data() -> None:
    parts = [one(8, n, 2 * n) for n in (1, 2, 3)]
    both = joined([*parts, Comparison.none("classification")])
    answers = [(part.first.count, part.figures()) for part in parts]
    back = Comparison.from_data("classification", both.to_data(), [*answers, (0, {})])
    assert back == both
    assert back.by("accuracy", ROBUST) == both.by("accuracy", ROBUST)
    older = both.to_data() | {"by": {"accuracy": [0.0] * 7, "loss": [0.0] * 7}}
    assert Comparison.from_data("classification", older, answers) == both, "as older versions stored it"


def test_one_device_says_nothing_of_the_error_and_one_without_examples_nothing_at_all() -> None:
    alone = one(10, 5, 3)
    assert alone.by("accuracy", ROBUST).error == math.inf
    assert alone.by("accuracy", ROBUST).mean == pytest.approx(0.2)
    nobody = Comparison.of("classification", ClassificationMetrics(), ClassificationMetrics())
    assert (alone + nobody).devices == 1
    assert nobody.by("accuracy", ROBUST).mean == 0.0


def test_a_device_with_many_examples_does_not_decide_alone() -> None:
    honest = [one(50, 40, 10) for _ in range(9)]
    liar = one(10**9, 0, 10**9)
    for merging in (PLAIN, ROBUST):
        assert joined([*honest, liar]).by("accuracy", merging).mean > 0.25, "worse, whatever one of ten claims"
    few = joined([*(one(2, 2, 1) for _ in range(9)), liar])
    assert few.by("accuracy", PLAIN).mean > 0.2, "nor where all others have few"


def regressed(first: float, second: float, count: int = 20) -> Comparison:
    def metrics(error: float) -> RegressionMetrics:
        return RegressionMetrics(
            count=count, squared_error_sum=error * count, absolute_error_sum=0.0, loss_sum=error * count / 2
        )

    return Comparison.of("regression", metrics(first), metrics(second))


@pytest.mark.parametrize("huge", [1e3, 1e9, 1e18])
@pytest.mark.parametrize("answers", [3, 4, 5, 10, 31])
def test_one_liar_of_three_or_more_neither_hides_nor_feigns_a_change(huge: float, answers: int) -> None:
    honest = [regressed(1.0 + 0.01 * number, 1.5 + 0.01 * number) for number in range(answers - 1)]
    # It finds the candidate better by far; it finds both bad, so that no share of them seems much; it finds it worse.
    for lie in (regressed(huge, 0.0), regressed(huge, huge), regressed(0.0, huge), regressed(1e-9, 1e-9, 10**6)):
        found = joined([*honest, lie], "regression").by("mse", ROBUST)
        assert 0.4 < found.mean < 0.6
        assert 1.0 <= found.first <= 1.01 * answers
        assert answers == 3 or found.error < 0.5, "a liar makes it unsure until the fourth answer only"
    assert not 0.4 < joined([*honest, regressed(0.0, huge)], "regression").by("mse", PLAIN).mean < 0.6


def test_no_more_are_kept_than_make_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MAX_TOLD", 5)
    found = joined(one(8, 4, n % 5) for n in range(9))
    assert (found.devices, len(found.told)) == (9, 5)


PAIRS: list[tuple[Metrics, Metrics]] = [
    (
        RegressionMetrics(count=4, squared_error_sum=4.0, absolute_error_sum=4.0, loss_sum=2.0),
        RegressionMetrics(count=4, squared_error_sum=8.0, absolute_error_sum=5.0, loss_sum=4.0),
    ),
    (ReconstructionMetrics.of(np.full(4, 0.5), 2.0), ReconstructionMetrics.of(np.full(4, 1.0), 4.0)),
]


@pytest.mark.parametrize(("task", "pair"), [("regression", PAIRS[0]), ("reconstruction", PAIRS[1])])
def test_of_errors_more_is_worse(task: Task, pair: tuple[Metrics, Metrics]) -> None:
    found = Comparison.of(task, *pair)
    assert all(found.by(name, ROBUST).mean > 0 for name in MEASURES[task])


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(DataError, match="on 4 examples"):
        Comparison.of("classification", classified(4, 1), classified(5, 1))
    good = Comparison.none("classification").to_data()
    for broken in ({}, {**good, "more": {}}, {"first": good["first"]}, [1]):
        with pytest.raises(DataError):
            Comparison.from_data("classification", broken)
    with pytest.raises(DataError, match="no mse_before"):
        Comparison.from_data("regression", Comparison.none("regression").to_data(), [(4, {"accuracy": 1.0})])
