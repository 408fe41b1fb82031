"""A user's file that trains itself: against our own training, through pauses, and refused where it cannot be."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from models import Dataset, PlanError, SpecError, TfliteError, Training, TrainingPlan, build, local_train
from models.personal import Personal
from models.tflite.adapters.training_trial import check
from models.tflite.contract import TrainableSpec, contract_of
from models.tflite.runtime import Runtime, load_runtime
from models.tflite.trainable import FilePredictor, TrainableModel
from tests.support.trainable import linear_file, softmax_file

INPUTS, CLASSES = 6, 4


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return load_runtime()


def model_of(runtime: Runtime, data: bytes, **said: Any) -> TrainableModel:
    return TrainableModel(data, TrainableSpec.of(data, {"kind": "tflite", **said}), runtime)


def examples(count: int = 83, seed: int = 1) -> Dataset:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, INPUTS), dtype=np.float32)
    model = build({"kind": "softmax", "inputs": INPUTS, "outputs": CLASSES})
    return Dataset.for_model(model, x, (x[:, :CLASSES] + 0.1 * x[:, 1:2]).argmax(axis=1))


def as_ours(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The file's ``bias`` comes before its ``weight``, ours behind."""
    return np.concatenate([vector[CLASSES:], vector[:CLASSES]])


@pytest.mark.parametrize("labels", [True, False])
def test_it_learns_what_our_own_softmax_learns(runtime: Runtime, labels: bool) -> None:
    model = model_of(runtime, softmax_file(INPUTS, CLASSES, rate=0.5, labels=labels))
    ours = build({"kind": "softmax", "inputs": INPUTS, "outputs": CLASSES})
    assert model.layout.entries == (("bias", (CLASSES,)), ("weight", (INPUTS, CLASSES)))
    assert (model.inputs, model.outputs, model.task) == (INPUTS, CLASSES, "classification")
    start, data = model.init(np.random.default_rng(0)), examples()
    by_file = local_train(model, start, data, TrainingPlan(epochs=30, batch_size=10), np.random.default_rng(7))
    plan = TrainingPlan(epochs=30, batch_size=10, learning_rate=0.5)
    by_us = local_train(ours, as_ours(start), data, plan, np.random.default_rng(7))
    assert by_file.num_steps == by_us.num_steps == 30 * 9
    np.testing.assert_allclose(as_ours(by_file.parameters), by_us.parameters, atol=1e-5)
    assert by_file.loss == pytest.approx(by_us.loss, abs=1e-5)
    found, wanted = model.evaluate(by_file.parameters, data), ours.evaluate(by_us.parameters, data)
    assert found.summary() == pytest.approx(wanted.summary(), abs=1e-5)
    probabilities = model.predict(by_file.parameters, data.x)
    np.testing.assert_allclose(probabilities, ours.predict(by_us.parameters, data.x), atol=1e-5)
    assert found.summary()["accuracy"] > model.evaluate(start, data).summary()["accuracy"] + 0.3


@pytest.mark.parametrize("task", ["regression", "reconstruction"])
def test_values_and_reconstructions_are_learned_and_measured_as_ours_are(runtime: Runtime, task: str) -> None:
    outputs = INPUTS if task == "reconstruction" else 2
    data = linear_file(INPUTS, outputs, rows=8, rate=0.1, reconstructs=task == "reconstruction")
    model = model_of(runtime, data, task=task)
    check(model)
    ours = build({"kind": "linear", "inputs": INPUTS, "outputs": outputs})
    x = np.random.default_rng(1).standard_normal((40, INPUTS), dtype=np.float32)
    y = x[:, :outputs] * 0.5 if task == "regression" else x
    plan = TrainingPlan(epochs=5, batch_size=8)
    start = model.init(np.random.default_rng(0))
    by_file = local_train(model, start, Dataset.for_model(model, x, y), plan, np.random.default_rng(7))
    values = Dataset.for_model(ours, x, y)
    by_us = local_train(ours, np.zeros_like(start), values, plan, np.random.default_rng(7))
    reordered = np.concatenate([by_file.parameters[outputs:], by_file.parameters[:outputs]])
    np.testing.assert_allclose(reordered, by_us.parameters, atol=1e-5)
    assert by_file.loss == pytest.approx(by_us.loss, abs=1e-5)
    found = model.evaluate(by_file.parameters, Dataset.for_model(model, x, y)).summary()
    assert found["loss"] == pytest.approx(ours.evaluate(by_us.parameters, values).summary()["loss"], abs=1e-5)
    if task == "reconstruction":
        errors = model.errors(by_file.parameters, x)
        assert errors.mean() == pytest.approx(found["loss"], abs=1e-5)


def test_scores_are_told_from_probabilities(runtime: Runtime) -> None:
    scores = softmax_file(INPUTS, CLASSES, logits=True)
    with pytest.raises(TfliteError, match=r"infer gives no probabilities .*: for scores set logits = true"):
        check(model_of(runtime, scores))
    model, other = model_of(runtime, scores, logits=True), model_of(runtime, softmax_file(INPUTS, CLASSES))
    check(model)
    start, data = model.init(np.random.default_rng(0)), examples()
    np.testing.assert_allclose(model.predict(start, data.x), other.predict(start, data.x), atol=1e-6)
    assert model.evaluate(start, data).summary() == pytest.approx(other.evaluate(start, data).summary(), abs=1e-5)
    np.testing.assert_allclose(FilePredictor(model, start).predict(data.x), model.predict(start, data.x), atol=1e-6)
    assert FilePredictor(model, start).by == f"{runtime.name} {runtime.version}"


def test_the_plan_s_learning_rate_where_train_takes_one(runtime: Runtime) -> None:
    given = model_of(runtime, softmax_file(INPUTS, CLASSES, rate=None))
    fixed = model_of(runtime, softmax_file(INPUTS, CLASSES, rate=0.25))
    assert set(given.followed(TrainingPlan())) - set(fixed.followed(TrainingPlan())) == {"learning_rate"}
    assert not set(given.followed(TrainingPlan(deadline_s=1.0))) & {"optimizer", "momentum", "proximal", "clip_norm"}
    start = given.init(np.random.default_rng(0))
    by_plan, by_file = (
        local_train(model, start, examples(), TrainingPlan(learning_rate=rate), np.random.default_rng(1)).parameters
        for model, rate in ((given, 0.25), (fixed, 0.1))
    )
    np.testing.assert_array_equal(by_plan, by_file)


def test_a_file_for_batches_of_one_size(runtime: Runtime) -> None:
    model = model_of(runtime, softmax_file(INPUTS, CLASSES, rows=8))
    free = model_of(runtime, softmax_file(INPUTS, CLASSES))
    start = model.init(np.random.default_rng(0))
    with pytest.raises(PlanError, match="takes batches of 8 only"):
        model.check_plan(TrainingPlan())
    data, plan = examples(21), TrainingPlan(batch_size=8)
    fixed = local_train(model, start, data, plan, np.random.default_rng(2))
    assert fixed.num_steps == 3
    # The last batch, of 5, is filled up with its first three.
    order = np.random.default_rng(2).permutation(21)
    rows = np.concatenate([order, order[16:19]])
    session = free.session()
    session.put(start)
    for first in range(0, 24, 8):
        batch = rows[first : first + 8]
        session.train(data.x[batch], data.y[batch], 0.0)
    np.testing.assert_allclose(fixed.parameters, session.get(), atol=1e-6)
    np.testing.assert_allclose(model.predict(start, data.x), free.predict(start, data.x), atol=1e-6)


def test_paused_anywhere_it_ends_with_the_same_bits(runtime: Runtime) -> None:
    model, data, plan = model_of(runtime, softmax_file(INPUTS, CLASSES)), examples(), TrainingPlan(epochs=3)
    start = model.init(np.random.default_rng(0))
    whole = local_train(model, start, data, plan, np.random.default_rng(3))
    for pause in range(1, whole.num_steps):
        first = Training(model, start, data, plan, np.random.default_rng(3))
        asked = iter([False] * pause + [True])
        assert not first.run(asked.__next__)
        then = Training(model, start, data, plan, np.random.default_rng(99))
        then.resume(first.checkpoint())
        assert then.run()
        result = then.result(finished=True)
        np.testing.assert_array_equal(result.parameters, whole.parameters)
        assert (result.loss, result.num_steps) == (whole.loss, whole.num_steps)


def test_what_set_does_not_reach_begins_anew_with_every_training(runtime: Runtime) -> None:
    model = model_of(runtime, softmax_file(INPUTS, CLASSES, counts=True))
    assert model.contract.begins_anew == ("count",)
    start, plan = model.init(np.random.default_rng(0)), TrainingPlan(epochs=2)
    once, twice = (local_train(model, start, examples(), plan, np.random.default_rng(4)).parameters for _ in range(2))
    np.testing.assert_array_equal(once, twice)


def test_trainings_and_measurings_do_not_disturb_each_other(runtime: Runtime) -> None:
    model, data = model_of(runtime, softmax_file(INPUTS, CLASSES)), examples()
    start = model.init(np.random.default_rng(0))
    alone = local_train(model, start, data, TrainingPlan(), np.random.default_rng(5)).parameters
    other = np.full_like(start, 3.0)

    def meanwhile() -> bool:
        model.evaluate(other, data)
        return False

    beside = local_train(model, start, data, TrainingPlan(), np.random.default_rng(5), meanwhile).parameters
    np.testing.assert_array_equal(alone, beside)
    np.testing.assert_array_equal(model.init(np.random.default_rng(0)), start)


def test_private_parameters_are_split_by_the_names_that_get_gives(runtime: Runtime) -> None:
    model = model_of(runtime, softmax_file(INPUTS, CLASSES))
    split = Personal(private=("bias",)).split(model)
    assert [name for name, _ in split.shared.entries] == ["weight"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("optimizer", "adam"), ("momentum", 0.5), ("proximal", 0.1), ("clip_norm", 1.0), ("learning_rate", 0.2)],
)
def test_what_the_file_decides_cannot_be_planned(runtime: Runtime, key: str, value: object) -> None:
    model = model_of(runtime, softmax_file(INPUTS, CLASSES))
    with pytest.raises(PlanError, match=f"the .tflite file decides on {key}, which"):
        Training(
            model,
            model.init(np.random.default_rng(0)),
            examples(),
            TrainingPlan.from_data({key: value}),
            np.random.default_rng(0),
        )
    with pytest.raises(PlanError, match=f"decides on {key}"):
        model.check_plan(TrainingPlan(), {"epochs", key})
    said = {"epochs": 2, "batch_size": 5, "max_steps": 3, "deadline_s": 1.0, "on_deadline": "send"}
    model.check_plan(TrainingPlan.from_data(said), said)


def test_operators_of_tensorflow_are_refused_by_name() -> None:
    data = softmax_file(INPUTS, CLASSES, needs="FlexReluGrad")
    with pytest.raises(TfliteError, match=r"operators of TensorFlow itself \(FlexReluGrad\).*TFLITE_BUILTINS only"):
        contract_of(data, TrainableSpec.of(data, {"kind": "tflite"}))
    data = softmax_file(INPUTS, CLASSES, needs="MyOwn")
    with pytest.raises(TfliteError, match=r"operators of somebody's own \(MyOwn\)"):
        contract_of(data, TrainableSpec.of(data, {"kind": "tflite"}))


def test_signatures_may_have_other_names(runtime: Runtime) -> None:
    keys = {"get": "parameters", "set": "restore"}
    data = softmax_file(INPUTS, CLASSES, keys=keys)
    with pytest.raises(
        TfliteError, match=r"no signature get, set \(it has 'infer', 'parameters', 'restore', 'train'\)"
    ):
        model_of(runtime, data)
    model = model_of(runtime, data, signatures=keys)
    assert TrainableSpec.from_data(model.spec).to_data() == model.spec
    assert model.spec["signatures"] == keys
    assert model_of(runtime, data, signatures=keys).init(np.random.default_rng(0)).size == (INPUTS + 1) * CLASSES


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"kind": "softmax"}, "kind"),
        ({"task": "poetry"}, "task"),
        ({"logits": 1}, "logits"),
        ({"task": "regression", "logits": True}, "unknown key 'logits'"),
        ({"signatures": {"get": "set"}}, "four different names"),
        ({"signatures": {"save": "x"}}, "unknown key 'save'"),
        ({"inputs": 4}, "unknown key 'inputs'"),
        ({"l2": 0.1}, "unknown key 'l2'"),
    ],
)
def test_what_is_said_of_a_file_is_checked(said: dict[str, Any], wrong: str) -> None:
    with pytest.raises(SpecError, match=wrong):
        TrainableSpec.of(softmax_file(INPUTS, CLASSES), {"kind": "tflite", **said})


def test_specs_from_the_network_are_checked() -> None:
    good = TrainableSpec.of(softmax_file(INPUTS, CLASSES), {"kind": "tflite"}).to_data()
    for change, wrong in (({"digest": "A" * 64}, "lower case"), ({"size": 0}, "size"), ({"path": "x"}, "unknown key")):
        with pytest.raises(SpecError, match=wrong):
            TrainableSpec.from_data({**good, **change})


def test_another_file_than_the_pinned_one_is_refused(runtime: Runtime) -> None:
    spec = TrainableSpec.of(softmax_file(INPUTS, CLASSES), {"kind": "tflite"})
    with pytest.raises(TfliteError, match="SHA-256"):
        TrainableModel(softmax_file(INPUTS, CLASSES, seed=1), spec, runtime)
    assert hashlib.sha256(softmax_file(INPUTS, CLASSES)).hexdigest() == spec.digest


def test_a_file_that_fails_says_so(runtime: Runtime) -> None:
    data = softmax_file(INPUTS, CLASSES)

    def refuses(**_given: object) -> object:
        raise ValueError("no memory for it\nat some address")

    model = model_of(Runtime("some-runtime", "1.2", refuses), data)
    with pytest.raises(TfliteError, match=r"file cannot be loaded in some-runtime 1\.2: no memory for it$"):
        model.init(np.random.default_rng(0))
    with pytest.raises(TfliteError, match="shows no gradient"):
        model_of(runtime, data).loss_and_gradient(np.zeros(28, np.float32), np.zeros((1, INPUTS)), np.zeros(1))
