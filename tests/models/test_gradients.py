from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from models import DataError, build
from tests.models import reference
from tests.models.examples import SPECS, examples, model_and_data, normalised


@pytest.mark.parametrize("name", SPECS)
def test_gradient_is_what_finite_differences_of_the_reference_loss_say(name: str) -> None:
    model, start, data = model_and_data(name, 12)

    _, gradient = model.loss_and_gradient(start, data.x, data.y)

    step = 1e-6
    at = start.astype(np.float64)
    for i in range(len(at)):
        aside = np.zeros_like(at)
        aside[i] = step
        above, _ = reference.loss_and_gradient(model.spec, at + aside, data.x, data.y)
        below, _ = reference.loss_and_gradient(model.spec, at - aside, data.x, data.y)
        assert gradient[i] == pytest.approx((above - below) / (2 * step), rel=1e-3, abs=2e-5)


@pytest.mark.parametrize("name", SPECS)
def test_gradient_is_what_finite_differences_of_its_own_loss_say(name: str) -> None:
    model, start, data = model_and_data(name, 12)
    rng = np.random.default_rng(3)

    _, gradient = model.loss_and_gradient(start, data.x, data.y)

    for _ in range(20):  # float32 leaves room for a few digits only, so along whole directions
        direction = rng.standard_normal(len(start)).astype(np.float32)
        direction /= np.float32(np.linalg.norm(direction))
        step = np.float32(3e-3)
        above, _ = model.loss_and_gradient(start + step * direction, data.x, data.y)
        below, _ = model.loss_and_gradient(start - step * direction, data.x, data.y)
        assert (above - below) / (2 * step) == pytest.approx(float(gradient @ direction), rel=0.02, abs=2e-3)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("count", [1, 2, 33])
def test_loss_and_gradient_agree_with_the_float64_reference(name: str, count: int) -> None:
    model, start, data = model_and_data(name, count)

    loss, gradient = model.loss_and_gradient(start, data.x, data.y)

    wanted_loss, wanted = reference.loss_and_gradient(model.spec, start, data.x, data.y)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=2e-6)
    assert gradient.dtype == np.float32
    assert gradient.shape == (model.layout.size,)


def test_softmax_agrees_with_scikit_learn() -> None:
    model = build({"kind": "softmax", "inputs": 5, "outputs": 3})
    data = examples(model, 300)
    peer = LogisticRegression(C=np.inf, tol=1e-8, max_iter=10_000).fit(data.x.astype(np.float64), data.y)
    parameters = np.concatenate([peer.coef_.T.ravel(), peer.intercept_]).astype(np.float32)

    loss, gradient = model.loss_and_gradient(parameters, data.x, data.y)
    probabilities = model.predict(parameters, data.x)

    np.testing.assert_allclose(probabilities, peer.predict_proba(data.x.astype(np.float64)), atol=1e-5)
    assert loss == pytest.approx(log_loss(data.y, normalised(probabilities)), rel=1e-5)
    assert np.abs(gradient).max() < 1e-4, "its optimum is ours"


def test_scores_of_a_thousand_do_not_overflow() -> None:
    model = build({"kind": "softmax", "inputs": 1, "outputs": 2})
    parameters = np.array([1000.0, -1000.0, 0.0, 0.0], np.float32)

    loss, gradient = model.loss_and_gradient(parameters, [[1.0], [1.0]], [0, 1])

    assert loss == pytest.approx(1000.0)
    np.testing.assert_allclose(gradient, [0.5, -0.5, 0.5, -0.5])


def test_a_batch_must_fit() -> None:
    model, start, data = model_and_data("softmax")
    with pytest.raises(DataError, match="shape"):
        model.loss_and_gradient(start, data.x[:, 1:], data.y)
    with pytest.raises(DataError, match="no examples"):
        model.loss_and_gradient(start, data.x[:0], data.y[:0])
    with pytest.raises(ValueError, match="float32"):
        model.loss_and_gradient(start.astype(np.float64), data.x, data.y)
    with pytest.raises(ValueError, match="float32"):
        model.loss_and_gradient(start[1:], data.x, data.y)


@pytest.mark.parametrize("name", SPECS)
def test_predictions_agree_with_the_reference_beyond_one_block(name: str) -> None:
    model, start, data = model_and_data(name, 1300)

    found = model.predict(start, data.x)

    layers = reference.unpack(model.spec, start)
    wanted = np.array([reference.example_outputs(model.spec, layers, row)[-1] for row in data.x])
    if model.task == "classification":
        wanted = np.exp(wanted - np.logaddexp.reduce(wanted, axis=1, keepdims=True))
        np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert found.dtype == np.float32
    assert model.predict(start, data.x[:0]).shape == (0, model.outputs)
