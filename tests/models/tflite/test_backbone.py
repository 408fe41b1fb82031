"""A frozen network of others: pinned to the bit, run as it is, whatever types it speaks."""

from __future__ import annotations

import numpy as np
import pytest

from models import DataError, SpecError, TfliteError
from models.predicting import Origin
from models.tflite.backbone import BLOCK_ROWS, Backbone, BackboneSpec
from models.tflite.calibration import ranges_of, scheme_of
from models.tflite.file import TfliteModel
from models.tflite.graph import Drawing
from models.tflite.lowering import lower
from models.tflite.quantizing import quantize
from models.tflite.runtime import Runtime, load_runtime
from models.tflite.schema import Operator
from models.tflite.writing import write
from tests.models.tflite.networks import network_and_data


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return load_runtime()


def test_embeddings_are_the_files_answers(runtime: Runtime) -> None:
    model, parameters, x = network_and_data("images", BLOCK_ROWS + 5)
    data = TfliteModel.export(model, parameters).data
    spec = BackboneSpec.of(data)
    assert (spec.inputs, spec.outputs) == (13 * 11 * 3, 4)
    assert BackboneSpec.from_data(spec.to_data()) == spec
    backbone = Backbone(runtime, data, spec)
    for rows in (len(x), 0, 1, 3):
        np.testing.assert_allclose(backbone.embed(x[:rows]), model.predict(parameters, x[:rows]), atol=1e-5)
    with pytest.raises(DataError):
        backbone.embed(x[:, 1:])


def test_an_int8_file_speaks_float32_here(runtime: Runtime) -> None:
    model, parameters, x = network_and_data("residual-tanh")
    graph = lower(model, parameters)
    data = TfliteModel.export(model, parameters, Origin(), scheme_of(graph, ranges_of(graph, x))).data
    found = Backbone(runtime, data, BackboneSpec.of(data)).embed(x)
    assert np.abs(found - model.predict(parameters, x)).max() < 0.05


def test_a_file_for_one_sample_at_a_time(runtime: Runtime) -> None:
    drawing = Drawing(6)
    image = drawing.reshape("image", drawing.input, (1, 2, 3))
    graph = drawing.finish(drawing.mean("mean", image, (1, 2)), "y")
    # A tensor of several rows is written without the mark that any number will do.
    fixed = drawing.finish(drawing.apply("y", Operator.TANH, drawing.reshape("rows", drawing.input, (3,))), "y")
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    data = write(graph, "", {})
    found = Backbone(runtime, data, BackboneSpec.of(data)).embed(x)
    np.testing.assert_allclose(found, x.reshape(4, 2, 3).mean(axis=1))
    assert BackboneSpec.of(write(fixed, "", {})).outputs == 3


def test_another_file_is_refused(runtime: Runtime) -> None:
    model, parameters, _ = network_and_data("residual-tanh")
    data = TfliteModel.export(model, parameters).data
    spec = BackboneSpec.of(data)
    other = TfliteModel.export(model, model.init(np.random.default_rng(4))).data
    with pytest.raises(TfliteError, match="SHA-256"):
        Backbone(runtime, other, spec)
    wrong = BackboneSpec(digest=spec.digest, inputs=spec.inputs, outputs=spec.outputs + 1)
    with pytest.raises(TfliteError, match="turns 6 values into 3"):
        Backbone(runtime, data, wrong)
    with pytest.raises(TfliteError, match="TFL3"):
        BackboneSpec.of(bytes(100))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digest": "A" * 64}, "lower case"),
        ({"digest": "00"}, "64 hexadecimal"),
        ({"inputs": 0}, "inputs"),
        ({"outputs": True}, "outputs"),
        ({"more": 1}, "unknown key"),
    ],
)
def test_specs_are_checked(change: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        BackboneSpec.from_data({"digest": "0" * 64, "inputs": 4, "outputs": 2, **change})


def test_a_graph_without_layers_can_be_quantized(runtime: Runtime) -> None:
    drawing = Drawing(6)
    graph = drawing.finish(drawing.apply("y", Operator.LOGISTIC, drawing.input), "y")
    x = np.random.default_rng(0).standard_normal((50, 6), dtype=np.float32)
    data = write(quantize(graph, scheme_of(graph, ranges_of(graph, x))), "", {})
    found = Backbone(runtime, data, BackboneSpec.of(data)).embed(x)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-x)), atol=0.01)
