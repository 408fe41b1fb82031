"""Whether a ``.tflite`` file holds together: what its parts say of each other, before a runtime is given it.

This finds damage, and lists that lead out of the file. It does not know what each operator demands of its tensors; for
files of others there is a trial in a process of its own beside it (``adapters/trial``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from models.errors import TfliteError
from models.tflite.reading import Bytes, Source, Table
from models.tflite.schema import SCHEMA_VERSION, TYPES_BY_NUMBER

MAX_ELEMENTS = 2**31 - 1
MAX_DIMENSIONS = 8
_LISTS_IN_OPTIONS = (17, 30)
"""Options that begin with a list, those of RESHAPE and SQUEEZE; nearly all others have numbers only."""

T = TypeVar("T")

OPTIONAL = -1
_INLINE_OFFSETS = 1
"""A buffer beyond the FlatBuffer has its offset from the file's start, which is more than this."""


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of the file."""

    start: int
    size: int


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor as the file describes it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic] | None
    """None for elements that are no numbers of whole bytes."""
    data: Place
    """Size 0: no constant."""
    scales: Place
    zero_points: Place
    is_variable: bool
    signature: tuple[int, ...] = ()
    """The shape with -1 for sizes that are left open; empty: none is."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file says, checked."""

    description: Place
    tensors: tuple[TensorRecord, ...]
    """Of the main subgraph."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    metadata: dict[str, Place]


def examine(data: Bytes, *, serves: bool = True) -> FileRecord:
    """Return what the file says; raise ``TfliteError`` when it is damaged or contradicts itself.

    ``serves``: whether its first graph has to make something of something. Of several signatures any may be the first.
    """
    root = Source(data).root()
    if root.number(0, "uint32") != SCHEMA_VERSION:
        raise TfliteError(f"a .tflite file of schema {root.number(0, 'uint32')}, known is {SCHEMA_VERSION}")
    buffers = [_buffer(table, len(data)) for table in root.tables(4)]
    codes = len([code.text(1) for code in root.tables(1)])
    root.numbers(5, "int32")
    root.text(3)
    subgraphs = root.tables(2)
    if not subgraphs:
        raise TfliteError("a .tflite file without a graph")
    counts: list[int] = []
    for position, table in reversed(list(enumerate(subgraphs))):
        tensors = tuple(_tensor(found, buffers) for found in table.tables(0))
        table.text(4)
        inputs, outputs = _check_graph(table, tensors, codes, main=serves and position == 0)
        counts.insert(0, len(tensors))
    _check_signatures(root, counts)
    metadata = {}
    for entry in root.tables(6):
        metadata[entry.text(0)] = _at(buffers, entry.number(1, "uint32"), "buffer")
    described = root.place(3, 1) or (0, 0)
    return FileRecord(Place(*described), tensors, inputs, outputs, metadata)


def _buffer(table: Table, file_bytes: int) -> Place:
    offset, size = table.number(1, "uint64"), table.number(2, "uint64")
    if offset > _INLINE_OFFSETS:
        if offset + size > file_bytes:
            raise TfliteError(f"damaged .tflite file: a buffer of {size} bytes at {offset}, and it has {file_bytes}")
        return Place(offset, size)
    return Place(*(table.place(0, 1) or (0, 0)))


def _tensor(table: Table, buffers: list[Place]) -> TensorRecord:
    name = table.text(3)
    shape = tuple(int(size) for size in table.numbers(0, "int32"))
    if len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise TfliteError(f"tensor {name[:60]!r} has the shape {shape[:MAX_DIMENSIONS]}")
    signature = table.numbers(7, "int32")
    if len(signature) not in {0, len(shape)}:
        raise TfliteError(f"tensor {name[:60]!r} has {len(shape)} dimensions, and {len(signature)} in its signature")
    if table.table(6) is not None or table.place(9, 4) is not None:
        raise TfliteError(f"tensor {name[:60]!r} is sparse, or of variants: that is not supported here")
    dtype = TYPES_BY_NUMBER.get(table.number(1, "int8"))
    data = _at(buffers, table.number(2, "uint32"), "buffer")
    if data.size and dtype is not None and data.size != math.prod(shape) * dtype.itemsize:
        raise TfliteError(f"tensor {name[:60]!r} of shape {shape} and {dtype} has {data.size} bytes")
    scales, zero_points = _quantization(table.table(4), name, shape)
    variable, left_open = bool(table.number(5, "bool")), tuple(signature.tolist())
    return TensorRecord(name, shape, dtype, data, scales, zero_points, variable, left_open)


def _quantization(table: Table | None, name: str, shape: tuple[int, ...]) -> tuple[Place, Place]:
    if table is None:
        return Place(0, 0), Place(0, 0)
    table.numbers(0, "float32")
    table.numbers(1, "float32")
    table.table(5)
    scales, zero_points = table.place(2, 4) or (0, 0), table.place(3, 8) or (0, 0)
    axis = table.number(6, "int32")
    count = scales[1]
    wrong = count > 1 and not (0 <= axis < len(shape) and shape[axis] == count)
    if wrong or zero_points[1] not in {0, 1, count}:
        raise TfliteError(f"tensor {name[:60]!r} of shape {shape} has {count} scales and {zero_points[1]} zero points")
    return Place(scales[0], 4 * count), Place(zero_points[0], 8 * zero_points[1])


def _check_graph(
    table: Table, tensors: tuple[TensorRecord, ...], codes: int, *, main: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    inputs = _positions(table, 1, len(tensors))
    outputs = _positions(table, 2, len(tensors))
    if main and not (inputs and outputs):
        raise TfliteError("a .tflite file whose graph has no input or no output")
    known = {position for position, tensor in enumerate(tensors) if tensor.data.size or tensor.is_variable}
    known |= set(inputs) | {OPTIONAL}
    # A tensor of no elements is a constant without bytes.
    known |= {position for position, tensor in enumerate(tensors) if 0 in tensor.shape}
    for number, node in enumerate(table.tables(3)):
        if node.number(0, "uint32") >= codes:
            raise TfliteError(f"node {number} has an operator that the file does not list")
        needed = _positions(node, 1, len(tensors), optional=True)
        made = _positions(node, 2, len(tensors))
        _positions(node, 8, len(tensors))  # intermediates
        _check_options(node)
        if not known.issuperset(needed):
            raise TfliteError(f"node {number} takes a tensor that nothing has made before")
        known.update(made)
    if not known.issuperset(outputs):
        raise TfliteError("an output of the graph is made by nothing")
    return inputs, outputs


def _check_options(node: Table) -> None:
    """Look at what an operator is told beside its tensors: whole, whatever it says."""
    options = node.table(4)
    if options is not None and node.number(3, "uint8") in _LISTS_IN_OPTIONS:
        options.numbers(0, "int32")
    node.place(5, 1)
    node.place(7, 1)
    node.table(12)


def _positions(table: Table, slot: int, count: int, *, optional: bool = False) -> tuple[int, ...]:
    found = table.numbers(slot, "int32")
    if len(found) and not (OPTIONAL if optional else 0) <= found.min() <= found.max() < count:
        raise TfliteError(f"a tensor's number is {found.min()} or {found.max()}, there are {count}")
    return tuple(int(position) for position in found)


def _check_signatures(root: Table, counts: list[int]) -> None:
    for signature in root.tables(7):
        tensors = _at(counts, signature.number(4, "uint32"), "graph")
        key = signature.text(2)
        for entry in (*signature.tables(0), *signature.tables(1)):
            name = entry.text(0)
            if entry.number(1, "uint32") >= tensors:
                raise TfliteError(f"signature {key[:60]!r} has no tensor for {name[:60]!r}")


def _at(items: Sequence[T], position: int, what: str) -> T:
    if position >= len(items):
        raise TfliteError(f"damaged .tflite file: {what} {position} of {len(items)}")
    return items[position]
