"""Every kind of layer in a file: what NumPy predicts, in the runtime that is installed."""

from __future__ import annotations

import numpy as np
import pytest

from models import Model, TfliteError, build
from models.predicting import Origin
from models.tflite import reference
from models.tflite.calibration import Scheme, ranges_of, scheme_of
from models.tflite.file import TfliteModel
from models.tflite.graph import MAX_CONCATENATED
from models.tflite.lowering import lower
from models.tflite.predicting import TflitePredictor
from models.tflite.recurrence import MAX_UNROLLED_STEPS
from models.tflite.runtime import Runtime, load_runtime
from tests.models.tflite.networks import SPECS, network_and_data


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return load_runtime()


def scheme(model: Model, name: str) -> Scheme:
    _, parameters, x = network_and_data(name)
    graph = lower(model, parameters)
    return scheme_of(graph, ranges_of(graph, x))


@pytest.mark.parametrize("name", SPECS)
def test_float32_is_what_numpy_predicts(name: str, runtime: Runtime) -> None:
    model, parameters, x = network_and_data(name)
    expected = model.predict(parameters, x)
    graph = lower(model, parameters)
    np.testing.assert_allclose(reference.output(graph, x), expected, atol=1e-5)
    predictor = TflitePredictor(runtime, TfliteModel.export(model, parameters))
    np.testing.assert_allclose(predictor.predict(x), expected, atol=1e-5)
    np.testing.assert_allclose(predictor.predict(x[:1]), expected[:1], atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_int8_is_near(name: str, runtime: Runtime) -> None:
    model, parameters, x = network_and_data(name)
    expected = model.predict(parameters, x)
    file = TfliteModel.export(model, parameters, Origin(), scheme(model, name))
    found = TflitePredictor(runtime, file).predict(x)
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("int8", [False, True])
def test_new_weights_in_an_old_file(name: str, int8: bool) -> None:
    model, parameters, _ = network_and_data(name)
    how = scheme(model, name) if int8 else None
    file = TfliteModel.parse(TfliteModel.export(model, parameters, Origin(), how).data, model)
    others = model.init(np.random.default_rng(9))
    assert file.patch(others).data == TfliteModel.export(model, others, Origin(), how).data


def test_shapes_are_those_that_come_out() -> None:
    # A runtime for microcontrollers plans its memory by what the file says.
    for name in SPECS:
        model, parameters, x = network_and_data(name)
        graph = lower(model, parameters)
        for tensor, values in reference.carry_out(graph, x[:1]):
            assert graph.tensors[tensor].shape == values.shape, f"{name}: {graph.tensors[tensor].name}"
        assert max(len(node.inputs) for node in graph.nodes) <= MAX_CONCATENATED


def test_too_many_steps_are_refused() -> None:
    spec = {
        "input_shape": [MAX_UNROLLED_STEPS + 1, 1],
        "layers": [{"kind": "gru", "units": 1}, {"kind": "dense", "outputs": 2}],
    }
    model = build({"kind": "network", **spec})
    with pytest.raises(TfliteError, match="1025 steps"):
        lower(model, model.init(np.random.default_rng(0)))
