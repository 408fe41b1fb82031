from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models import DataError, Dataset, TrainingPlan, TrainingResult, build, local_train
from models.optimizers import Adam
from tests.models import reference
from tests.models.examples import SPECS, model_and_data
from tests.support.patience import PATIENCE_S

PLANS: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.1},
    "momentum": {"learning_rate": 0.05, "momentum": 0.9},
    "adam": {"optimizer": "adam", "learning_rate": 0.01},
    "fedprox": {"learning_rate": 0.1, "proximal": 0.5},
    "adam-fedprox": {"optimizer": "adam", "learning_rate": 0.01, "proximal": 0.3},
    "clipped": {"learning_rate": 0.2, "clip_norm": 0.3},
}


def plan_of(**data: Any) -> TrainingPlan:
    return TrainingPlan.from_data(data)


def trained(name: str, plan: TrainingPlan, seed: int = 5) -> TrainingResult:
    model, start, data = model_and_data(name)
    return local_train(model, start, data, plan, np.random.default_rng(seed))


@pytest.mark.parametrize("plan_name", PLANS)
@pytest.mark.parametrize("name", SPECS)
def test_agrees_with_the_float64_reference_after_epochs(name: str, plan_name: str) -> None:
    model, start, data = model_and_data(name)
    plan = plan_of(epochs=4, batch_size=16, **PLANS[plan_name])  # 40 examples: the last batch is short

    result = local_train(model, start, data, plan, np.random.default_rng(5))

    wanted = reference.train(model.spec, start, data.x, data.y, plan.to_data(), seed=5)
    assert result.num_steps == 12
    assert result.finished
    np.testing.assert_allclose(result.parameters, wanted, rtol=2e-3, atol=2e-4)
    assert np.linalg.norm(wanted - start) > 0.05, "something was learnt at all"


@pytest.mark.parametrize("name", SPECS)
def test_training_lowers_the_loss(name: str) -> None:
    model, start, data = model_and_data(name)
    result = local_train(model, start, data, plan_of(epochs=80, batch_size=8), np.random.default_rng(0))

    before, after = (model.evaluate(w, data).summary()["loss"] for w in (start, result.parameters))

    assert after < 0.8 * before
    assert result.loss < before


@pytest.mark.parametrize("plan_name", PLANS)
def test_a_seed_gives_the_same_bits_and_another_one_others(plan_name: str) -> None:
    plan = plan_of(epochs=3, batch_size=16, **PLANS[plan_name])

    first, again, other = trained("mlp-relu", plan), trained("mlp-relu", plan), trained("mlp-relu", plan, seed=6)

    assert first.parameters.tobytes() == again.parameters.tobytes()
    assert first.loss == again.loss
    assert first.parameters.tobytes() != other.parameters.tobytes()


def test_neither_start_nor_data_are_changed() -> None:
    model, start, data = model_and_data("mlp-relu")
    kept = start.copy(), data.x.copy(), data.y.copy()
    start.flags.writeable = data.x.flags.writeable = data.y.flags.writeable = False

    result = local_train(model, start, data, plan_of(epochs=2, proximal=0.1), np.random.default_rng(0))

    for now, before in zip((start, data.x, data.y), kept, strict=True):
        np.testing.assert_array_equal(now, before)
    assert result.parameters.flags.owndata
    assert not np.shares_memory(result.parameters, start)


@pytest.mark.parametrize("steps", range(8))
def test_stops_at_the_step_boundary_where_it_is_asked_to(steps: int) -> None:
    model, start, data = model_and_data("mlp-relu")
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > steps

    plan = plan_of(epochs=2, batch_size=10)
    result = local_train(model, start, data, plan, np.random.default_rng(0), should_stop)

    assert (result.num_steps, result.finished) == (steps, False)
    if steps:
        same = local_train(
            model, start, data, plan_of(epochs=2, batch_size=10, max_steps=steps), np.random.default_rng(0)
        )
        assert result.parameters.tobytes() == same.parameters.tobytes()
        assert math.isfinite(result.loss)
        assert same.finished, "the plan wanted no more steps"
    else:
        np.testing.assert_array_equal(result.parameters, start)
        assert math.isnan(result.loss)


def test_a_stop_between_epochs_leaves_the_loss_of_the_last() -> None:
    model, start, data = model_and_data("mlp-relu")
    answers = iter([False] * 4 + [True])

    result = local_train(
        model, start, data, plan_of(epochs=2, batch_size=10), np.random.default_rng(0), lambda: next(answers)
    )

    whole = local_train(model, start, data, plan_of(epochs=1, batch_size=10), np.random.default_rng(0))
    assert result.loss == whole.loss


@pytest.mark.parametrize(("count", "batch", "steps"), [(1, 32, 1), (32, 32, 1), (33, 32, 2), (5, 1, 5), (64, 7, 10)])
def test_every_example_is_seen_once_an_epoch(count: int, batch: int, steps: int) -> None:
    model, start, data = model_and_data("linear", count)

    result = local_train(model, start, data, plan_of(batch_size=batch, learning_rate=1e-12), np.random.default_rng(0))

    assert (result.num_steps, result.num_examples) == (steps, count)
    assert result.loss == pytest.approx(model.evaluate(start, data).summary()["loss"], rel=1e-5)


def test_nothing_to_train_on_is_an_error() -> None:
    model, start, data = model_and_data("softmax")
    with pytest.raises(DataError, match="no examples"):
        local_train(model, start, data.subset(slice(0, 0)), plan_of(), np.random.default_rng(0))


def test_a_large_proximal_term_holds_the_parameters_near_the_start() -> None:
    def distance(proximal: float) -> float:
        _, start, _ = model_and_data("mlp-relu")
        found = trained("mlp-relu", plan_of(epochs=20, batch_size=8, learning_rate=0.05, proximal=proximal))
        return float(np.linalg.norm(found.parameters - start))

    assert distance(10.0) < 0.3 * distance(0.0)


def test_a_clipped_step_is_no_longer_than_allowed() -> None:
    model, start, data = model_and_data("linear")
    plan = plan_of(max_steps=1, learning_rate=1.0, clip_norm=0.25)

    result = local_train(model, start * np.float32(100), data, plan, np.random.default_rng(0))

    assert np.linalg.norm(result.parameters - start * np.float32(100)) == pytest.approx(0.25, rel=1e-3)


def test_clipping_survives_a_gradient_whose_square_overflows() -> None:
    model = build({"kind": "linear", "inputs": 1, "outputs": 1})
    data = Dataset.for_model(model, [[1e15]], [1e15])
    start = np.zeros(2, np.float32)

    result = local_train(model, start, data, plan_of(learning_rate=1.0, clip_norm=1.0), np.random.default_rng(0))

    np.testing.assert_allclose(result.parameters, [1.0, 0.0], atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_divergence_is_in_the_result_and_raises_nothing() -> None:
    model, start, data = model_and_data("mlp-mse")

    result = local_train(model, start, data, plan_of(epochs=50, learning_rate=1000.0), np.random.default_rng(0))

    assert not np.isfinite(result.parameters).all() or np.abs(result.parameters).max() > 100
    assert not math.isfinite(model.evaluate(np.full_like(start, np.nan), data).summary()["loss"])


def test_threads_train_as_if_they_were_alone() -> None:
    """Different models at once, and one model object in several threads: no buffer is shared."""
    names = ["mlp-relu", "mlp-relu", "mlp-tanh", "softmax", "mlp-huber", "linear"]
    jobs = [(*model_and_data(name, 200), seed) for seed, name in enumerate(names)]
    shared = jobs[0][0]
    jobs[1] = (shared, *jobs[1][1:])
    plan = plan_of(epochs=20, batch_size=16, momentum=0.5, learning_rate=0.05)
    alone = [local_train(m, w, d, plan, np.random.default_rng(seed)).parameters for m, w, d, seed in jobs]
    found: dict[int, NDArray[np.float32]] = {}
    together = threading.Barrier(len(jobs))

    def work(number: int) -> None:
        model, start, data, seed = jobs[number]
        together.wait(PATIENCE_S)
        found[number] = local_train(model, start, data, plan, np.random.default_rng(seed)).parameters

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    for number, parameters in enumerate(alone):
        assert parameters.tobytes() == found[number].tobytes()


def test_no_global_state_of_numpy_is_touched() -> None:
    before: Any = np.random.get_state()  # noqa: NPY002 - the point is that nobody uses it
    handling = np.geterr()

    trained("mlp-relu", plan_of(epochs=2))

    after: Any = np.random.get_state()  # noqa: NPY002 - see above
    np.testing.assert_array_equal(before[1], after[1])
    assert np.geterr() == handling


@pytest.mark.parametrize("size", [1e-3, 1e-8, 1e-12])
def test_adam_adds_epsilon_where_the_paper_does(size: float) -> None:
    """Seen only where gradients are as small as epsilon itself."""
    parameters = np.zeros(1, np.float32)
    optimizer = Adam(parameters, 0.5)

    optimizer.step(np.full(1, size, np.float32))

    # After one step both corrected moments are the gradient's own.
    assert parameters[0] == pytest.approx(-0.5 * size / (size + 1e-8), rel=1e-3)
