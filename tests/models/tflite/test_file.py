"""Files of ours: what they say of themselves, and new weights in old files."""

from __future__ import annotations

import json
from dataclasses import replace

import ai_edge_litert.schema_py_generated as public
import numpy as np
import pytest

from models import TfliteError, build
from models.predicting import Origin
from models.tflite import schema
from models.tflite.calibration import Scheme, ranges_of, scheme_of
from models.tflite.file import ORIGIN_KEY, TfliteModel
from models.tflite.lowering import lower
from models.tflite.schema import OPTIONS, TENSOR_TYPES, Operator
from tests.models.examples import SPECS, model_and_data

SHARED = {Operator.MAX_POOL_2D: "Pool2D", Operator.AVERAGE_POOL_2D: "Pool2D", Operator.MEAN: "Reducer"}
FIELDS = {
    "fused": "fusedActivationFunction",
    "filter_w": "filterWidth",
    "filter_h": "filterHeight",
    "dilation_w": "dilationWFactor",
    "dilation_h": "dilationHFactor",
}

FIRST = Origin(federation="mill", epoch="00e1", version=9)
SECOND = replace(FIRST, version=123456)


def scheme(name: str, *, int8: bool) -> Scheme | None:
    model, parameters, data = model_and_data(name)
    graph = lower(model, parameters)
    return scheme_of(graph, ranges_of(graph, data.x)) if int8 else None


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_a_patched_file_is_a_fresh_one(name: str, int8: bool) -> None:
    model, parameters, _ = model_and_data(name)
    how = scheme(name, int8=int8)
    others = model.init(np.random.default_rng(9))
    old = TfliteModel.export(model, parameters, FIRST, how)
    fresh = TfliteModel.export(model, others, SECOND, how)
    patched = old.patch(others, SECOND)
    assert patched.data == fresh.data != old.data
    assert patched.origin == SECOND
    assert patched.patch(parameters, FIRST).data == old.data


@pytest.mark.parametrize("int8", [False, True])
def test_a_file_read_back_takes_new_weights(int8: bool) -> None:
    model, parameters, _ = model_and_data("mlp-tanh")
    file = TfliteModel.export(model, parameters, FIRST, scheme("mlp-tanh", int8=int8))
    back = TfliteModel.parse(file.data, model)
    assert back.origin == FIRST
    others = model.init(np.random.default_rng(9))
    assert back.patch(others, SECOND).data == file.patch(others, SECOND).data


def test_a_file_of_another_model_is_refused() -> None:
    model, parameters, _ = model_and_data("mlp-tanh")
    data = TfliteModel.export(model, parameters, FIRST).data
    wider = build({**model.spec, "hidden": [7]})
    with pytest.raises(TfliteError, match="another model"):
        TfliteModel.parse(data, wider)
    relu = build({**model.spec, "activation": "relu"})
    with pytest.raises(TfliteError, match="another model"):
        TfliteModel.parse(data, relu)
    with pytest.raises(TfliteError, match="TFL3"):
        TfliteModel.parse(bytes(1000), model)


def test_the_public_schema_reads_what_we_write() -> None:
    model, parameters, _ = model_and_data("mlp-relu")
    data = TfliteModel.export(model, parameters, FIRST).data
    found = public.ModelT.InitFromObj(public.Model.GetRootAs(data, 0))
    assert found.version == schema.SCHEMA_VERSION
    assert found.description.decode().strip() == "fedmq: version 9 of federation mill, float32"
    graph = found.subgraphs[0]
    codes = [code.builtinCode for code in found.operatorCodes]
    run = [Operator(codes[node.opcodeIndex]).name for node in graph.operators]
    assert run == ["FULLY_CONNECTED", "FULLY_CONNECTED", "FULLY_CONNECTED", "SOFTMAX"]
    assert [node.builtinOptions.fusedActivationFunction for node in graph.operators[:3]] == [1, 1, 0]
    assert graph.operators[3].builtinOptions.beta == 1.0
    weight = next(tensor for tensor in graph.tensors if tensor.name == b"dense0.weight")
    stored = np.asarray(found.buffers[weight.buffer].data).view("<f4").reshape(weight.shape)
    assert np.array_equal(stored, model.layout.views(parameters)["dense0.weight"].T)
    assert list(graph.tensors[graph.inputs[0]].shapeSignature) == [-1, 5]
    about = {entry.name.decode(): bytes(found.buffers[entry.buffer].data) for entry in found.metadata}
    assert json.loads(about[ORIGIN_KEY])["version"] == 9


def test_weights_are_aligned_in_the_file() -> None:
    model, parameters, _ = model_and_data("mlp-mse")
    for int8 in (False, True):
        data = TfliteModel.export(model, parameters, FIRST, scheme("mlp-mse", int8=int8)).data
        found = public.Model.GetRootAs(data, 0)
        for number in range(1, found.BuffersLength()):
            buffer = found.Buffers(number)
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            assert start % schema.BUFFER_ALIGNMENT == 0


def test_numbers_are_those_of_the_public_schema() -> None:
    for operator in Operator:
        assert getattr(public.BuiltinOperator, operator.name) == operator
    for name, number in TENSOR_TYPES.items():
        assert getattr(public.TensorType, name.upper()) == number
    for number, dtype in schema.TYPES_BY_NUMBER.items():
        assert getattr(public.TensorType, dtype.name.upper()) == number
    names = {number: name for name, number in vars(public.BuiltinOptions).items() if isinstance(number, int)}
    for operator, table in OPTIONS.items():
        kind = names[table.number].removesuffix("Options")
        assert kind == SHARED.get(operator, operator.name.title().replace("_", "").replace("2d", "2D"))
        made = getattr(public, f"{kind}OptionsT")()
        for name in table.fields:
            assert FIELDS.get(name, "".join([name.split("_")[0], *map(str.title, name.split("_")[1:])])) in vars(made)


def test_an_origin_that_does_not_fit_is_refused() -> None:
    model, parameters, _ = model_and_data("linear")
    with pytest.raises(TfliteError, match="ASCII"):
        TfliteModel.export(model, parameters, Origin(federation="m\u00fchle"))
    with pytest.raises(TfliteError, match="shorter"):
        TfliteModel.export(model, parameters, Origin(federation="m" * 600))


def test_a_model_that_diverged_has_no_int8_form() -> None:
    model, parameters, data = model_and_data("softmax")
    graph = lower(model, parameters)
    how = scheme_of(graph, ranges_of(graph, data.x))
    parameters[0] = np.nan
    with pytest.raises(TfliteError, match="not finite"):
        TfliteModel.export(model, parameters, FIRST, how)
    with pytest.raises(TfliteError, match="finite range"):
        scheme_of(graph, ranges_of(lower(model, parameters), data.x))


def test_ranges_of_another_model_are_refused() -> None:
    model, parameters, data = model_and_data("softmax")
    other, others, _ = model_and_data("mlp-relu")
    ranges = ranges_of(lower(model, parameters), data.x)
    with pytest.raises(TfliteError, match="no range"):
        scheme_of(lower(other, others), ranges)
    with pytest.raises(TfliteError, match="no examples"):
        ranges_of(lower(model, parameters), data.x[:0])
