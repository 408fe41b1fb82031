"""Networks as data: what is refused before anything is allocated, short forms, reconstruction, and memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest

from models import Dataset, PlanError, SpecError, TrainingPlan, build, local_train
from models.metrics import ReconstructionMetrics
from tests.models.networks import (
    FLATTEN,
    GLOBAL,
    LAYERS,
    MAX,
    STANDARDIZE,
    around,
    conv,
    conv1,
    dense,
    examples,
    gru,
    norm,
    spec_of,
)

IMAGE, SERIES, FLAT = [28, 28, 1], [128, 9], [16]


def net(shape: Any, *layers: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "network", "input_shape": shape, "layers": list(layers), **more}


CNN = {"kind": "image_cnn", "outputs": 10}
SERIES_CNN = {"kind": "series_cnn", "input_shape": [128, 9], "outputs": 6}
GRU = {"kind": "gru", "input_shape": [128, 9], "outputs": 6}
AUTOENCODER = {"kind": "autoencoder", "inputs": 16, "hidden": [4]}

BAD: list[tuple[Any, str]] = [
    ({"kind": "network", "layers": [dense(2)]}, "input_shape is missing"),
    ({"kind": "network", "input_shape": [4]}, "layers is missing"),
    (net([4]), "layers is a list of 0, allowed is a list of 1 to 64 tables"),
    (net([4], 7), "layers is 7, allowed is a table in every place"),
    ({**net([4]), "layers": {"kind": "dense"}}, "layers is a table of 1"),
    (net(4, dense(2)), "input_shape is 4, allowed is a list of 1 to 3 integers"),
    (net([4, 4, 4, 4], dense(2)), "input_shape is a list of 4"),
    (net([4, 0], FLATTEN, dense(2)), "input_shape is 0"),
    (net([4, True], FLATTEN, dense(2)), "input_shape is True"),
    (net([2**20, 2], FLATTEN, dense(2)), "at most 1048576 values in all"),
    (net([4], dense(2), inputs=4), "unknown key 'inputs'"),
    (net([4], {"kind": "attention"}), "layer 0: kind is 'attention', allowed is one of 'standardize'"),
    (net([4], {}), "layer 0: kind is missing"),
    (net([4], dense(2, colour=1)), "layer 0: unknown key 'colour'"),
    (net([4], dense(0)), "layer 0: outputs is 0"),
    (net([4], dense(2, activation="gelu")), "layer 0: activation is 'gelu'"),
    (net([4], dense(2, start="ones")), "layer 0: start is 'ones'"),
    (net([4], dense(2, name="a.b")), "layer 0: name is 'a.b', allowed is a name of 1 to 32"),
    (net([4], dense(2, name="é")), "layer 0: name is"),
    (net([4], dense(2, name="a\n")), "layer 0: name is"),
    (net([4], dense(2, name="x" * 33)), "layer 0: name is"),
    (net([4], dense(2, name="a"), dense(2, name="a")), "layer 1: name is 'a', allowed is a name that no other"),
    (net([4], dense(2), dense(2, name="dense0")), "layer 1: name is 'dense0'"),
    (net(IMAGE, dense(2)), "layer 0 (dense) gets examples of shape 28x28x1, allowed are features (flatten"),
    (net(SERIES, conv(4, 3), GLOBAL), "layer 0 (conv2d) gets examples of shape 128x9, allowed are height x width"),
    (net(IMAGE, conv1(4, 3), GLOBAL), "layer 0 (conv1d) gets examples of shape 28x28x1"),
    (net(FLAT, FLATTEN), "layer 0 (flatten) gets examples of shape 16"),
    (net(IMAGE, gru(4)), "layer 0 (gru) gets examples of shape 28x28x1"),
    (net(IMAGE, conv(4, 3)), "its last layer gives 28x28x4, allowed is one row"),
    (net(IMAGE, conv(4, 0), GLOBAL), "layer 0: kernel is 0, allowed is an integer from 1 to 63, or a list of 2"),
    (net(IMAGE, conv(4, [3, 3, 3]), GLOBAL), "kernel is a list of 3"),
    (net(IMAGE, conv(4, [3, "3"]), GLOBAL), "kernel is a list of 2"),
    (net(IMAGE, conv(4, 3, padding="full"), GLOBAL), "padding is 'full'"),
    (net(IMAGE, conv(4, 29, padding="valid"), GLOBAL), "layer 0 (conv2d) leaves nothing of examples of shape 28x28x1"),
    (net([3, 3, 1], {"kind": "max_pool", "size": 4}, GLOBAL), "layer 0 (max_pool) leaves nothing"),
    (net(IMAGE, {"kind": "max_pool", "size": 0}, GLOBAL), "size is 0"),
    (net(IMAGE, conv(6, 3), norm(4), GLOBAL), "layer 1: groups is 4, allowed is a number that divides the 6 channels"),
    (net([1, 4], norm(4), GLOBAL), "groups is 4, allowed is fewer"),
    (net(FLAT, dense(4), {"kind": "dropout", "rate": 1.0}), "rate is 1.0"),
    (net(FLAT, dense(4), {"kind": "dropout", "rate": float("nan")}), "rate is nan"),
    (net(FLAT, {"kind": "dropout", "rate": 0}, dense(2)), "rate is 0, allowed is a number above 0"),
    (net([5000, 2], gru(4)), "number of steps is 5000, allowed is at most 4096"),
    (net(SERIES, gru(4, sequence=1)), "sequence is 1, allowed is true or false"),
    (net(FLAT, dense(4), STANDARDIZE, dense(2)), "layer 1 (standardize) is allowed as the first layer only"),
    (net(FLAT, around(STANDARDIZE)), "layer 0: layer 0 (standardize) is allowed as the first"),
    (net(FLAT, around(dense(4))), "layer 0 (residual): its layers turn 16 into 4"),
    (net(FLAT, around(around(dense(16)))), "layer 0: layer 0 (residual) lies in another one"),
    (net(FLAT, {"kind": "residual"}), "layer 0: layers is missing"),
    (net(FLAT, *[dense(2)] * 65), "layers is a list of 65"),
    (net(FLAT, *[around(*[dense(16)] * 40)] * 2), "layer 1: layer 22 is one too many, allowed are 64 layers"),
    (net(FLAT, dense(1)), "gives 1 outputs, allowed for classification are 2"),
    (net(FLAT, dense(4), task="reconstruction"), "gives 4 outputs, allowed are the 16 inputs"),
    (net([2**20], dense(2**16)), "size is"),
    (net([512, 512, 4], conv(2**16, 1), GLOBAL), "memory is"),
    (net([4096, 64], *[conv1(64, 63)] * 5, GLOBAL), "work is"),
    ({**CNN, "input_shape": [28, 28]}, "input_shape is a list of 2, allowed is a list of 3 integers"),
    ({**CNN, "input_shape": [3, 3, 1]}, "(max_pool) leaves nothing"),
    ({**CNN, "filters": []}, "filters is a list of 0"),
    ({**CNN, "filters": [1] * 9}, "filters is a list of 9"),
    ({**CNN, "inputs": 784}, "unknown key 'inputs'"),
    ({**CNN, "standardize": 1}, "standardize is 1, allowed is true or false"),
    ({**SERIES_CNN, "kernel": 16}, "kernel is 16"),
    ({**SERIES_CNN, "dropout": -0.1}, "dropout is -0.1"),
    ({**GRU, "units": [1] * 5}, "units is a list of 5"),
    ({**GRU, "task": "reconstruction"}, "task is 'reconstruction'"),
    ({**AUTOENCODER, "outputs": 16}, "unknown key 'outputs'"),
    ({**AUTOENCODER, "loss": "cross_entropy"}, "loss is 'cross_entropy', allowed is one of 'mse', 'huber'"),
]


@pytest.mark.parametrize(("data", "words"), BAD)
def test_a_bad_network_is_refused_with_layer_key_and_allowed_before_memory_is_taken(data: Any, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(SpecError) as caught:
            build(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert words in str(caught.value)
    assert len(str(caught.value)) < 400
    assert peak < 1_000_000


SHORT = [
    CNN,
    {**CNN, "filters": [32, 64], "kernel": 5, "hidden": [512], "dropout": 0.5, "standardize": True},
    SERIES_CNN,
    {**SERIES_CNN, "task": "regression", "loss": "huber"},
    GRU,
    {**GRU, "units": [8, 4], "task": "regression", "dropout": 0.1},
    {**AUTOENCODER, "standardize": True, "activation": "tanh"},
    {"kind": "mlp", "inputs": 4, "hidden": [3], "outputs": 2, "dropout": 0.5, "standardize": True},
    {"kind": "linear", "inputs": 4, "outputs": 2, "standardize": True},
]


@pytest.mark.parametrize("spec", [*SHORT, *(spec_of(name) for name in LAYERS)])
def test_specs_survive_the_way_through_a_manifest(spec: dict[str, Any]) -> None:
    model = build(spec)

    again = build(msgpack.unpackb(msgpack.packb(model.spec)))

    assert again.spec == model.spec
    assert again.layout == model.layout
    assert again.network == model.network


@pytest.mark.parametrize("spec", SHORT)
def test_a_short_form_is_the_network_of_its_layers(spec: dict[str, Any]) -> None:
    short = build(spec)
    more = {key: short.spec[key] for key in ("task", "loss", "huber_delta", "l2") if key in short.spec}
    spelled = build(net(list(short.network.input_shape), *(layer.to_data() for layer in short.layers), **more))

    assert spelled.layout == short.layout
    assert spelled.layers == short.layers


def test_sizes_and_names_of_the_ready_made() -> None:
    classic = build({**CNN, "filters": [32, 64], "kernel": 5, "hidden": [512]})

    assert classic.layout.size == 1_663_370, "McMahan et al. 2017"
    assert build(CNN).layout.size == 20_490
    names = [name for name, _ in classic.layout.entries]
    assert names[:2] == ["conv1.weight", "conv1.bias"]
    assert names[-4:] == ["hidden1.weight", "hidden1.bias", "head.weight", "head.bias"]
    assert "gru1.recurrent" in build(GRU).layout.slices


def test_layers_that_make_no_parameters_leave_nothing_to_learn() -> None:
    with pytest.raises(SpecError, match="no parameters"):
        build(net([4, 3], GLOBAL))


def test_a_batch_that_needs_more_memory_than_any_step_may_is_refused() -> None:
    model = build(net([512, 512, 1], conv(8, 1), GLOBAL))
    data = Dataset(np.zeros((64, model.inputs), np.float32), np.zeros(64, np.int64))
    plan = TrainingPlan.from_data({"batch_size": 64})

    with pytest.raises(PlanError, match="batch_size is 64, allowed is at most"):
        local_train(model, model.init(np.random.default_rng(0)), data, plan, np.random.default_rng(0))


def test_evaluation_takes_blocks_by_bytes() -> None:
    model = build(net([64, 64, 1], conv(16, 3, activation="relu"), MAX, GLOBAL))
    data = examples(model, 300)
    start = model.init(np.random.default_rng(0))
    tracemalloc.start()
    whole = model.evaluate(start, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert whole.count == 300
    assert peak < 40e6, "512 rows at once would be ten times as much"
    parts = [model.evaluate(start, data.subset(slice(i, i + 100))) for i in range(0, 300, 100)]
    total = parts[0] + parts[1] + parts[2]  # type: ignore[operator]
    assert total.correct == whole.correct  # type: ignore[union-attr]


@pytest.mark.parametrize("spec", [CNN, SERIES_CNN, GRU])
def test_the_stated_memory_of_a_step_is_what_it_takes(spec: dict[str, Any]) -> None:
    model = build(spec)
    data = examples(model, 32)
    start = model.init(np.random.default_rng(0))
    tracemalloc.start()
    model.loss_and_gradient(start, data.x, data.y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4 * (32 * model.network.kept + 4 * model.layout.size) + 3_000_000


def test_an_autoencoder_finds_what_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((400, 2))
    mix, offset = rng.standard_normal((2, 8)), 100.0
    usual = hidden @ mix * 50.0 + offset + rng.standard_normal((400, 8))
    model = build({"kind": "autoencoder", "inputs": 8, "hidden": [4, 2, 4], "activation": "tanh", "standardize": True})
    start = model.init(np.random.default_rng(1))
    views = model.layout.views(start)
    views["constants.mean"][:], views["constants.scale"][:] = usual.mean(axis=0), 1.0 / usual.std(axis=0)
    data = Dataset.for_model(model, usual)
    plan = TrainingPlan.from_data({"epochs": 100, "optimizer": "adam", "learning_rate": 0.01})

    trained = local_train(model, start, data, plan, np.random.default_rng(2)).parameters

    before, after = model.evaluate(start, data).summary(), model.evaluate(trained, data).summary()
    assert after["loss"] < 0.2 * before["loss"]
    strange = usual[:50, ::-1]
    threshold = after["error_p99"]
    assert (model.errors(trained, usual) > threshold).mean() < 0.05
    assert (model.errors(trained, strange) > threshold).mean() > 0.8
    wanted = np.quantile(model.errors(trained, usual), [0.5, 0.9, 0.99])
    np.testing.assert_allclose([after[f"error_{p}"] for p in ("p50", "p90", "p99")], wanted, rtol=0.1)
    assert after["error"] == pytest.approx(float(model.errors(trained, usual).mean()), rel=1e-4)


def test_reconstruction_metrics_add_up() -> None:
    rng = np.random.default_rng(0)
    errors = rng.exponential(size=500)
    whole = ReconstructionMetrics.of(errors, 5.0)
    parts = ReconstructionMetrics.of(errors[:200], 2.0) + ReconstructionMetrics.of(errors[200:], 3.0)

    assert parts.summary() == pytest.approx(whole.summary())
    assert ReconstructionMetrics().summary() == {}
    assert (ReconstructionMetrics() + whole).summary() == whole.summary()
    assert ReconstructionMetrics.of(np.array([np.nan, np.inf]), np.nan).summary()["error_p50"] > 1e8


def test_labels_are_no_part_of_a_reconstruction_and_others_need_them() -> None:
    model = build(AUTOENCODER)
    data = Dataset.for_model(model, np.ones((3, 16)), ["a", "b"])
    assert data.y is data.x
    with pytest.raises(ValueError, match="y is missing"):
        Dataset.for_model(build(CNN), np.ones((3, 784)))
    with pytest.raises(ValueError, match="nothing is reconstructed"):
        build(CNN).errors(np.zeros(20_490, np.float32), np.ones((1, 784)))
