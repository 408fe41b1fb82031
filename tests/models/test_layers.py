"""Every layer against a float64 reference, its gradient against finite differences of that, and bits under a seed."""

from __future__ import annotations

import numpy as np
import pytest

from models import Training, TrainingPlan, build, local_train
from models.layers import Buffers, Tie, tiled
from models.layers.minimal import SIZES, filtering
from models.layers.tiled import BoundTiled
from tests.models import layer_reference as reference
from tests.models.networks import FLATTEN, LAYERS, RELU, TASKS, conv, dense, examples, network, spec_of


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("count", [1, 3])
def test_outputs_agree_with_the_reference(name: str, count: int) -> None:
    model, start = network(name, "regression")
    data = examples(model, count)

    found = model.predict(start, data.x)

    wanted = np.array([reference.output(model.spec, start, row) for row in data.x])
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_what_finite_differences_of_the_reference_say(name: str, task: str) -> None:
    model, start = network(name, task)
    data = examples(model, 3)
    constants = sum(len(view.ravel()) for key, view in model.layout.views(start).items() if "constants" in key)
    places = np.random.default_rng(7).permutation(np.arange(constants, len(start)))[: 12 if "large" in name else 30]

    loss, gradient = model.loss_and_gradient(start, data.x, data.y)

    assert loss == pytest.approx(reference.loss(model, start, data.x, data.y), rel=2e-5)
    wanted = reference.slopes(model, start, data.x, data.y, places)
    np.testing.assert_allclose(gradient[places], wanted, rtol=2e-3, atol=2e-5)
    assert not gradient[:constants].any(), "constants are not trained"


@pytest.mark.parametrize("name", LAYERS)
def test_every_parameter_is_reached_in_every_batch_size(name: str) -> None:
    """Sums over rows are sums over batches of one: no row is forgotten, whatever the chunks."""
    model, start = network(name)
    data = examples(model, 5)

    loss, whole = model.loss_and_gradient(start, data.x, data.y)

    alone = [model.loss_and_gradient(start, data.x[i : i + 1], data.y[i : i + 1]) for i in range(5)]
    assert loss == pytest.approx(np.mean([value for value, _ in alone]), rel=1e-5)
    np.testing.assert_allclose(whole, np.mean([gradient for _, gradient in alone], axis=0), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_a_seed_gives_the_same_bits(name: str) -> None:
    model, start = network(name)
    data = examples(model, 21)
    plan = TrainingPlan.from_data({"epochs": 2, "batch_size": 8, "learning_rate": 0.05, "momentum": 0.5})

    runs = [local_train(model, start, data, plan, np.random.default_rng(3)).parameters for _ in range(2)]

    assert runs[0].tobytes() == runs[1].tobytes()
    assert np.isfinite(runs[0]).all()
    assert np.linalg.norm(runs[0] - start) > 1e-3


@pytest.mark.parametrize("optimizer", [{"momentum": 0.9}, {"optimizer": "adam", "learning_rate": 0.01}])
@pytest.mark.parametrize("name", ["dense-constants", "conv1d-pool", "gru-alone"])
def test_constants_stay_as_they_are_through_any_training(name: str, optimizer: dict[str, float]) -> None:
    model = build({**spec_of(name), "l2": 0.1})
    start = network(name)[1]
    plan = TrainingPlan.from_data({"epochs": 3, "batch_size": 8, "proximal": 0.1, "clip_norm": 0.5, **optimizer})

    after = local_train(model, start, examples(model, 20), plan, np.random.default_rng(0)).parameters

    before, views = model.layout.views(start), model.layout.views(after)
    for key in ("constants.mean", "constants.scale"):
        assert views[key].tobytes() == before[key].tobytes()
    assert (after != start).sum() > 0.9 * (len(start) - before["constants.mean"].size * 2)


def test_dense_layers_spelled_out_are_the_short_form_bit_for_bit() -> None:
    short = build({"kind": "mlp", "inputs": 5, "hidden": [7, 4], "outputs": 3, "l2": 0.01})
    layers = [dense(7, **RELU), dense(4, **RELU), dense(3)]
    spelled = build({"kind": "network", "input_shape": [5], "layers": layers, "l2": 0.01})
    data, plan = examples(short, 50), TrainingPlan.from_data({"epochs": 3, "momentum": 0.5})

    assert spelled.layout == short.layout
    starts = [model.init(np.random.default_rng(0)) for model in (short, spelled)]
    runs = [local_train(model, starts[0], data, plan, np.random.default_rng(1)) for model in (short, spelled)]

    assert starts[0].tobytes() == starts[1].tobytes()
    assert runs[0].parameters.tobytes() == runs[1].parameters.tobytes()


@pytest.mark.parametrize("activation", ["relu", "tanh", "none"])
@pytest.mark.parametrize("size", [2, [3, 1], [2, 5]])
def test_pooling_before_the_activation_gives_the_bits_of_pooling_after_it(activation: str, size: list[int]) -> None:
    """A dropout between them, which predictions pass by, keeps the two layers apart."""
    first = {"kind": "conv2d", "filters": 4, "kernel": 3, "activation": activation}
    pool, rest = {"kind": "max_pool", "size": size}, [{"kind": "flatten"}, {"kind": "dense", "outputs": 3}]
    apart = {"kind": "dropout", "rate": 0.5}
    shape = {"kind": "network", "input_shape": [7, 11, 2]}
    one, two = build({**shape, "layers": [first, pool, *rest]}), build({**shape, "layers": [first, apart, pool, *rest]})
    start = one.init(np.random.default_rng(0))
    data = examples(one, 9)

    found, wanted = (model.loss_and_gradient(start, data.x, data.y) for model in (one, two))

    assert one.predict(start, data.x).tobytes() == two.predict(start, data.x).tobytes()
    assert found[0] == wanted[0]
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4, atol=1e-7)


def test_of_equal_values_the_first_one_gets_the_gradient() -> None:
    layers = [{"kind": "conv2d", "filters": 1, "kernel": 1}, {"kind": "max_pool"}, {"kind": "flatten"}]
    model = build({"kind": "network", "input_shape": [4, 4, 1], "layers": layers, "task": "regression"})
    start = np.array([1.0, 0.0], np.float32)

    _, gradient = model.loss_and_gradient(start, np.ones((1, 16)), np.zeros((1, 4)))

    np.testing.assert_allclose(gradient, [2.0, 2.0], err_msg="each window counts once")


def test_dropout_acts_in_training_alone_and_as_often_as_it_should() -> None:
    layers = [{"kind": "dropout", "rate": 0.25}, {"kind": "dense", "outputs": 1, "start": "zero"}]
    model = build({"kind": "network", "input_shape": [4000], "layers": layers, "task": "regression"})
    start, x = np.zeros(4001, np.float32), np.ones((1, 4000), np.float32)
    start[:4000] = 1.0

    assert model.predict(start, x)[0, 0] == 4000.0
    _, quiet = model.loss_and_gradient(start, x, [[3999.5]])
    _, gradient = model.loss_and_gradient(start, x, [[0.0]], np.random.default_rng(0))

    np.testing.assert_allclose(quiet, 1.0)
    dropped = gradient[:4000] == 0.0
    assert dropped.mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_allclose(gradient[:4000][~dropped], gradient[4000] / 0.75, rtol=1e-5)


def test_a_training_with_dropout_goes_on_bit_for_bit_after_a_pause() -> None:
    model = build({"kind": "mlp", "inputs": 6, "hidden": [5], "outputs": 3, "dropout": 0.3})
    data, plan = examples(model, 30), TrainingPlan.from_data({"epochs": 3, "batch_size": 7})
    start = model.init(np.random.default_rng(0))
    whole = local_train(model, start, data, plan, np.random.default_rng(4)).parameters
    for steps in range(1, 14):
        first = Training(model, start, data, plan, np.random.default_rng(4))
        assert not first.run(iter([False] * steps + [True]).__next__)
        second = Training(model, start, data, plan, np.random.default_rng(99))
        second.resume(first.checkpoint())
        assert second.run()
        assert second.parameters.tobytes() == whole.tobytes()


@pytest.mark.parametrize("taps", SIZES)
def test_minimal_filtering_gives_what_the_window_gives(taps: int) -> None:
    """As polynomials in integers it is exact; the matrices are float32, some with thirds in them."""
    rng = np.random.default_rng(taps)
    lines, window = rng.integers(-9, 9, taps + 1), rng.integers(-9, 9, taps)
    found = filtering(taps)

    pair = found.outputs @ ((found.weights @ window) * (found.inputs @ lines))

    np.testing.assert_allclose(pair, [lines[:-1] @ window, lines[1:] @ window], rtol=1e-5, atol=1e-4)
    assert found.inputs.shape == (taps + 1, taps + 1), "so many products, where the window asks for twice the taps"


@pytest.mark.parametrize("name", [name for name in LAYERS if "tiled" in name])
def test_tiles_say_the_same_in_one_chunk_and_in_many(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, start = network(name, "regression")
    data = examples(model, 5)
    whole_loss, whole = model.loss_and_gradient(start, data.x, data.y)

    monkeypatch.setattr(tiled, "CHUNK_FLOATS", 1)
    views = model.layout.views(start.copy())
    bound = model.layers[0].bind(Tie(views, views, 5, Buffers(), first=True))
    loss, gradient = model.loss_and_gradient(start, data.x, data.y)

    assert isinstance(bound, BoundTiled)
    assert len(bound.chunks) > 1
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    np.testing.assert_allclose(gradient, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
def test_tiles_lose_no_more_digits_than_the_products_they_spare(kernel: int) -> None:
    """Against float64, relative to the largest output: a few units in the last place, summed over 32 channels."""
    layers = [conv(16, kernel), conv(16, 1), FLATTEN, dense(2)]
    model = build({"kind": "network", "input_shape": [12, 12, 32], "layers": layers, "task": "regression"})
    layer = model.layers[0]
    views = {name: np.zeros(shape, np.float32) for name, shape in layer.entries}
    rng = np.random.default_rng(0)
    layer.init(views, rng)
    x = rng.standard_normal((32, 12, 12, 1), dtype=np.float32)

    bound = layer.bind(Tie(views, {name: view.copy() for name, view in views.items()}, 1, Buffers(), first=True))
    found = bound.forward(x, None)

    padded = np.pad(x[..., 0].astype(np.float64), [(0, 0), (kernel // 2,) * 2, (kernel // 2,) * 2])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    wanted = np.einsum("chwij,fijc->fhw", windows, views[layer.entries[0][0]].astype(np.float64))
    assert isinstance(bound, BoundTiled)
    assert np.abs(found[..., 0] - wanted).max() < 4e-6 * np.abs(wanted).max()
