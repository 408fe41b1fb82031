"""A training that is interrupted, however often, has the bits of one that was not."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import (
    Checkpoint,
    CheckpointError,
    Dataset,
    Model,
    Training,
    TrainingPlan,
    TrainingResult,
    build,
    local_train,
)
from models.plan import weight_of_part
from tests.models.examples import SPECS, model_and_data
from tests.models.networks import conv, dense, examples, gru, norm

PLANS: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.1},
    "momentum": {"learning_rate": 0.05, "momentum": 0.9},
    "adam": {"optimizer": "adam", "learning_rate": 0.01},
    "fedprox": {"learning_rate": 0.1, "proximal": 0.5},
    "adam-fedprox": {"optimizer": "adam", "learning_rate": 0.01, "proximal": 0.3},
    "clipped": {"learning_rate": 0.2, "clip_norm": 0.3, "momentum": 0.5},
    "max-steps": {"learning_rate": 0.1, "momentum": 0.9, "max_steps": 7},
    "max-steps-at-an-epoch's-end": {"learning_rate": 0.1, "max_steps": 6},
    "one-batch": {"learning_rate": 0.1, "batch_size": 64},
}
SEED = 5
NETWORKS: dict[str, tuple[list[int], list[dict[str, Any]]]] = {
    "network-dropout": (
        [6],
        [
            dense(8, activation="relu"),
            {"kind": "dropout", "rate": 0.3},
            dense(5),
            {"kind": "dropout", "rate": 0.1},
            dense(3),
        ],
    ),
    "network-convolution": ([6, 5, 2], [conv(3, 3, activation="relu"), norm(3), {"kind": "flatten"}, dense(3)]),
    "network-recurrent": ([7, 3], [gru(4), {"kind": "dropout", "rate": 0.2}, dense(3)]),
}


def plan_of(name: str, **more: Any) -> TrainingPlan:
    return TrainingPlan.from_data({"epochs": 3, "batch_size": 16} | PLANS[name] | more)


def stored(checkpoint: Checkpoint) -> Checkpoint:
    """As it comes back from a file: through text and bytes."""
    data = json.loads(json.dumps(checkpoint.to_data()))
    arrays = {name: np.frombuffer(array.tobytes(), np.float32) for name, array in checkpoint.arrays.items()}
    return Checkpoint.from_data(data, arrays)


class Bench:
    """The same training, again and again."""

    def __init__(self, model_name: str, plan: TrainingPlan) -> None:
        if model_name in NETWORKS:
            shape, layers = NETWORKS[model_name]
            self.model = build({"kind": "network", "input_shape": shape, "layers": layers})
            self.start = self.model.init(np.random.default_rng(1))
            self.data = examples(self.model, 40)
        else:
            self.model, self.start, self.data = model_and_data(model_name)
        self.plan = plan

    def begin(self, seed: int = SEED) -> tuple[Training, np.random.Generator]:
        rng = np.random.default_rng(seed)
        return Training(self.model, self.start, self.data, self.plan, rng), rng

    def undisturbed(self) -> tuple[TrainingResult, dict[str, Any]]:
        rng = np.random.default_rng(SEED)
        return local_train(self.model, self.start, self.data, self.plan, rng), dict(rng.bit_generator.state)

    def interrupted(self, lengths: list[int]) -> tuple[TrainingResult, dict[str, Any], int]:
        """Train in stretches of so many steps, each in a new object that knows only what was stored."""
        kept: Checkpoint | None = None
        for count, length in enumerate([*lengths, -1]):
            # What the generator was at is of no matter: the checkpoint says it.
            training, rng = self.begin(SEED if kept is None else 1000 + count)
            if kept is not None:
                training.resume(kept)
            if training.run(steps(length)):
                return training.result(finished=True), dict(rng.bit_generator.state), count
            kept = stored(training.checkpoint())
        raise AssertionError("the last stretch has no end")


def steps(most: int) -> Any:
    """A ``should_stop`` that lets so many steps pass."""
    left = iter(range(most)) if most >= 0 else iter(int, 1)
    return lambda: next(left, None) is None


def assert_same(found: TrainingResult, wanted: TrainingResult) -> None:
    assert found.parameters.tobytes() == wanted.parameters.tobytes()
    assert (found.num_steps, found.num_examples, found.finished) == (
        wanted.num_steps,
        wanted.num_examples,
        wanted.finished,
    )
    assert found.loss == wanted.loss or (math.isnan(found.loss) and math.isnan(wanted.loss))


@pytest.mark.parametrize("plan_name", PLANS)
@pytest.mark.parametrize("model_name", [*SPECS, *NETWORKS])
def test_an_interruption_at_any_boundary_changes_no_bit(model_name: str, plan_name: str) -> None:
    bench = Bench(model_name, plan_of(plan_name))
    wanted, state = bench.undisturbed()

    for boundary in range(wanted.num_steps + 1):
        found, state_after, _ = bench.interrupted([boundary])
        assert_same(found, wanted)
        assert state_after == state, "what is drawn after the training (stochastic rounding) is the same, too"


@pytest.mark.parametrize("plan_name", PLANS)
def test_an_interruption_after_every_step_changes_no_bit(plan_name: str) -> None:
    bench = Bench("mlp-relu", plan_of(plan_name))
    wanted, state = bench.undisturbed()

    found, state_after, interruptions = bench.interrupted([1] * (wanted.num_steps + 1))

    assert_same(found, wanted)
    assert state_after == state
    assert interruptions == wanted.num_steps - 1, "after the last step there is nothing to interrupt"


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), max_size=12),
    plan_name=st.sampled_from(sorted(PLANS)),
    batch=st.sampled_from([1, 7, 16, 40, 41]),
)
def test_any_number_of_interruptions_changes_no_bit(lengths: list[int], plan_name: str, batch: int) -> None:
    bench = Bench("mlp-tanh", plan_of(plan_name, batch_size=batch))
    wanted, state = bench.undisturbed()

    found, state_after, _ = bench.interrupted(lengths)

    assert_same(found, wanted)
    assert state_after == state


@pytest.mark.parametrize("plan_name", ["adam-fedprox", "max-steps"])
@pytest.mark.parametrize("model_name", ["mlp-relu", "network-dropout", "network-convolution"])
def test_a_step_that_is_left_between_any_two_layers_changes_no_bit(plan_name: str, model_name: str) -> None:
    bench = Bench(model_name, plan_of(plan_name))
    wanted, state = bench.undisturbed()
    asked = 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return False

    bench.begin()[0].run(steps(-1), count)
    assert asked > 2 * wanted.num_steps
    for moment in range(0, asked, 1 + asked // 25):
        training, rng = bench.begin()
        assert not training.run(steps(-1), steps(moment))
        again, rng_again = bench.begin(99)
        again.resume(stored(training.checkpoint()))
        for one, chance in ((training, rng), (again, rng_again)):  # here, and in another process
            assert one.run()
            assert_same(one.result(finished=True), wanted)
            assert chance.bit_generator.state == state


def test_a_training_goes_on_in_the_same_object_too() -> None:
    bench = Bench("mlp-relu", plan_of("adam"))
    wanted, _ = bench.undisturbed()
    training, _ = bench.begin()

    while not training.run(steps(1)):
        training.checkpoint()

    assert_same(training.result(finished=True), wanted)


def test_a_diverged_training_can_be_kept() -> None:
    bench = Bench("mlp-mse", plan_of("sgd", learning_rate=1000.0, epochs=20))
    wanted, _ = bench.undisturbed()
    assert not np.isfinite(wanted.parameters).all()

    found, _, _ = bench.interrupted([50])

    assert np.isnan(found.parameters).sum() == np.isnan(wanted.parameters).sum()
    assert math.isnan(found.loss) == math.isnan(wanted.loss)


def test_a_checkpoint_is_a_copy() -> None:
    training, _ = Bench("mlp-relu", plan_of("adam")).begin()
    training.run(steps(3))
    kept = training.checkpoint()
    before = {name: array.tobytes() for name, array in kept.arrays.items()}
    data = kept.to_data()

    training.run(steps(3))

    assert {name: array.tobytes() for name, array in kept.arrays.items()} == before
    assert kept.to_data() == data
    assert kept.nbytes == sum(map(len, before.values()))


def made(plan_name: str = "momentum", model_name: str = "mlp-relu") -> tuple[Checkpoint, Bench]:
    bench = Bench(model_name, plan_of(plan_name))
    training, _ = bench.begin()
    training.run(steps(4))
    return training.checkpoint(), bench


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Bench("mlp-tanh", plan_of("momentum")), "shape"),
        (Bench("mlp-relu", plan_of("adam")), "vectors"),
        (Bench("mlp-relu", plan_of("sgd")), "vectors"),
        (Bench("mlp-relu", plan_of("momentum", epochs=1)), "further than the plan"),
        (Bench("mlp-relu", plan_of("momentum", max_steps=3)), "further than the plan"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(other: Bench, reason: str) -> None:
    kept, _ = made()
    training, _ = other.begin()
    with pytest.raises(CheckpointError, match=reason):
        training.resume(kept)


def test_a_training_that_has_begun_takes_no_checkpoint() -> None:
    kept, bench = made()
    training, _ = bench.begin()
    training.run(steps(1))
    with pytest.raises(CheckpointError, match="begun"):
        training.resume(kept)


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": -1},
        {"epoch": True},
        {"position": 2.5},
        {"num_steps": None},
        {"seen": "3"},
        {"loss_sum": "much"},
        {"loss_sum": 1.0},
        {"generator": {}},
        {"generator": 7},
        {"shuffle": {"state": "xyz", "inc": "1", "has_uint32": 0, "uinteger": 0}},
        {"shuffle": {"state": "f" * 33, "inc": "1", "has_uint32": 0, "uinteger": 0}},
        {"shuffle": {"state": "1", "inc": "1", "has_uint32": 2, "uinteger": 0}},
        {"surprise": 1},
    ],
)
def test_data_that_are_no_checkpoint_are_refused(changes: dict[str, Any]) -> None:
    kept, _ = made()
    with pytest.raises(CheckpointError):
        Checkpoint.from_data(kept.to_data() | changes, kept.arrays)


def test_a_checkpoint_without_parameters_or_from_another_generator_is_refused() -> None:
    kept, bench = made()
    with pytest.raises(CheckpointError, match="parameters"):
        Checkpoint.from_data(kept.to_data(), kept.optimizer)
    other = Training(bench.model, bench.start, bench.data, bench.plan, np.random.Generator(np.random.MT19937(1)))
    with pytest.raises(CheckpointError, match="MT19937"):
        other.checkpoint().to_data()


@pytest.mark.parametrize(
    ("plan", "examples", "wanted"),
    [
        ({"epochs": 3, "batch_size": 16}, 40, 9),
        ({"epochs": 3, "batch_size": 16}, 48, 9),
        ({"epochs": 3, "batch_size": 64}, 1, 3),
        ({"epochs": 3, "batch_size": 16, "max_steps": 5}, 40, 5),
        ({"epochs": 3, "batch_size": 16, "max_steps": 50}, 40, 9),
    ],
)
def test_the_plan_knows_how_many_steps_it_takes(plan: dict[str, Any], examples: int, wanted: int) -> None:
    found = TrainingPlan.from_data(plan)
    assert found.steps(examples) == wanted
    model, start, data = _linear(examples)
    assert local_train(model, start, data, found, np.random.default_rng(0)).num_steps == wanted


def _linear(count: int) -> tuple[Model, Any, Dataset]:
    model, start, data = model_and_data("linear", 64)
    return model, start, data.subset(slice(0, count))


@pytest.mark.parametrize(
    ("choice", "total_s", "stretch_s", "wanted"),
    [
        ("send", 9.0, 9.0, None),
        ("send", 10.0, 1.0, "send"),
        ("resume", 100.0, 9.0, None),
        ("resume", 100.0, 10.0, "resume"),
    ],
)
def test_sending_counts_all_stretches_and_resuming_the_last(
    choice: str, total_s: float, stretch_s: float, wanted: str | None
) -> None:
    plan = TrainingPlan.from_data({"deadline_s": 10.0, "on_deadline": choice})
    assert plan.due(total_s, stretch_s) == wanted
    assert TrainingPlan.from_data({"on_deadline": choice}).due(1e9, 1e9) is None


@pytest.mark.parametrize(
    ("done", "planned", "wanted"), [(10, 10, 100), (11, 10, 100), (5, 10, 50), (1, 3, 33), (1, 1000, 1), (0, 10, 1)]
)
def test_a_part_weighs_in_proportion_and_at_least_one_example(done: int, planned: int, wanted: int) -> None:
    assert weight_of_part(100, done, planned) == wanted
