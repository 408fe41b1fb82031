"""What is private: which parameters a pattern names, and what a training does to them when."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from models import Dataset, Personal, PlanError, Training, TrainingPlan, build
from models.personal import with_constants

MLP = {"kind": "mlp", "inputs": 4, "hidden": [5], "outputs": 3}
NORMED = {
    "kind": "network",
    "input_shape": [6, 4],
    "layers": [
        {"kind": "standardize"},
        {"kind": "conv1d", "name": "body", "filters": 4, "kernel": 3},
        {"kind": "group_norm", "name": "norm1", "groups": 2, "activation": "relu"},
        {"kind": "global_average_pool"},
        {"kind": "dense", "name": "head", "outputs": 2},
    ],
}
PLANS: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.1},
    "momentum": {"learning_rate": 0.1, "momentum": 0.9, "proximal": 0.1},
    "adam": {"optimizer": "adam", "learning_rate": 0.01},
}


def names(split: Any) -> tuple[list[str], list[str]]:
    return [name for name, _ in split.shared.entries], [name for name, _ in split.private.entries]


def test_patterns_name_private_parameters() -> None:
    model = build(MLP)
    shared, private = names(Personal.from_data({"private": ["dense1.*"]}).split(model))
    assert (shared, private) == (["dense0.weight", "dense0.bias"], ["dense1.weight", "dense1.bias"])
    assert names(Personal.from_data({"private": ["*.bias"]}).split(model))[1] == ["dense0.bias", "dense1.bias"]
    nothing = Personal.from_data({}).split(model)
    assert nothing.shared.digest == model.layout.digest
    assert nothing.private.size == 0


def test_normalization_can_be_private_and_constants_cannot() -> None:
    model = build(NORMED)
    assert names(Personal.from_data({"private": ["norm?.*"]}).split(model))[1] == ["norm1.weight", "norm1.bias"]
    with pytest.raises(PlanError, match="a constant of the federation's"):
        Personal.from_data({"private": ["constants.mean"]}).split(model)
    with pytest.raises(PlanError, match="matches every parameter"):
        Personal.from_data({"private": ["body.*", "norm1.*", "head.*"]}).split(model)
    begun, source = (np.full(model.layout.size, value, np.float32) for value in (1.0, 2.0))
    assert with_constants(model, begun, source).sum() == model.layout.size + 8, "means and scales of 4 features"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"private": ["tail.*"]}, "matches no parameter; there are dense0.weight"),
        ({"private": ["*"]}, "matches every parameter"),
        ({"private": ["dense1.*", "dense1.*"]}, "different texts"),
        ({"private": ["head[ab]"]}, r"letters, digits, _ and \."),
        ({"private": "dense1.*"}, "a list of"),
        ({"private_epochs": 2}, "0 where nothing is private"),
        ({"secret": ["dense1.*"]}, "unknown key"),
    ],
)
def test_what_does_not_fit_is_refused(data: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError, match=text):
        Personal.from_data(data).split(build(MLP))


def test_data_there_and_back() -> None:
    personal = Personal.from_data(
        {"private": ["dense1.*"], "private_epochs": 2, "fine_tune_epochs": 3, "compare_local": True}
    )
    assert Personal.from_data(personal.to_data()) == personal


def test_parts_of_a_vector() -> None:
    model = build(MLP)
    split = Personal.from_data({"private": ["*.bias"]}).split(model)
    vector = np.arange(model.layout.size, dtype=np.float32)
    shared, private = split.shared_of(vector), split.private_of(vector)
    assert private.tolist() == [20, 21, 22, 23, 24, 40, 41, 42]
    assert np.array_equal(split.overlaid(split.spread(shared), private), vector)
    assert np.array_equal(split.spread(shared.astype(np.float64)) != 0, (split.overlaid(vector, 0 * private)) != 0)
    assert np.array_equal(vector, np.arange(model.layout.size)), "nothing is changed in place"


def training(plan: dict[str, Any], private_epochs: int) -> tuple[Training, Any, Any]:
    model = build(MLP | {"l2": 0.01})
    personal = Personal.from_data({"private": ["dense1.*"], "private_epochs": private_epochs})
    split = personal.split(model)
    rng = np.random.default_rng(3)
    data = Dataset.for_model(model, rng.normal(size=(30, 4)), rng.integers(0, 3, 30))
    begun = model.init(rng)
    made = personal.plan_of(TrainingPlan.from_data({"batch_size": 8, "epochs": 2} | plan))
    return Training(model, begun, data, made, rng, personal.turns_of(split)), split, begun


@pytest.mark.parametrize("plan", PLANS)
def test_the_head_is_trained_before_the_body(plan: str) -> None:
    found, split, begun = training(PLANS[plan], 3)
    seen: list[Any] = []

    def look() -> bool:
        seen.append(found.parameters.copy())
        return False

    found.run(look)
    seen.append(found.parameters)

    assert len(seen) == 1 + 5 * 4
    assert np.array_equal(split.shared_of(seen[12]), split.shared_of(begun)), "nothing else moves in the first turn"
    assert not np.array_equal(split.private_of(seen[12]), split.private_of(begun))
    assert np.array_equal(split.private_of(seen[-1]), split.private_of(seen[12])), "and it stays in the second"
    assert all(not np.array_equal(split.shared_of(a), split.shared_of(b)) for a, b in pairwise(seen[12:]))


@pytest.mark.parametrize("plan", PLANS)
def test_turns_survive_an_interruption_at_any_step(plan: str) -> None:
    whole, _, _ = training(PLANS[plan], 2)
    assert whole.run()
    for stop in range(1, 16):
        first, _, _ = training(PLANS[plan], 2)
        first.run(partial(next, iter([False] * stop + [True])))
        second, _, _ = training(PLANS[plan], 2)
        second.resume(first.checkpoint())
        assert second.run()
        assert np.array_equal(second.parameters, whole.parameters), stop


def test_turns_need_a_plan_that_is_carried_out() -> None:
    personal = Personal.from_data({"private": ["dense1.*"], "private_epochs": 2})
    assert personal.plan_of(TrainingPlan(epochs=3)).epochs == 5
    for plan in (TrainingPlan(max_steps=4), TrainingPlan(deadline_s=9.0, on_deadline="send")):
        with pytest.raises(PlanError, match="before the shared parameters have their turn"):
            personal.plan_of(plan)
