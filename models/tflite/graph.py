"""A model as operators on tensors: what is written to a ``.tflite`` file, before it is bytes.

Tensors are activations (without data; their first dimension is the batch, written as 1) or constants. Images are NHWC,
weights have their output channels first, as the operators want them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.parameters import FloatArray
from models.tflite.schema import SAME, VALID, Fused, Operator

Shape = tuple[int, ...]

MAX_CONCATENATED = 10
"""The runtime of microcontrollers takes no more at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Quantization:
    """``real = scale * (stored - zero_point)``, for the whole tensor, or for each slice along the first dimension."""

    scales: FloatArray
    zero_points: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """An activation, or with ``data`` a constant."""

    name: str
    shape: Shape
    dtype: str
    data: NDArray[Any] | None = None
    quantization: Quantization | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """An operator with the positions of its tensors, and its options by name."""

    operator: Operator
    inputs: tuple[int, ...]
    output: int
    options: Mapping[str, int | float | bool] = field(default_factory=dict)
    exact: bool = False
    """Stays in float32 when the rest goes to int8, which would not be good enough."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in the order in which they run; one input and one output, each with the name that a signature gives it."""

    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    input: int
    output: int
    input_name: str
    output_name: str
    alike: Mapping[int, int] = field(default_factory=dict)
    """Activations, and the earlier one of whose kind they are: int8 gives them the same scale."""


class Drawing:
    """A graph that is being drawn: every method adds a node, and returns the position of its output."""

    def __init__(self, inputs: int) -> None:
        self.tensors: list[Tensor] = []
        self.nodes: list[Node] = []
        self._constants: dict[str, int] = {}
        self._alike: dict[int, int] = {}
        self._roles: dict[str, int] = {}
        self.exact = False
        """Whether the nodes that are drawn now stay in float32."""
        self.input = self._add(Tensor("x", (1, inputs), "float32"))

    def finish(self, output: int, output_name: str) -> Graph:
        """Return the graph that ends with ``output``."""
        return Graph(tuple(self.tensors), tuple(self.nodes), self.input, output, "x", output_name, self._alike)

    def liken(self, role: str, tensor: int) -> int:
        """Give all activations of one role the same scale in int8; return the tensor."""
        first = self._roles.setdefault(role, tensor)
        if tensor != first:
            self._alike[tensor] = first
        return tensor

    def shape(self, tensor: int) -> Shape:
        """Return a tensor's shape, the batch as 1."""
        return self.tensors[tensor].shape

    def constant(self, name: str, values: NDArray[Any]) -> int:
        """Add a constant; the same name stands for the same constant."""
        if name not in self._constants:
            data = np.ascontiguousarray(values)
            self._constants[name] = self._add(Tensor(name, data.shape, data.dtype.name, data))
        return self._constants[name]

    def dense(self, name: str, x: int, weight: int, bias: int, *, relu: bool = False) -> int:
        """``x @ weight.T + bias`` along the last dimension of ``x (n, inputs)``."""
        shape = (self.shape(x)[0], self.shape(weight)[0])
        return self._node(name, Operator.FULLY_CONNECTED, (x, weight, bias), shape, fused=_fused(relu))

    def convolve(
        self, name: str, x: int, weight: int, bias: int, strides: tuple[int, int], *, same: bool, relu: bool = False
    ) -> int:
        """Slide ``weight (outputs, height, width, inputs)`` over ``x (n, height, width, inputs)``.

        With ``same`` zeros are around, the odd one behind, so that ``ceil(size / stride)`` positions come out.
        """
        _, height, width, _ = self.shape(x)
        outputs, *kernel, _ = self.shape(weight)
        sizes = zip((height, width), kernel, strides, strict=True)
        out = [-(-size // step) if same else (size - taps) // step + 1 for size, taps, step in sizes]
        options = {"stride_h": strides[0], "stride_w": strides[1], "fused": _fused(relu)}
        padding = SAME if same else VALID
        return self._node(name, Operator.CONV_2D, (x, weight, bias), (1, *out, outputs), padding=padding, **options)

    def pool(self, name: str, kind: Operator, x: int, window: tuple[int, int]) -> int:
        """Maximum or mean of each window of the images; windows lie side by side, an incomplete one is dropped."""
        _, height, width, channels = self.shape(x)
        shape = (1, height // window[0], width // window[1], channels)
        sizes = {"stride_h": window[0], "stride_w": window[1], "filter_h": window[0], "filter_w": window[1]}
        return self._node(name, kind, (x,), shape, padding=VALID, **sizes)

    def concatenate(self, name: str, parts: Sequence[int]) -> int:
        """Rows of features, one behind the other."""
        level = 0
        while len(parts) > MAX_CONCATENATED:
            groups = [parts[start : start + MAX_CONCATENATED] for start in range(0, len(parts), MAX_CONCATENATED)]
            parts = [self.concatenate(f"{name}.{level}.{number}", group) for number, group in enumerate(groups)]
            level += 1
        if len(parts) == 1:
            return parts[0]
        width = sum(self.shape(part)[1] for part in parts)
        return self._node(name, Operator.CONCATENATION, tuple(parts), (1, width), axis=1)

    def reshape(self, name: str, x: int, shape: Shape) -> int:
        """Read the same values as ``(n, *shape)``; where that is another ``n``, because a dimension joins the batch."""
        if self.shape(x)[1:] == shape:
            return x
        wanted = self.constant(f"shape{_joined(shape)}", np.array([-1, *shape], np.int32))
        rows = int(np.prod(self.shape(x))) // max(1, int(np.prod(shape)))
        return self._node(name, Operator.RESHAPE, (x, wanted), (rows, *shape))

    def slice(self, name: str, x: int, axis: int, start: int, stop: int) -> int:
        """Part of one dimension."""
        shape = list(self.shape(x))
        begin, end = [0] * len(shape), [0] * len(shape)
        begin[axis], end[axis], shape[axis] = start, stop, stop - start
        mask = (1 << len(begin)) - 1 - (1 << axis)
        parts = (
            self.constant(f"index{_joined(begin)}", np.array(begin, np.int32)),
            self.constant(f"index{_joined(end)}", np.array(end, np.int32)),
            self.constant(f"index{_joined([1] * len(begin))}", np.ones(len(begin), np.int32)),
        )
        return self._node(name, Operator.STRIDED_SLICE, (x, *parts), tuple(shape), begin_mask=mask, end_mask=mask)

    def mean(self, name: str, x: int, axes: tuple[int, ...]) -> int:
        """Mean over some dimensions, which stay with size 1."""
        over = self.constant(f"axes{_joined(axes)}", np.array(axes, np.int32))
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(self.shape(x)))
        return self._node(name, Operator.MEAN, (x, over), shape, keep_dims=True)

    def apply(self, name: str, operator: Operator, x: int, **options: float) -> int:
        """Apply a function to each value (or, SOFTMAX, to each row)."""
        return self._node(name, operator, (x,), self.shape(x), **options)

    def combine(self, name: str, operator: Operator, x: int, y: int, *, relu: bool = False) -> int:
        """Combine two tensors value by value; dimensions of size 1 are repeated."""
        shape = tuple(np.broadcast_shapes(self.shape(x), self.shape(y)))
        options = {} if operator is Operator.SQUARED_DIFFERENCE else {"fused": _fused(relu)}
        return self._node(name, operator, (x, y), shape, **options)

    def _node(self, name: str, operator: Operator, inputs: tuple[int, ...], shape: Shape, **options: float) -> int:
        output = self._add(Tensor(name, shape, "float32"))
        self.nodes.append(Node(operator, inputs, output, options, self.exact))
        return output

    def _add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def _fused(relu: bool) -> int:
    return int(Fused.RELU if relu else Fused.NONE)


def _joined(numbers: Sequence[int]) -> str:
    return "".join(f".{number}" for number in numbers)
