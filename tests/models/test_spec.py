from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import PlanError, SpecError, TrainingPlan, build
from tests.models.examples import SPECS

MLP: dict[str, Any] = {"kind": "mlp", "inputs": 4, "hidden": [3], "outputs": 2}
SOFTMAX: dict[str, Any] = {"kind": "softmax", "inputs": 4, "outputs": 2}
NAN, INF = float("nan"), float("inf")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


BAD_SPECS: list[tuple[Any, str]] = [
    (None, "allowed is a table"),
    ([], "allowed is a table"),
    ("mlp", "allowed is a table"),
    ({}, "kind is missing"),
    ({**MLP, "kind": "transformer"}, "kind is 'transformer', allowed is one of 'softmax', 'linear', 'mlp'"),
    ({**MLP, "kind": 1}, "kind is 1"),
    ({**MLP, "kind": ["mlp"]}, "kind is a list of 1"),
    ({**MLP, "colour": 1}, "unknown key 'colour', allowed are"),
    ({**MLP, 7: 1}, "unknown key 7"),
    ({**MLP, b"kind": 1}, "unknown key b'kind'"),
    ({"kind": "mlp", "hidden": [3], "outputs": 2}, "inputs is missing"),
    ({**MLP, "inputs": True}, "inputs is True, allowed is an integer from 1 to"),
    ({**MLP, "inputs": 4.0}, "inputs is 4.0"),
    ({**MLP, "inputs": "4"}, "inputs is '4'"),
    ({**MLP, "inputs": 0}, "inputs is 0"),
    ({**MLP, "inputs": -1}, "inputs is -1"),
    ({**MLP, "inputs": 2**20 + 1}, "inputs is 1048577"),
    ({**MLP, "inputs": 10**5000}, "inputs is an integer of 16610 bits"),
    ({**MLP, "inputs": None}, "inputs is None"),
    ({**MLP, "outputs": 1}, "outputs is 1, allowed is an integer from 2"),
    ({**MLP, "outputs": 2**16 + 1}, "outputs is 65537"),
    ({"kind": "mlp", "inputs": 4, "outputs": 2}, "hidden is missing"),
    ({**MLP, "hidden": []}, "hidden is a list of 0, allowed is a list of 1 to 32 integers"),
    ({**MLP, "hidden": 3}, "hidden is 3"),
    ({**MLP, "hidden": "333"}, "hidden is '333'"),
    ({**MLP, "hidden": [3, False]}, "hidden is False"),
    ({**MLP, "hidden": [3, 0]}, "hidden is 0"),
    ({**MLP, "hidden": [3, 2.5]}, "hidden is 2.5"),
    ({**MLP, "hidden": [1] * 33}, "hidden is a list of 33"),
    ({**MLP, "hidden": nested(900)}, "hidden is a list of 1"),
    ({**MLP, "activation": "gelu"}, "activation is 'gelu', allowed is one of 'relu', 'tanh'"),
    ({**MLP, "task": "ranking"}, "task is 'ranking'"),
    ({**MLP, "loss": "mse"}, "loss is 'mse', allowed is one of 'cross_entropy'"),
    (
        {**MLP, "task": "regression", "loss": "cross_entropy"},
        "loss is 'cross_entropy', allowed is one of 'mse', 'huber'",
    ),
    ({**MLP, "huber_delta": 1.0}, "unknown key 'huber_delta'"),
    ({**MLP, "task": "regression", "loss": "huber", "huber_delta": 0}, "huber_delta is 0, allowed is a number above 0"),
    ({**MLP, "l2": -0.1}, "l2 is -0.1, allowed is a number from 0"),
    ({**MLP, "l2": NAN}, "l2 is nan"),
    ({**MLP, "l2": INF}, "l2 is inf"),
    ({**MLP, "l2": True}, "l2 is True"),
    ({**MLP, "l2": "0"}, "l2 is '0'"),
    ({**SOFTMAX, "hidden": [3]}, "unknown key 'hidden'"),
    ({**SOFTMAX, "task": "regression"}, "task is 'regression', allowed is one of 'classification'"),
    ({**SOFTMAX, "kind": "linear", "task": "classification"}, "task is 'classification'"),
    ({**MLP, "inputs": 2**20, "hidden": [2**16]}, "size is 68719673346 parameters, allowed is at most 67108864"),
    ({**MLP, "hidden": [65536] * 32}, "parameters, allowed is at most 67108864"),
]


@pytest.mark.parametrize(("data", "words"), BAD_SPECS)
def test_a_bad_spec_is_refused_with_key_found_and_allowed(data: Any, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(data)

    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", SPECS)
def test_the_canonical_spec_builds_the_same_model(name: str) -> None:
    model = build(SPECS[name])

    again = build(model.spec)

    assert again.spec == model.spec
    assert again.layout == model.layout
    assert model.spec.items() >= SPECS[name].items()
    assert {"kind", "inputs", "outputs", "task", "loss", "l2"} <= model.spec.keys()


def test_a_spec_is_no_way_into_the_model() -> None:
    model = build(MLP)
    model.spec["hidden"].append(9)
    assert model.spec["hidden"] == [3]


BAD_PLANS: list[tuple[Any, str]] = [
    (None, "allowed is a table"),
    ({"epoch": 1}, "unknown key 'epoch'"),
    ({"epochs": 0}, "epochs is 0, allowed is an integer from 1 to 10000"),
    ({"epochs": 1.0}, "epochs is 1.0"),
    ({"epochs": True}, "epochs is True"),
    ({"epochs": 10**9}, "epochs is 1000000000"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"batch_size": 2**17}, "batch_size is 131072"),
    ({"optimizer": "lion"}, "optimizer is 'lion', allowed is one of 'sgd', 'adam'"),
    ({"optimizer": None}, "optimizer is None"),
    ({"learning_rate": 0}, "learning_rate is 0, allowed is a number above 0"),
    ({"learning_rate": NAN}, "learning_rate is nan"),
    ({"learning_rate": -INF}, "learning_rate is -inf"),
    ({"learning_rate": "0.1"}, "learning_rate is '0.1'"),
    ({"learning_rate": False}, "learning_rate is False"),
    ({"learning_rate": 10**400}, "learning_rate is an integer of 1329 bits"),
    ({"momentum": 1}, "momentum is 1"),
    ({"momentum": -0.1}, "momentum is -0.1"),
    ({"optimizer": "adam", "momentum": 0.9}, "momentum is 0.9, allowed is 0 with optimizer 'adam'"),
    ({"proximal": -1.0}, "proximal is -1.0"),
    ({"max_steps": -1}, "max_steps is -1"),
    ({"clip_norm": -1}, "clip_norm is -1"),
    ({"clip_norm": {"a": 1}}, "clip_norm is a table of 1"),
    ({"x" * 10_000: 1}, "unknown key 'xxx"),
]


@pytest.mark.parametrize(("data", "words"), BAD_PLANS)
def test_a_bad_plan_is_refused_with_key_found_and_allowed(data: Any, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        TrainingPlan.from_data(data)

    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


def test_plans_survive_the_way_through_data() -> None:
    plan = TrainingPlan.from_data({"epochs": 3, "learning_rate": 1, "optimizer": "adam", "clip_norm": 5})

    assert TrainingPlan.from_data(plan.to_data()) == plan
    assert TrainingPlan.from_data({}) == TrainingPlan()
    assert isinstance(plan.learning_rate, float)


KEYS = ["kind", "inputs", "outputs", "hidden", "l2", "loss", "task", "epochs", "momentum", "learning_rate"]
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.sampled_from(["mlp", "softmax", "linear", "huber", "sgd"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3) | st.integers(), JUNK, max_size=8))
def test_whatever_comes_only_the_named_errors_come_out(data: Any) -> None:
    for read, error in ((build, SpecError), (TrainingPlan.from_data, PlanError)):
        try:
            read(data)
        except error as exc:
            message = str(exc)
            assert len(message) < 400
