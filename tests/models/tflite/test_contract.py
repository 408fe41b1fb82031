"""Which files can be federated: what their signatures have to take and to give."""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest

from models import TfliteError
from models.tflite.checking import examine
from models.tflite.contract import Contract, TrainableSpec, contract_of
from tests.support.trainable import READ_VARIABLE, Graph, write

Ends: TypeAlias = dict[str, tuple[tuple[int, ...], str]]
"""Shape and type by name."""

F, I, L, S = "float32", "int32", "int64", "string"  # noqa: E741 - types
TENSORS: Ends = {"w": ((6, 3), F), "b": ((3,), F)}
GOOD: dict[str, tuple[Ends, Ends]] = {
    "get": ({}, TENSORS),
    "set": (TENSORS, {}),
    "infer": ({"x": ((-1, 2, 3), F)}, {"output": ((-1, 3), F), "logits": ((-1, 3), F)}),
    "train": ({"x": ((-1, 2, 3), F), "y": ((-1,), I)}, {"loss": ((), F)}),
}


def file_of(signatures: dict[str, tuple[Ends, Ends]]) -> bytes:
    graphs = []
    for key, (inputs, outputs) in signatures.items():
        graph = Graph(key)
        for name, (shape, dtype) in inputs.items():
            graph.input(name, shape, dtype)
        graph.call_once(len(signatures))
        handle = graph.variable("v")
        graph.outputs = {name: graph.node(READ_VARIABLE, (handle,), *end) for name, end in outputs.items()}
        graphs.append(graph)
    begin = Graph("begin")
    begin.assign("v", begin.constant(0.0))
    return write([*graphs, begin], {key: place for place, key in enumerate(signatures)})


def contract(changes: dict[str, tuple[Ends | None, Ends | None]], **said: Any) -> Contract:
    signatures = {
        key: tuple(
            GOOD[key][side] if part is None else part for side, part in enumerate(changes.get(key, (None, None)))
        )
        for key in GOOD
    }
    data = file_of(signatures)  # type: ignore[arg-type]  # pairs, though mypy sees tuples of any length
    return contract_of(data, TrainableSpec.of(data, {"kind": "tflite", **said}))


def targets(shape: tuple[int, ...], dtype: str) -> dict[str, tuple[Ends | None, Ends | None]]:
    return {"train": ({"x": ((-1, 2, 3), F), "labels": (shape, dtype)}, None)}


def test_what_a_good_file_says() -> None:
    found = contract({})
    assert (found.inputs, found.shape, found.outputs, found.rows) == (6, (2, 3), 3, -1)
    assert (found.x, found.output, found.loss, found.targets) == ("x", "output", "loss", "labels")
    assert found.layout.entries == (("b", (3,)), ("w", (6, 3)))
    assert contract({}, output="logits", logits=True).output == "logits"


@pytest.mark.parametrize(
    ("shape", "dtype", "task", "wanted"),
    [
        ((-1,), F, "classification", "labels"),
        ((-1, 1), L, "classification", "labels"),
        ((-1, 3), F, "classification", "one_hot"),
        ((-1, 3), F, "regression", "values"),
    ],
)
def test_targets_of_several_forms(shape: tuple[int, ...], dtype: str, task: str, wanted: str) -> None:
    assert contract(targets(shape, dtype), task=task).targets == wanted


def test_a_reconstruction_needs_no_targets() -> None:
    both: dict[str, tuple[Ends | None, Ends | None]] = {
        "infer": (None, {"again": ((-1, 2, 3), F)}),
        "train": ({"x": ((-1, 2, 3), F)}, None),
    }
    assert contract(both, task="reconstruction").targets == "none"
    given = {**both, **targets((-1, 6), F)}
    assert contract(given, task="reconstruction").targets == "values"


WRONG: list[tuple[dict[str, tuple[Ends | None, Ends | None]], str, str]] = [
    ({"get": ({"path": ((), S)}, None)}, "", r"get takes path: string \(\).*TensorFlow's guide"),
    ({"get": (None, {})}, "", "get gives 0 tensors"),
    ({"get": (None, {"steps": ((), L)})}, "", r"get gives steps: int64 \(\): what is federated has to be float32"),
    ({"get": (None, {"w": ((-1, 3), F)})}, "", r"w: float32 \(any, 3\).* of a fixed shape"),
    ({"get": (None, {"my weight": ((3,), F)})}, "", "allowed in names"),
    ({"set": ({"w": ((6, 3), F)}, None)}, "", r"only get has b: float32 \(3\), only set nothing"),
    ({"set": ({**TENSORS, "b": ((4,), F)}, None)}, "", r"only get has b: float32 \(3\), only set b: float32 \(4\)"),
    ({"infer": ({}, None)}, "", "infer takes nothing"),
    ({"infer": ({"x": ((-1, 2, 3), I)}, None)}, "", "examples are float32"),
    ({"infer": ({"x": ((-1, 2, -1), F)}, None)}, "", "of a fixed shape each"),
    ({"infer": (None, {"p": ((-1, 3), F), "q": ((-1, 3), F)})}, "", "and no output: say which one by model.output"),
    ({}, "probabilities", "and no probabilities"),
    ({"infer": (None, {"p": ((-1, 3), I)})}, "", "that has to be float32, a row for each example"),
    ({"infer": (None, {"p": ((-1, 1), F)})}, "", "at least two"),
    (
        {"train": ({"image": ((-1, 2, 3), F), "y": ((-1,), I)}, None)},
        "",
        "train has to take the examples as infer does",
    ),
    ({"train": ({"x": ((-1, 2, 4), F), "y": ((-1,), I)}, None)}, "", "train has to take the examples as infer does"),
    ({"train": ({"x": ((-1, 2, 3), F)}, None)}, "", "train takes no targets"),
    (targets((-1, 4), F), "", r"one-hot \(any, 3\)"),
    (targets((5,), I), "", "train takes labels"),
    (targets((-1,), S), "", "train takes labels: string"),
    (
        {"train": ({**GOOD["train"][0], "z": ((), F), "t": ((), F)}, None)},
        "",
        "allowed are the targets, and learning_rate",
    ),
    ({"train": ({**GOOD["train"][0], "learning_rate": ((2,), F)}, None)}, "", "one float32 number"),
    ({"train": (None, {"a": ((), F), "b": ((), F)})}, "", "under the name loss"),
    ({"train": (None, {"loss": ((), I)})}, "", "it has to give the loss, as float32"),
]


@pytest.mark.parametrize(("changes", "output", "wrong"), WRONG)
def test_what_cannot_be_federated_is_told(
    changes: dict[str, tuple[Ends | None, Ends | None]], output: str, wrong: str
) -> None:
    with pytest.raises(TfliteError, match=wrong):
        contract(changes, **({"output": output} if output else {}))


def test_only_files_that_serve_need_an_input_in_the_first_graph() -> None:
    data = file_of(GOOD)
    examine(data, serves=False)
    with pytest.raises(TfliteError, match="no input or no output"):
        examine(data)


def test_names_that_occur_twice_are_refused() -> None:
    data = file_of(GOOD).replace(b"\1\0\0\0b\0", b"\1\0\0\0w\0")  # what get and set call b is w as well
    with pytest.raises(TfliteError, match="signature 'get' has two outputs 'w'"):
        contract_of(data, TrainableSpec.of(data, {"kind": "tflite"}))


def test_sizes_that_there_cannot_be_are_refused() -> None:
    x: Ends = {"x": ((-1, -2, -3), F)}  # six values, if one only multiplies
    with pytest.raises(TfliteError, match=r"a tensor has the shape \[-1, -2, -3\]"):
        contract({"infer": (x, None), "train": ({**x, "y": ((-1,), I)}, None)})


def test_damage_is_found_or_does_no_harm_to_reading() -> None:
    whole = bytearray(file_of(GOOD))
    refused = 0
    for place in range(8, len(whole)):
        data = bytearray(whole)
        data[place] ^= 0xFF
        try:
            contract_of(bytes(data), TrainableSpec.of(bytes(data), {"kind": "tflite"}))
        except TfliteError:
            refused += 1
    assert refused > len(whole) // 4
