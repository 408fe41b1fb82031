from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from models import Dataset, Model, PlanError, Training, TrainingPlan, build, local_train
from models.losses import bind_loss
from models.weighting import MAX_CLASS_WEIGHT, class_weights
from models.workspace import Workspace
from tests.models import layer_reference, reference
from tests.models.examples import examples, model_and_data, normalised

COUNTS = st.lists(st.integers(0, 10**9), min_size=2, max_size=40)
NETWORK = {
    "kind": "network",
    "input_shape": [8, 2],
    "task": "classification",
    "l2": 0.01,
    "layers": [
        {"kind": "conv1d", "filters": 3, "kernel": 3, "activation": "tanh"},
        {"kind": "group_norm", "groups": 3},
        {"kind": "global_average_pool"},
        {"kind": "dense", "outputs": 4},
    ],
}


def drawn(classes: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(5).uniform(0.2, 6.0, classes).tolist())


def weighted(model: Model, start: Any, data: Dataset, weights: tuple[float, ...]) -> tuple[float, NDArray[np.float32]]:
    workspace = Workspace(model, start, weights)
    loss = workspace.loss_and_gradient(data.x, data.y) + workspace.penalty()
    return loss, workspace.gradient


@pytest.mark.parametrize("name", ["softmax", "mlp-relu", "mlp-tanh"])
@pytest.mark.parametrize("count", [1, 2, 33])
def test_loss_and_gradient_are_those_of_the_float64_reference(name: str, count: int) -> None:
    model, start, data = model_and_data(name, count)
    weights = drawn(model.outputs)

    loss, gradient = weighted(model, start, data, weights)

    wanted_loss, wanted = reference.loss_and_gradient(model.spec, start, data.x, data.y, weights)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "mlp-tanh"])
def test_gradient_is_what_finite_differences_say(name: str) -> None:
    model, start, data = model_and_data(name, 12)
    weights, step = drawn(model.outputs), 1e-6

    _, gradient = weighted(model, start, data, weights)

    at = start.astype(np.float64)
    for place in range(len(at)):
        aside = np.zeros_like(at)
        aside[place] = step
        above, _ = reference.loss_and_gradient(model.spec, at + aside, data.x, data.y, weights)
        below, _ = reference.loss_and_gradient(model.spec, at - aside, data.x, data.y, weights)
        assert gradient[place] == pytest.approx((above - below) / (2 * step), rel=1e-3, abs=5e-5)


def test_a_network_of_layers_is_weighted_as_well() -> None:
    model = build(NETWORK)
    start = model.init(np.random.default_rng(1))
    data = examples(model, 12)
    weights = drawn(4)

    _, gradient = weighted(model, start, data, weights)

    step, at, slopes = 1e-6, start.astype(np.float64), []
    for place in range(len(at)):
        aside = np.zeros_like(at)
        aside[place] = step
        both = [layer_reference.loss(model, at + sign * aside, data.x, data.y, weights) for sign in (1, -1)]
        slopes.append((both[0] - both[1]) / (2 * step))
    np.testing.assert_allclose(gradient, slopes, rtol=1e-3, atol=1e-4)


def test_they_mean_what_they_mean_to_scikit_learn() -> None:
    model = build({"kind": "softmax", "inputs": 5, "outputs": 3})
    data = examples(model, 300)
    weights = (0.5, 2.0, 3.0)
    peer = LogisticRegression(C=np.inf, tol=1e-8, max_iter=10_000, class_weight=dict(enumerate(weights)))
    peer.fit(data.x.astype(np.float64), data.y)
    parameters = np.concatenate([peer.coef_.T.ravel(), peer.intercept_]).astype(np.float32)

    loss, gradient = weighted(model, parameters, data, weights)

    each = np.array(weights)[data.y]
    probabilities = normalised(model.predict(parameters, data.x))
    # It divides by the sum of the weights, we by the number of examples.
    assert loss == pytest.approx(log_loss(data.y, probabilities, sample_weight=each) * each.mean(), rel=1e-5)
    assert np.abs(gradient).max() < 2e-4, "its optimum is ours"


def test_one_alike_for_all_is_the_loss_without() -> None:
    model, start, data = model_and_data("mlp-relu", 33)

    loss, gradient = weighted(model, start, data, (1.0, 1.0, 1.0))

    plain_loss, plain = model.loss_and_gradient(start, data.x, data.y)
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    np.testing.assert_allclose(gradient, plain, rtol=1e-5, atol=1e-7)


def test_the_mean_of_devices_is_the_gradient_of_all_their_examples() -> None:
    """What would not hold if a batch were divided by the sum of its weights: one device here has one class alone."""
    model, start, data = model_and_data("softmax", 40)
    weights, rare = (1.0, 1.0, 9.0), data.y == 2
    parts = [data.subset(np.flatnonzero(rare)), data.subset(np.flatnonzero(~rare))]

    gradients = [weighted(model, start, part, weights)[1] for part in parts]

    mean = sum(len(part) * gradient for part, gradient in zip(parts, gradients, strict=True)) / len(data)
    np.testing.assert_allclose(mean, weighted(model, start, data, weights)[1], rtol=1e-4, atol=1e-6)


def test_scores_of_a_thousand_do_not_overflow() -> None:
    model = build({"kind": "softmax", "inputs": 1, "outputs": 2})
    loss = bind_loss(model.network, 2, np.array([1.0, 3.0], np.float32))
    scores = np.array([[1000.0, -1000.0], [1000.0, -1000.0]], np.float32)

    assert loss(scores, np.array([0, 1])) == pytest.approx(3000.0)
    np.testing.assert_allclose(scores, [[0.0, 0.0], [1.5, -1.5]])


def test_a_training_is_weighted_and_what_is_measured_is_not() -> None:
    model, start, data = model_and_data("softmax", 60)
    plan = TrainingPlan.from_data({"epochs": 3, "batch_size": 8})
    heavy = TrainingPlan.from_data({"epochs": 3, "batch_size": 8, "class_weights": [1, 1, 30.0]})

    plain = local_train(model, start, data, plan, np.random.default_rng(0))
    found = local_train(model, start, data, heavy, np.random.default_rng(0))

    def recall(parameters: NDArray[np.float32]) -> float:
        return float((model.predict(parameters, data.x).argmax(axis=1)[data.y == 2] == 2).mean())

    assert recall(found.parameters) > recall(plain.parameters)
    measured = model.evaluate(start, data).summary()["loss"]
    chosen = model.predict(start, data.x)[np.arange(len(data)), data.y]
    assert measured == pytest.approx(float(-np.log(chosen).mean()), rel=1e-4)


@pytest.mark.parametrize("name", ["linear", "mlp-relu"])
def test_weights_of_other_classes_are_refused_before_anything_is_trained(name: str) -> None:
    model, start, data = model_and_data(name)
    plan = TrainingPlan(class_weights=(1.0, 2.0))

    with pytest.raises(PlanError, match=r"class_weights has 2 numbers, the model (3 classes|no classes)"):
        Training(model, start, data, plan, np.random.default_rng(0))


@pytest.mark.parametrize("wrong", [[0.0], [-1], [1001], [True], ["1"], 3, [float("nan")]])
def test_what_is_no_weight_is_refused(wrong: Any) -> None:
    with pytest.raises(PlanError, match="class_weights"):
        TrainingPlan.from_data({"class_weights": wrong})


def test_a_plan_without_weights_says_nothing_of_them() -> None:
    assert "class_weights" not in TrainingPlan().to_data()
    plan = TrainingPlan.from_data({"class_weights": [1, 2.5]})
    assert TrainingPlan.from_data(plan.to_data()) == plan


def test_balanced_is_what_scikit_learn_calls_so() -> None:
    counts = [600, 300, 100]

    found = class_weights(counts, "balanced")

    labels = np.repeat(np.arange(3), counts)
    assert found == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=labels), rel=1e-5)


def test_effective_is_one_over_the_effective_number() -> None:
    counts, beta = [5000, 300, 100], 0.99

    found = class_weights(counts, "effective", beta=beta, most=1e9)

    numbers = np.array([(1 - beta**n) / (1 - beta) for n in counts])
    wanted = (1 / numbers) / ((1 / numbers) * counts).sum() * sum(counts)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert class_weights(counts, "effective", beta=0.0) == [1.0] * 3, "each class has one effective example"
    # As beta comes to 1 the effective number is the number.
    near = class_weights(counts, "effective", beta=1 - 1e-12, most=1e9)
    assert near == pytest.approx(class_weights(counts, "balanced", most=1e9), rel=1e-4)


def test_a_class_seen_once_does_not_lead_and_one_that_nobody_has_is_defined() -> None:
    found = class_weights([999_999, 1, 0], "balanced")

    assert found[1] == pytest.approx(MAX_CLASS_WEIGHT * found[0], rel=1e-5)
    assert found[2] == 1.0
    assert class_weights([0, 0], "balanced") == [1.0, 1.0]


@given(COUNTS, st.sampled_from(["none", "balanced", "effective"]), st.floats(0.0, 0.999999), st.floats(1.0, 1e3))
def test_weights_have_mean_one_over_the_examples_and_a_bound(
    counts: list[int], method: Any, beta: float, most: float
) -> None:
    found = np.array(class_weights(counts, method, beta=beta, most=most))
    there = np.array(counts) > 0

    assert (found > 0).all()
    assert (found[~there] == 1.0).all()
    if there.any():
        assert (found * counts).sum() / sum(counts) == pytest.approx(1.0, rel=1e-4)
        assert found[there].max() <= most * found[there].min() * (1 + 1e-4)
        order = np.argsort(np.array(counts)[there])
        assert (np.diff(found[there][order]) <= 1e-9).all(), "rarer classes never count less"
