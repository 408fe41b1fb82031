"""A graph as the bytes of a ``.tflite`` file: the same graph always gives the same bytes.

FlatBuffers are written from the end to the beginning: whatever is pointed to is written before what points to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import NDArray

from models.tflite.graph import Graph, Node, Quantization, Tensor
from models.tflite.schema import (
    BUFFER_ALIGNMENT,
    FILE_IDENTIFIER,
    OLD_CODES,
    OPTIONS,
    SCHEMA_VERSION,
    SERVING,
    TENSOR_TYPES,
    VERSIONS,
    Operator,
)

_SPARE_BYTES = 64 * 1024
"""What the builder begins with beside the weights: it doubles, and copies, only for large graphs."""


def write(graph: Graph, description: str, metadata: Mapping[str, bytes]) -> bytes:
    """Return the file: the graph, a description for people, and named byte strings for programs."""
    weights = sum(tensor.data.nbytes for tensor in graph.tensors if tensor.data is not None)
    return _Writer(weights + _SPARE_BYTES).file(graph, description, metadata)


class _Writer:
    def __init__(self, expected_bytes: int) -> None:
        self._out = flatbuffers.Builder(expected_bytes)
        self._buffers: list[int] = []

    def file(self, graph: Graph, description: str, metadata: Mapping[str, bytes]) -> bytes:
        self._buffer(None)  # the first one is empty by convention: it belongs to activations
        described = self._vector([self._metadata(name, value) for name, value in metadata.items()])
        codes = sorted({(node.operator, _version(graph, node)) for node in graph.nodes})
        subgraph = self._subgraph(graph, codes)
        signature = self._signature(graph)
        model = self._table(
            8,
            version=(0, "Uint32", SCHEMA_VERSION, 0),
            operator_codes=(1, "UOffsetTRelative", self._vector([self._code(*code) for code in codes]), 0),
            subgraphs=(2, "UOffsetTRelative", self._vector([subgraph]), 0),
            description=(3, "UOffsetTRelative", self._out.CreateString(description), 0),
            buffers=(4, "UOffsetTRelative", self._vector(self._buffers), 0),
            metadata=(6, "UOffsetTRelative", described, 0),
            signature_defs=(7, "UOffsetTRelative", self._vector([signature]), 0),
        )
        self._out.Finish(model, file_identifier=FILE_IDENTIFIER)
        return bytes(self._out.Output())

    def _subgraph(self, graph: Graph, codes: Sequence[tuple[Operator, int]]) -> int:
        tensors = self._vector([self._tensor(tensor) for tensor in graph.tensors])
        nodes = self._vector(
            [self._node(node, codes.index((node.operator, _version(graph, node)))) for node in graph.nodes]
        )
        return self._table(
            5,
            tensors=(0, "UOffsetTRelative", tensors, 0),
            inputs=(1, "UOffsetTRelative", self._numbers(np.array([graph.input], np.int32)), 0),
            outputs=(2, "UOffsetTRelative", self._numbers(np.array([graph.output], np.int32)), 0),
            operators=(3, "UOffsetTRelative", nodes, 0),
            name=(4, "UOffsetTRelative", self._out.CreateString("main"), 0),
        )

    def _tensor(self, tensor: Tensor) -> int:
        buffer = 0 if tensor.data is None else self._buffer(tensor.data)
        shape = np.array(tensor.shape, np.int32)
        # Activations take batches of any size; the size written is what is allocated unless somebody asks for another.
        is_batch = tensor.data is None and tensor.shape[0] == 1
        signature = np.array([-1, *tensor.shape[1:]], np.int32) if is_batch else None
        return self._table(
            8,
            shape=(0, "UOffsetTRelative", self._numbers(shape), 0),
            type=(1, "Int8", TENSOR_TYPES[tensor.dtype], 0),
            buffer=(2, "Uint32", buffer, 0),
            name=(3, "UOffsetTRelative", self._out.CreateString(tensor.name), 0),
            quantization=(4, "UOffsetTRelative", self._quantization(tensor.quantization), 0),
            shape_signature=(7, "UOffsetTRelative", 0 if signature is None else self._numbers(signature), 0),
        )

    def _quantization(self, quantization: Quantization | None) -> int:
        if quantization is None:
            return 0
        scales = self._numbers(quantization.scales)
        zero_points = self._numbers(quantization.zero_points)
        return self._table(
            7, scale=(2, "UOffsetTRelative", scales, 0), zero_point=(3, "UOffsetTRelative", zero_points, 0)
        )

    def _node(self, node: Node, code: int) -> int:
        table = OPTIONS.get(node.operator)
        options = 0
        if table is not None:
            fields = {
                name: (slot, _SLOTS[kind], node.options.get(name, default), default)
                for name, (slot, kind, default) in table.fields.items()
            }
            options = self._table(max((field[0] + 1 for field in fields.values()), default=0), **fields)
        return self._table(
            5,
            opcode_index=(0, "Uint32", code, 0),
            inputs=(1, "UOffsetTRelative", self._numbers(np.array(node.inputs, np.int32)), 0),
            outputs=(2, "UOffsetTRelative", self._numbers(np.array([node.output], np.int32)), 0),
            builtin_options_type=(3, "Uint8", 0 if table is None else table.number, 0),
            builtin_options=(4, "UOffsetTRelative", options, 0),
        )

    def _code(self, operator: Operator, version: int) -> int:
        return self._table(
            4,
            deprecated_builtin_code=(0, "Int8", min(operator, OLD_CODES), 0),
            version=(2, "Int32", version, 1),
            builtin_code=(3, "Int32", int(operator), 0),
        )

    def _signature(self, graph: Graph) -> int:
        def named(name: str, tensor: int) -> int:
            text = self._out.CreateString(name)
            entry = self._table(2, name=(0, "UOffsetTRelative", text, 0), tensor_index=(1, "Uint32", tensor, 0))
            return self._vector([entry])

        return self._table(
            5,
            inputs=(0, "UOffsetTRelative", named(graph.input_name, graph.input), 0),
            outputs=(1, "UOffsetTRelative", named(graph.output_name, graph.output), 0),
            signature_key=(2, "UOffsetTRelative", self._out.CreateString(SERVING), 0),
            subgraph_index=(4, "Uint32", 0, 0),
        )

    def _metadata(self, name: str, value: bytes) -> int:
        buffer = self._buffer(np.frombuffer(value, np.uint8))
        text = self._out.CreateString(name)
        return self._table(2, name=(0, "UOffsetTRelative", text, 0), buffer=(1, "Uint32", buffer, 0))

    def _buffer(self, data: NDArray[Any] | None) -> int:
        """Add a buffer; return its number."""
        where = 0 if data is None else self._numbers(data.reshape(-1).view(np.uint8), BUFFER_ALIGNMENT)
        self._buffers.append(self._table(1, data=(0, "UOffsetTRelative", where, 0)))
        return len(self._buffers) - 1

    def _numbers(self, values: NDArray[Any], alignment: int = 0) -> int:
        """Add a vector of scalars."""
        out, size = self._out, values.dtype.itemsize
        out.StartVector(size, values.size, alignment or size)
        raw = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        # The builder writes backwards, and has made room in StartVector.
        out.head = out.head - len(raw)
        out.Bytes[out.Head() : out.Head() + len(raw)] = raw
        return int(out.EndVector())

    def _vector(self, offsets: Sequence[int]) -> int:
        """Add a vector of tables."""
        self._out.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._out.PrependUOffsetTRelative(offset)
        return int(self._out.EndVector())

    def _table(self, size: int, **fields: tuple[int, str, float, float]) -> int:
        """Add a table of ``size`` fields; each is given by position, kind, value and default."""
        self._out.StartObject(size)
        for slot, kind, value, default in fields.values():
            getattr(self._out, f"Prepend{kind}Slot")(slot, value, default)
        return int(self._out.EndObject())


_SLOTS = {"int8": "Int8", "int32": "Int32", "bool": "Bool", "float32": "Float32"}


def _version(graph: Graph, node: Node) -> int:
    plain, quantized = VERSIONS[node.operator]
    return quantized if graph.tensors[node.output].dtype == "int8" else plain
