"""What a device says of its examples: exact when added up, finite whatever the model did, refused when it cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models import DataError, Dataset, build
from models.answering import (
    MAX_MEAN,
    classes_of,
    columns_of,
    metrics_from_data,
    metrics_to_data,
    no_statistics,
    statistics_of,
)
from models.metrics import ClassificationMetrics, Metrics, ReconstructionMetrics, RegressionMetrics

FLAT: dict[str, Any] = {"kind": "softmax", "inputs": 12, "outputs": 3}
SERIES: dict[str, Any] = {
    "kind": "series_cnn",
    "input_shape": [24, 2],
    "outputs": 3,
    "filters": [4],
    "kernel": 3,
    "hidden": [],
    "standardize": True,
}


def test_columns_are_features_or_the_channels_that_the_model_standardizes() -> None:
    assert columns_of(build(FLAT)) == columns_of(build({**FLAT, "standardize": True})) == 12
    assert columns_of(build(SERIES)) == 2
    assert columns_of(build({**SERIES, "standardize": False})) == 48
    assert classes_of(build(FLAT)) == 3
    assert classes_of(build({"kind": "linear", "inputs": 2, "outputs": 1})) == 0


def test_of_channels_every_place_of_every_example_counts() -> None:
    model = build(SERIES)
    values = np.random.default_rng(1).normal([5.0, -300.0], [1.0, 40.0], (30, 24, 2)).astype(np.float32)
    data = Dataset.for_model(model, values.reshape(30, 48), np.arange(30) % 3)

    parts = statistics_of(model, data.subset(slice(0, 11))) + statistics_of(model, data.subset(slice(11, 30)))

    assert parts.rows == 30 * 24
    assert parts.classes.tolist() == [10, 10, 10]
    flat = values.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(parts.mean, flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(parts.deviation, flat.std(axis=0), rtol=1e-9)
    nothing = no_statistics(model) + no_statistics(model)
    assert (nothing + parts).to_data() == parts.to_data()


METRICS: list[tuple[Any, Metrics]] = [
    ("classification", ClassificationMetrics(count=10, correct=7, loss_sum=3.5)),
    ("regression", RegressionMetrics(count=3, squared_error_sum=9.0, absolute_error_sum=5.0, loss_sum=9.0)),
    ("reconstruction", ReconstructionMetrics.of(np.array([0.1, 2.0, 30.0]), 32.1)),
]


@pytest.mark.parametrize(("task", "metrics"), METRICS, ids=[task for task, _ in METRICS])
def test_metrics_come_back_and_add_up(task: Any, metrics: Metrics) -> None:
    found = metrics_from_data(task, metrics_to_data(metrics))
    assert found.summary() == metrics.summary()
    twice = metrics_to_data(found + metrics)  # type: ignore[operator] # of one task
    assert metrics_from_data(task, twice).count == 2 * metrics.count


@pytest.mark.parametrize(("task", "metrics"), METRICS, ids=[task for task, _ in METRICS])
def test_metrics_that_cannot_be_are_refused(task: Any, metrics: Metrics) -> None:
    good = metrics_to_data(metrics)
    for name in good:
        for wrong in (None, -1, float("nan"), float("inf"), -0.5, True, "1", [5], [0, [1]], 1e300):
            with pytest.raises(DataError):
                metrics_from_data(task, good | {name: wrong})
        with pytest.raises(DataError):
            metrics_from_data(task, {key: value for key, value in good.items() if key != name})


def test_errors_that_no_squares_lead_to_are_refused() -> None:
    data = metrics_to_data(RegressionMetrics(count=3, squared_error_sum=9.0, absolute_error_sum=5.3, loss_sum=9.0))
    with pytest.raises(DataError, match="contradict"):
        metrics_from_data("regression", data)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e300])
def test_a_model_that_diverged_counts_as_very_bad(loss: float) -> None:
    data = metrics_to_data(ClassificationMetrics(count=4, correct=1, loss_sum=loss))
    assert metrics_from_data("classification", data).summary()["loss"] == MAX_MEAN
