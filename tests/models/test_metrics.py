from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, mean_squared_error

from models import ClassificationMetrics, RegressionMetrics
from tests.models.examples import SPECS, model_and_data, normalised

COUNTS = st.integers(0, 10**9)
# Whole numbers below 2**53 in all: their sums are exact, so the algebra has to be exact as well.
SUMS = st.integers(0, 2**40).map(float)
CLASSIFICATION = st.builds(ClassificationMetrics, count=COUNTS, correct=COUNTS, loss_sum=SUMS)
REGRESSION = st.builds(RegressionMetrics, count=COUNTS, squared_error_sum=SUMS, absolute_error_sum=SUMS, loss_sum=SUMS)
TRIPLES = st.one_of([st.tuples(kind, kind, kind) for kind in (CLASSIFICATION, REGRESSION)])


@given(TRIPLES)
def test_plus_is_associative_and_knows_no_order(triple: tuple[Any, Any, Any]) -> None:
    a, b, c = triple
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + type(a)() == a


@given(st.lists(st.integers(0, 40), max_size=5))
def test_metrics_of_parts_add_up_to_those_of_the_whole(cuts: list[int]) -> None:
    for name in ("mlp-relu", "mlp-huber"):
        model, start, data = model_and_data(name)
        edges = [0, *sorted(cuts), len(data)]
        parts = [model.evaluate(start, data.subset(slice(a, b))) for a, b in pairwise(edges)]
        total: Any = parts[0]
        for part in parts[1:]:
            total += part
        whole = model.evaluate(start, data)
        assert total.count == whole.count == 40
        assert total.summary() == pytest.approx(whole.summary(), rel=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_agrees_with_scikit_learn(name: str) -> None:
    model, start, data = model_and_data(name, 1200)  # more than one block

    summary = model.evaluate(start, data).summary()

    predicted = model.predict(start, data.x).astype(np.float64)
    if model.task == "classification":
        wanted = {
            "accuracy": accuracy_score(data.y, predicted.argmax(axis=1)),
            "loss": log_loss(data.y, normalised(predicted)),
        }
    else:
        wanted = {"mse": mean_squared_error(data.y, predicted), "mae": mean_absolute_error(data.y, predicted)}
        if model.spec["loss"] == "mse":
            wanted["loss"] = wanted["mse"]
    assert {key: summary[key] for key in wanted} == pytest.approx(wanted, rel=1e-4)


def test_no_data_has_no_figures() -> None:
    for name in ("softmax", "linear"):
        model, start, data = model_and_data(name)
        metrics = model.evaluate(start, data.subset(slice(0, 0)))
        assert metrics.count == 0
        assert metrics.summary() == {}
