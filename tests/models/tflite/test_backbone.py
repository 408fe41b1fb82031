"""A frozen network of others: pinned to the bit, run as it is, whatever types it speaks."""

from __future__ import annotations

import flatbuffers
import numpy as np
import pytest

from models import DataError, SpecError, StepLeftError, TfliteError, build
from models.predicting import Origin
from models.tflite.backbone import Backbone, BackboneSpec
from models.tflite.calibration import ranges_of, scheme_of
from models.tflite.file import TfliteModel
from models.tflite.graph import Drawing
from models.tflite.lowering import lower
from models.tflite.quantizing import quantize
from models.tflite.runtime import Runtime, load_runtime
from models.tflite.schema import FILE_IDENTIFIER, SCHEMA_VERSION, Operator
from models.tflite.truncating import truncated
from models.tflite.writing import write
from tests.models.tflite.networks import network_and_data


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return load_runtime()


def test_embeddings_are_the_files_answers(runtime: Runtime) -> None:
    model, parameters, x = network_and_data("images", 20)
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
    # What comes out for a sample may have any shape.
    fixed = drawing.finish(drawing.apply("y", Operator.TANH, drawing.reshape("rows", drawing.input, (3,))), "y")
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    data = write(graph, "", {})
    found = Backbone(runtime, data, BackboneSpec.of(data)).embed(x)
    np.testing.assert_allclose(found, x.reshape(4, 2, 3).mean(axis=1))
    data = write(fixed, "", {})
    np.testing.assert_allclose(Backbone(runtime, data, BackboneSpec.of(data)).embed(x), np.tanh(x), atol=1e-5)


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


def test_an_embedding_depends_on_its_sample_alone(runtime: Runtime) -> None:
    model, parameters, x = network_and_data("images", 20)
    data = TfliteModel.export(model, parameters).data
    backbone = Backbone(runtime, data, BackboneSpec.of(data))
    together = backbone.embed(x)
    for row in range(len(x)):
        assert np.array_equal(backbone.embed(x[row : row + 1])[0], together[row])


def test_it_is_left_between_two_samples(runtime: Runtime) -> None:
    model, parameters, x = network_and_data("images", 20)
    data = TfliteModel.export(model, parameters).data
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(True)
        return len(asked) > 3

    with pytest.raises(StepLeftError):
        Backbone(runtime, data, BackboneSpec.of(data)).embed(x, stopped)
    assert len(asked) == 4


def test_a_network_without_its_last_layer_is_a_backbone(runtime: Runtime) -> None:
    model = build({"kind": "mlp", "inputs": 6, "hidden": [5, 4], "outputs": 3, "task": "classification"})
    rng = np.random.default_rng(0)
    parameters, x = model.init(rng), rng.standard_normal((7, 6), dtype=np.float32)
    data = truncated(model, parameters)
    spec = BackboneSpec.of(data)
    assert (spec.inputs, spec.outputs) == (6, 4)
    embeddings = Backbone(runtime, data, spec).embed(x)
    views = model.layout.views(parameters)
    weight, bias = list(views.values())[-2:]
    scores = embeddings @ weight + bias
    found = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, model.predict(parameters, x), atol=1e-5)
    with pytest.raises(TfliteError, match="nothing is left"):
        truncated(model, parameters, without=len(model.layers))


def with_custom_operator(name: bytes) -> bytes:
    """A file of ours whose operator is called by a name."""
    out = flatbuffers.Builder(1024)
    text = out.CreateString(name)
    out.StartObject(4)
    out.PrependInt8Slot(0, 32, 0)
    out.PrependUOffsetTRelativeSlot(1, text, 0)
    out.PrependInt32Slot(3, 32, 0)
    code = out.EndObject()
    out.StartVector(4, 1, 4)
    out.PrependUOffsetTRelative(code)
    codes = out.EndVector()
    shape = out.CreateNumpyVector(np.array([1, 2], np.int32))
    out.StartObject(8)
    out.PrependUOffsetTRelativeSlot(0, shape, 0)
    out.PrependUOffsetTRelativeSlot(3, text, 0)
    tensor = out.EndObject()
    out.StartVector(4, 1, 4)
    out.PrependUOffsetTRelative(tensor)
    tensors = out.EndVector()
    places = out.CreateNumpyVector(np.array([0], np.int32))
    out.StartObject(5)
    for slot, offset in ((0, tensors), (1, places), (2, places), (4, text)):
        out.PrependUOffsetTRelativeSlot(slot, offset, 0)
    graph = out.EndObject()
    out.StartVector(4, 1, 4)
    out.PrependUOffsetTRelative(graph)
    graphs = out.EndVector()
    out.StartObject(0)
    buffer = out.EndObject()
    out.StartVector(4, 1, 4)
    out.PrependUOffsetTRelative(buffer)
    buffers = out.EndVector()
    out.StartObject(8)
    out.PrependUint32Slot(0, SCHEMA_VERSION, 0)
    for slot, offset in ((1, codes), (2, graphs), (4, buffers)):
        out.PrependUOffsetTRelativeSlot(slot, offset, 0)
    out.Finish(out.EndObject(), file_identifier=FILE_IDENTIFIER)
    return bytes(out.Output())


@pytest.mark.parametrize(
    ("name", "said"),
    [(b"FlexErf", r"TensorFlow's operators \(FlexErf\).*SELECT_TF_OPS"), (b"Mine", "custom ones, Mine")],
)
def test_operators_that_devices_lack_are_refused_by_name(name: bytes, said: str) -> None:
    with pytest.raises(TfliteError, match=said):
        BackboneSpec.of(with_custom_operator(name))


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
