"""Trainable ``.tflite`` files, as a converter makes them of a model with several signatures: resource variables that
are given their first values once, and a graph for each signature. Written on ``flatbuffers`` alone, not by our writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
from numpy.typing import NDArray

Option: TypeAlias = tuple[str, int | float | str]
"""Kind and value of a field of a table of options."""

TYPES = {"float32": 0, "int32": 2, "int64": 4, "string": 5, "resource": 13, "variant": 14}
ADD, FULLY_CONNECTED, MUL, SOFTMAX, TANH, CUSTOM, SUB, DIV, NEG, LOG, SUM, ONE_HOT = (
    0, 9, 18, 25, 28, 32, 41, 42, 59, 73, 74, 85,
)  # fmt: skip
WHILE, BATCH_MATMUL, CALL_ONCE, VAR_HANDLE, READ_VARIABLE, ASSIGN_VARIABLE = 119, 126, 129, 142, 143, 144

OPTIONS = {
    ADD: 11, FULLY_CONNECTED: 8, MUL: 21, SOFTMAX: 9, SUB: 28, DIV: 29, NEG: 42, SUM: 27, ONE_HOT: 61,
    WHILE: 93, BATCH_MATMUL: 101, CALL_ONCE: 103, VAR_HANDLE: 111, READ_VARIABLE: 112, ASSIGN_VARIABLE: 113,
}  # fmt: skip
"""Number of an operator's table in the union of options."""


@dataclass(slots=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    """-1 for a size that may be any."""
    dtype: str
    data: NDArray[Any] | None = None


@dataclass(slots=True)
class Node:
    code: int | str
    """A builtin operator, or the name of a custom one."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: tuple[Option, ...]


@dataclass(slots=True)
class Graph:
    name: str
    tensors: list[Tensor] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> int:
        self.inputs[name] = self._add(Tensor(f"{self.name}_{name}", tuple(shape), dtype))
        return self.inputs[name]

    def constant(self, values: object, dtype: str = "float32") -> int:
        data = np.asarray(values, dtype)
        return self._add(Tensor(f"{self.name}_constant{len(self.tensors)}", data.shape, dtype, data))

    def variable(self, name: str) -> int:
        handle = self._add(Tensor(f"{self.name}_{name}_handle", (), "resource"))
        self.nodes.append(Node(VAR_HANDLE, (), (handle,), (("text", ""), ("text", name))))
        return handle

    def read(self, name: str, shape: Sequence[int], dtype: str = "float32") -> int:
        return self.node(READ_VARIABLE, (self.variable(name),), shape, dtype)

    def assign(self, name: str, value: int) -> None:
        self.nodes.append(Node(ASSIGN_VARIABLE, (self.variable(name), value), (), ()))

    def call_once(self, subgraph: int) -> None:
        self.nodes.append(Node(CALL_ONCE, (), (), (("int32", subgraph),)))

    def node(
        self,
        code: int | str,
        inputs: Sequence[int],
        shape: Sequence[int],
        dtype: str = "float32",
        options: tuple[Option, ...] = (),
    ) -> int:
        output = self._add(Tensor(f"{self.name}_{len(self.tensors)}", tuple(shape), dtype))
        self.nodes.append(Node(code, tuple(inputs), (output,), options))
        return output

    def _add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def write(graphs: Sequence[Graph], signatures: Mapping[str, int]) -> bytes:
    """Return the file: its graphs, of which those of the signatures are by position."""
    return _Writer().file(graphs, signatures)


class _Writer:
    def __init__(self) -> None:
        self._out = flatbuffers.Builder(4096)
        self._buffers = [self._table([])]

    def file(self, graphs: Sequence[Graph], signatures: Mapping[str, int]) -> bytes:
        codes = list(dict.fromkeys(node.code for graph in graphs for node in graph.nodes))
        parts = [self._graph(graph, codes) for graph in graphs]
        keys = [self._signature(key, position, graphs[position]) for key, position in signatures.items()]
        root = self._table(
            [
                ("Uint32", 3),
                ("table", self._vector([self._code(code) for code in codes])),
                ("table", self._vector(parts)),
                ("table", self._out.CreateString("a model that learns")),
                ("table", self._vector(self._buffers)),
                None,
                None,
                ("table", self._vector(keys)),
            ]
        )
        self._out.Finish(root, file_identifier=b"TFL3")
        return bytes(self._out.Output())

    def _code(self, code: int | str) -> int:
        number = CUSTOM if isinstance(code, str) else code
        name = ("table", self._out.CreateString(code)) if isinstance(code, str) else None
        return self._table([("Int8", min(number, 127)), name, ("Int32", 1), ("Int32", number)])

    def _graph(self, graph: Graph, codes: Sequence[int | str]) -> int:
        tensors = self._vector([self._tensor(tensor) for tensor in graph.tensors])
        nodes = self._vector([self._node(node, codes.index(node.code)) for node in graph.nodes])
        inputs, outputs = (self._numbers(list(ends.values())) for ends in (graph.inputs, graph.outputs))
        name = self._out.CreateString(graph.name)
        return self._table(
            [("table", tensors), ("table", inputs), ("table", outputs), ("table", nodes), ("table", name)]
        )

    def _tensor(self, tensor: Tensor) -> int:
        buffer = 0
        if tensor.data is not None:
            self._buffers.append(self._table([("table", self._numbers(tensor.data.reshape(-1).view(np.uint8), 16))]))
            buffer = len(self._buffers) - 1
        shape = self._numbers([max(1, size) for size in tensor.shape])
        open_ended = self._numbers(list(tensor.shape)) if -1 in tensor.shape else 0
        name = self._out.CreateString(tensor.name)
        fields = [("table", shape), ("Int8", TYPES[tensor.dtype]), ("Uint32", buffer), ("table", name)]
        elements = [None, ("table", self._vector([self._table([])]))] if tensor.dtype == "variant" else []
        return self._table([*fields, None, None, None, ("table", open_ended), *elements])

    def _node(self, node: Node, code: int) -> int:
        fields: list[tuple[str, Any] | None] = []
        for kind, value in node.options:
            fields.append(("table", self._out.CreateString(value)) if kind == "text" else (kind.capitalize(), value))
        union = 0 if isinstance(node.code, str) else OPTIONS.get(node.code, 0)
        options = ("table", self._table(fields)) if union else None
        inputs, outputs = self._numbers(node.inputs), self._numbers(node.outputs)
        return self._table([("Uint32", code), ("table", inputs), ("table", outputs), ("Uint8", union), options])

    def _signature(self, key: str, position: int, graph: Graph) -> int:
        ends = [
            self._vector(
                [
                    self._table([("table", self._out.CreateString(name)), ("Uint32", tensor)])
                    for name, tensor in ends.items()
                ]
            )
            for ends in (graph.inputs, graph.outputs)
        ]
        text = self._out.CreateString(key)
        return self._table([("table", ends[0]), ("table", ends[1]), ("table", text), None, ("Uint32", position)])

    def _numbers(self, values: Any, alignment: int = 4) -> int:
        data = np.asarray(values, np.int32) if not isinstance(values, np.ndarray) else values
        out, raw = self._out, data.tobytes()
        out.StartVector(data.itemsize, data.size, alignment)
        out.head = out.head - len(raw)
        out.Bytes[out.Head() : out.Head() + len(raw)] = raw
        return int(out.EndVector())

    def _vector(self, offsets: Sequence[int]) -> int:
        self._out.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._out.PrependUOffsetTRelative(offset)
        return int(self._out.EndVector())

    def _table(self, fields: Sequence[tuple[str, Any] | None]) -> int:
        self._out.StartObject(len(fields))
        for slot, entry in enumerate(fields):
            if entry is not None:
                kind, value = entry
                method = "UOffsetTRelative" if kind == "table" else kind
                getattr(self._out, f"Prepend{method}Slot")(slot, value, 0)
        return int(self._out.EndObject())


NONE: tuple[Option, ...] = (("int8", 0),)
"""No activation fused."""


def softmax_file(
    inputs: int,
    classes: int,
    *,
    rate: float | None = 0.5,
    labels: bool = False,
    rows: int = -1,
    seed: int = 0,
    keys: Mapping[str, str] | None = None,
    needs: str = "",
    counts: bool = False,
    stale: bool = False,
    logits: bool = False,
    deadly: bool = False,
) -> bytes:
    """Softmax regression by stochastic gradient descent: ``weight (inputs, classes)`` and ``bias``.

    ``rate`` None: ``train`` is given it. ``labels``: ``y`` is int32 ``(n,)``, else one-hot. ``needs``: a custom
    operator in ``train``. ``counts``: a variable that is neither got nor set makes the second step half as long.
    ``stale``: ``train`` forgets its step. ``logits``: ``infer`` gives scores. ``deadly``: a variable changes its shape
    within ``train``, which ends a process that runs it (``ai-edge-litert`` 2.3.0).
    """
    rng = np.random.default_rng(seed)
    first = {"weight": 0.1 * rng.standard_normal((inputs, classes)), "bias": np.zeros(classes)}
    shapes: dict[str, tuple[int, ...]] = {"weight": (inputs, classes), "bias": (classes,)}
    names = {key: (keys or {}).get(key, key) for key in ("get", "infer", "set", "train")}
    graphs = {key: Graph(name) for key, name in names.items()}
    begin = Graph("begin")
    for name, values in first.items():
        begin.assign(name, begin.constant(values))
    if counts:
        begin.assign("count", begin.constant(0.0))
    for graph in graphs.values():
        graph.call_once(len(graphs))
    get, infer, put, train = graphs.values()
    get.outputs = {name: get.read(name, shape) for name, shape in shapes.items()}
    answer = _scores if logits else _probabilities
    infer.outputs = {"output": answer(infer, infer.input("x", (rows, inputs)), shapes, rows)}
    for name, shape in shapes.items():
        put.assign(name, put.input(name, shape))
    put.outputs = {"done": put.constant(1, "int32")}
    if deadly:
        train.assign("weight", train.constant(np.zeros((64, 64))))
    x = train.input("x", (rows, inputs))
    hot = (
        _hot(train, train.input("y", (rows,), "int32"), classes, rows) if labels else train.input("y", (rows, classes))
    )
    step = train.input("learning_rate", ()) if rate is None else train.constant(rate)
    if counts:
        count = train.node(ADD, (train.read("count", ()), train.constant(1.0)), (), options=NONE)
        train.assign("count", count)
        step = train.node(DIV, (step, count), (), options=NONE)
    found = _probabilities(train, x, shapes, rows)
    if needs:
        found = train.node(needs, (found,), (rows, classes))
    n = train.node(SUM, (hot, train.constant([0, 1], "int32")), (), options=(("bool", 0),))
    error = train.node(SUB, (found, hot), (rows, classes), options=NONE)
    gradients = {
        "weight": train.node(
            BATCH_MATMUL, (x, error), shapes["weight"], options=(("bool", 1), ("bool", 0), ("bool", 0))
        ),
        "bias": train.node(SUM, (error, train.constant([0], "int32")), shapes["bias"], options=(("bool", 0),)),
    }
    scale = train.node(DIV, (step, n), (), options=NONE)
    for name, gradient in gradients.items():
        change = train.node(MUL, (gradient, scale), shapes[name], options=NONE)
        moved = train.node(SUB, (train.read(name, shapes[name]), change), shapes[name], options=NONE)
        train.assign(f"{name}_elsewhere" if stale else name, moved)
    logs = train.node(MUL, (train.node(LOG, (found,), (rows, classes)), hot), (rows, classes), options=NONE)
    total = train.node(SUM, (logs, train.constant([0, 1], "int32")), (), options=(("bool", 0),))
    train.outputs = {"loss": train.node(DIV, (train.node(NEG, (total,), ()), n), (), options=NONE)}
    return write([*graphs.values(), begin], {name: place for place, name in enumerate(names.values())})


def _probabilities(graph: Graph, x: int, shapes: Mapping[str, tuple[int, ...]], rows: int) -> int:
    scores = _scores(graph, x, shapes, rows)
    return graph.node(SOFTMAX, (scores,), (rows, *shapes["bias"]), options=(("float32", 1.0),))


def _scores(graph: Graph, x: int, shapes: Mapping[str, tuple[int, ...]], rows: int) -> int:
    weight, bias = (graph.read(name, shape) for name, shape in shapes.items())
    wide = (rows, *shapes["bias"])
    scores = graph.node(BATCH_MATMUL, (x, weight), wide, options=(("bool", 0), ("bool", 0), ("bool", 0)))
    return graph.node(ADD, (scores, bias), wide, options=NONE)


def _hot(graph: Graph, labels: int, classes: int, rows: int) -> int:
    parts = (labels, graph.constant(classes, "int32"), graph.constant(1.0), graph.constant(0.0))
    return graph.node(ONE_HOT, parts, (rows, classes), options=(("int32", -1),))


def linear_file(inputs: int, outputs: int, *, rows: int, rate: float, reconstructs: bool = False) -> bytes:
    """Linear regression on batches of ``rows``, by the mean squared error; ``reconstructs``: of ``x`` itself."""
    shapes: dict[str, tuple[int, ...]] = {"weight": (inputs, outputs), "bias": (outputs,)}
    graphs = {name: Graph(name) for name in ("get", "infer", "set", "train")}
    get, infer, put, train = graphs.values()
    begin = Graph("begin")
    for name, shape in shapes.items():
        begin.assign(name, begin.constant(np.zeros(shape)))
    for graph in graphs.values():
        graph.call_once(len(graphs))
    get.outputs = {name: get.read(name, shape) for name, shape in shapes.items()}
    infer.outputs = {"values": _scores(infer, infer.input("x", (rows, inputs)), shapes, rows)}
    for name, shape in shapes.items():
        put.assign(name, put.input(name, shape))
    x = train.input("x", (rows, inputs))
    wanted = x if reconstructs else train.input("y", (rows, outputs))
    error = train.node(SUB, (_scores(train, x, shapes, rows), wanted), (rows, outputs), options=NONE)
    square = train.node(MUL, (error, error), (rows, outputs), options=NONE)
    total = train.node(SUM, (square, train.constant([0, 1], "int32")), (), options=(("bool", 0),))
    train.outputs = {"loss": train.node(DIV, (total, train.constant(rows * outputs)), (), options=NONE)}
    adjoint = (("bool", 1), ("bool", 0), ("bool", 0))
    gradients = {
        "weight": train.node(BATCH_MATMUL, (x, error), shapes["weight"], options=adjoint),
        "bias": train.node(SUM, (error, train.constant([0], "int32")), shapes["bias"], options=(("bool", 0),)),
    }
    for name, gradient in gradients.items():
        scale = train.constant(rate * 2 / (rows * outputs))
        change = train.node(MUL, (gradient, scale), shapes[name], options=NONE)
        moved = train.node(SUB, (train.read(name, shapes[name]), change), shapes[name], options=NONE)
        train.assign(name, moved)
    return write([*graphs.values(), begin], {name: place for place, name in enumerate(graphs)})
