"""What runs from a file is what NumPy computes, in the runtime that is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from models import Dataset, Model, TrainingPlan, build, local_train
from models.parameters import FloatArray
from models.predicting import Origin
from models.tflite import reference
from models.tflite.calibration import Statistics, ranges_of, scheme_of
from models.tflite.file import TfliteModel
from models.tflite.lowering import lower
from models.tflite.predicting import BLOCK_ROWS, TflitePredictor
from models.tflite.runtime import Runtime, load_runtime
from models.tflite.schema import SERVING
from tests.models.examples import SPECS, model_and_data

ORIGIN = Origin(federation="mill", epoch="00e1", version=7)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return load_runtime()


@pytest.mark.parametrize("name", SPECS)
def test_float32_is_what_numpy_predicts(name: str, runtime: Runtime) -> None:
    model, parameters, data = model_and_data(name, BLOCK_ROWS + 3)
    file = TfliteModel.export(model, parameters, ORIGIN)
    expected = model.predict(parameters, data.x)
    np.testing.assert_allclose(TflitePredictor(runtime, file).predict(data.x), expected, atol=1e-5)
    np.testing.assert_allclose(reference.output(lower(model, parameters), data.x), expected, atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_int8_is_near(name: str, runtime: Runtime) -> None:
    model, parameters, data = model_and_data(name, 200)
    graph = lower(model, parameters)
    file = TfliteModel.export(model, parameters, ORIGIN, scheme_of(graph, ranges_of(graph, data.x)))
    expected = model.predict(parameters, data.x)
    found = TflitePredictor(runtime, file).predict(data.x)
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)


def test_sizes_of_batches_may_change(runtime: Runtime) -> None:
    model, parameters, data = model_and_data("mlp-relu")
    predictor = TflitePredictor(runtime, TfliteModel.export(model, parameters))
    for rows in (1, 7, 1, 0, 40):
        expected = model.predict(parameters, data.x[:rows])
        np.testing.assert_allclose(predictor.predict(data.x[:rows]), expected, atol=1e-5)


def test_the_signature_is_for_other_programs(runtime: Runtime) -> None:
    model, parameters, data = model_and_data("linear")
    interpreter = runtime.interpreter(TfliteModel.export(model, parameters).data)
    assert interpreter.get_signature_list() == {SERVING: {"inputs": ["x"], "outputs": ["values"]}}
    run = interpreter.get_signature_runner(SERVING)
    np.testing.assert_allclose(run(x=data.x)["values"], model.predict(parameters, data.x), atol=1e-5)


# -- int8 on digits ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[FloatArray, Any]:
    found = load_digits()
    return (found.data / 16).astype(np.float32), found.target


def trained(spec: dict[str, Any], x: FloatArray, y: Any) -> tuple[Model, FloatArray]:
    model = build(spec)
    start = model.init(np.random.default_rng(0))
    plan = TrainingPlan.from_data({"epochs": 20, "learning_rate": 0.1})
    data = Dataset.for_model(model, x, y)
    return model, local_train(model, start, data, plan, np.random.default_rng(0)).parameters


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_int8_names_the_same_digits(activation: str, digits: tuple[FloatArray, Any], runtime: Runtime) -> None:
    x, y = digits
    spec = {"kind": "mlp", "inputs": 64, "hidden": [64, 32], "outputs": 10, "activation": activation}
    model, parameters = trained(spec, x[:1200], y[:1200])
    graph = lower(model, parameters)
    file = TfliteModel.export(model, parameters, ORIGIN, scheme_of(graph, ranges_of(graph, x[:300])))
    found, expected = TflitePredictor(runtime, file).predict(x), model.predict(parameters, x)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99
    assert len(file.data) < 0.5 * parameters.nbytes


def test_statistics_will_do_where_there_are_no_examples(digits: tuple[FloatArray, Any], runtime: Runtime) -> None:
    x, y = digits
    model, parameters = trained({"kind": "softmax", "inputs": 64, "outputs": 10}, x[:1200], y[:1200])
    known = Statistics(x.mean(axis=0), x.std(axis=0), x.min(axis=0), x.max(axis=0))
    graph = lower(model, parameters)
    ranges = ranges_of(graph, known.examples(500, np.random.default_rng(0)))
    file = TfliteModel.export(model, parameters, ORIGIN, scheme_of(graph, ranges))
    found, expected = TflitePredictor(runtime, file).predict(x), model.predict(parameters, x)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.98


def test_every_output_channel_has_its_own_scale(runtime: Runtime) -> None:
    model = build({"kind": "linear", "inputs": 8, "outputs": 4})
    rng = np.random.default_rng(0)
    parameters = rng.standard_normal(model.layout.size, dtype=np.float32)
    views = model.layout.views(parameters)
    views["dense0.weight"] *= np.array([0.001, 0.1, 1.0, 0.01], np.float32)
    views["dense0.bias"][...] = np.array([3.0, 0.0, 0.0, 0.0], np.float32)
    x = rng.standard_normal((64, 8), dtype=np.float32)
    graph = lower(model, parameters)
    scheme = scheme_of(graph, ranges_of(graph, x))
    found = TflitePredictor(runtime, TfliteModel.export(model, parameters, ORIGIN, scheme)).predict(x)
    error = np.abs(found - model.predict(parameters, x)).max(axis=0) / scheme[graph.tensors[graph.output].name][0]
    assert (error < [0.6, 0.6, 2.0, 0.6]).all()  # in steps of the output
