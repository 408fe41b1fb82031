"""What files do with variables: those that TensorFlow's converter makes, and those that nobody may run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models import Dataset, TfliteError, TrainingPlan, build, local_train
from models.tflite.adapters.training_trial import check
from models.tflite.backbone import BackboneSpec
from models.tflite.contract import TrainableSpec, contract_of
from models.tflite.runtime import load_runtime
from models.tflite.trainable import TrainableModel
from models.tflite.variables import Access, main_access
from tests.support.trainable import ADD, NONE, WHILE, Graph, write

BY_TENSORFLOW = Path(__file__).parent / "data" / "softmax_by_tensorflow.tflite"
SHAPE = (1, 4)


def test_a_file_that_tensorflow_made_learns_what_our_own_softmax_learns() -> None:
    data = BY_TENSORFLOW.read_bytes()
    model = TrainableModel(data, TrainableSpec.of(data, {"kind": "tflite"}), load_runtime())
    check(model)
    assert model.layout.entries == (("bias", (10,)), ("weight", (64, 10)))
    ours = build({"kind": "softmax", "inputs": 64, "outputs": 10})
    rng = np.random.default_rng(0)
    x = rng.random((50, 64), np.float32)
    rows = Dataset.for_model(ours, x, x[:, :10].argmax(axis=1))
    begin = model.init(rng)
    assert not begin.any(), "the file's first values"
    by_file = local_train(model, begin, rows, TrainingPlan(epochs=5, batch_size=8), np.random.default_rng(1))
    plan = TrainingPlan(epochs=5, batch_size=8, learning_rate=0.1)
    by_us = local_train(ours, begin, rows, plan, np.random.default_rng(1)).parameters
    np.testing.assert_allclose(by_file.parameters, np.concatenate([by_us[640:], by_us[:640]]), atol=1e-5)


def learner(*without: str) -> bytes:
    """A file of which all signatures but those named give the variables their first values."""
    graphs = {key: Graph(key) for key in ("get", "set", "infer", "train")}
    get, put, infer, train = graphs.values()
    for key, graph in graphs.items():
        if key not in without:
            graph.call_once(len(graphs))
    get.outputs = {"w": get.read("w", SHAPE)}
    put.assign("w", put.input("w", SHAPE))
    for graph in (infer, train):
        x = graph.input("x", (-1, 4))
        made = graph.node(ADD, (x, graph.read("w" if graph is infer else "momentum", SHAPE)), (-1, 4), options=NONE)
        graph.outputs = {"output": made}
    train.input("y", (-1,), "int32")
    train.outputs = {"loss": train.read("momentum", ())}
    begin = Graph("begin")
    for name in ("w", "momentum"):
        begin.assign(name, begin.constant(np.zeros(SHAPE)))
    return write([*graphs.values(), begin], {key: place for place, key in enumerate(graphs)})


@pytest.mark.parametrize(("without", "key", "name"), [(("get",), "get", "w"), (("train", "set"), "train", "momentum")])
def test_what_would_begin_with_whatever_is_in_the_memory_is_refused(
    without: tuple[str, ...], key: str, name: str
) -> None:
    data = learner(*without)
    with pytest.raises(TfliteError, match=rf"{key} reads variables .* no first values \({name}\).*self\.kept"):
        contract_of(data, TrainableSpec.of(data, {"kind": "tflite"}))


def test_what_set_gives_needs_no_first_values_elsewhere() -> None:
    data = learner("infer", "set")
    assert contract_of(data, TrainableSpec.of(data, {"kind": "tflite"})).output == "output"


def backbone(*, begins: bool, remembers: bool) -> bytes:
    main = Graph("main")
    if begins:
        main.call_once(1)
    total = main.node(ADD, (main.input("x", SHAPE), main.read("state", SHAPE)), SHAPE, options=NONE)
    if remembers:
        main.assign("state", total)
    main.outputs = {"embedding": total}
    begin = Graph("begin")
    begin.assign("state", begin.constant(np.zeros(SHAPE)))
    return write([main, begin], {"serving_default": 0})


def test_a_backbone_may_have_variables_that_stay_as_they_are() -> None:
    assert BackboneSpec.of(backbone(begins=True, remembers=False)).outputs == 4


@pytest.mark.parametrize(
    ("begins", "remembers", "wrong"),
    [(True, True, r"remembers what it was asked before \(in state\)"), (False, False, r"no first values \(state\)")],
)
def test_backbones_whose_answers_change_are_refused(begins: bool, remembers: bool, wrong: str) -> None:
    with pytest.raises(TfliteError, match=wrong):
        BackboneSpec.of(backbone(begins=begins, remembers=remembers))


def test_what_flex_operators_work_on_does_not_hide_them() -> None:
    main = Graph("main")
    x = main.input("x", SHAPE)
    parts = main.node("FlexTensorListReserve", (x,), (), "variant")
    main.outputs = {"embedding": main.node("FlexTensorListStack", (parts,), SHAPE)}
    with pytest.raises(TfliteError, match=r"FlexTensorListReserve, FlexTensorListStack.*SELECT_TF_OPS.*batch_size = 1"):
        BackboneSpec.of(write([main], {"serving_default": 0}))


def test_graphs_that_call_each_other_in_circles_are_followed_once() -> None:
    main, body = Graph("main"), Graph("body")
    for graph in (main, body):
        x = graph.input("x", SHAPE)
        graph.node(WHILE, (x,), SHAPE, options=(("int32", 1), ("int32", 0)))
    body.assign("deep", body.read("deeper", SHAPE))
    found = main_access(write([main, body], {"serving_default": 0}))
    assert found == Access(assigned=frozenset({"deep"}), read=frozenset({"deeper"}))
