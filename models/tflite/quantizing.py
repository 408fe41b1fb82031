"""Eight bits: from a float32 graph and the ranges of its activations to one that needs integers only.

By the public 8-bit quantization specification of TensorFlow Lite: activations int8 with one scale and zero point each,
weights int8 and symmetric with one scale for each output channel, biases int32 in the product of the two scales. Nodes
that are ``exact`` stay in float32, between a DEQUANTIZE and a QUANTIZE.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import TfliteError
from models.parameters import FloatArray
from models.tflite.calibration import HIGH, LOW, Scheme, affine
from models.tflite.graph import Graph, Node, Quantization, Tensor
from models.tflite.schema import Operator

_WEIGHTED = {Operator.FULLY_CONNECTED, Operator.CONV_2D}
_STORED, _PLAIN = ".int8", ".float"
"""What is behind the name of an activation that is there in the other form, too."""


def quantize(graph: Graph, scheme: Scheme) -> Graph:
    """Return the graph on int8. Raise ``TfliteError`` when the scheme lacks a tensor, or a constant is not finite.

    Its input and output are int8, too, unless the node next to them is exact. What is in which place depends on the
    graph and the scheme alone, not on the values of constants.
    """
    return _Quantizer(graph, scheme).graph()


def quantize_values(values: NDArray[Any], scale: float, zero_point: int) -> NDArray[np.int8]:
    """Return float32 values as int8; what is out of range takes the nearest that is not."""
    stored = np.rint(values / np.float32(scale)) + zero_point
    result: NDArray[np.int8] = np.clip(stored, LOW, HIGH).astype(np.int8)
    return result


def dequantize_values(stored: NDArray[np.int8], scale: float, zero_point: int) -> FloatArray:
    """Return what the int8 values stand for."""
    return (stored.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


class _Quantizer:
    def __init__(self, graph: Graph, scheme: Scheme) -> None:
        self._graph = graph
        self._scheme = scheme
        self._tensors = list(graph.tensors)
        self._nodes: list[Node] = []
        self._other: dict[int, int] = {}
        """Activations in their other form."""
        self._biases: dict[tuple[int, int, float], int] = {}

    def graph(self) -> Graph:
        """Return all of it, quantized."""
        graph = self._graph
        if not all(node.exact for node in graph.nodes if graph.input in node.inputs):
            self._quantize_activation(graph.input)
        for node in graph.nodes:
            if node.exact:
                inputs = tuple(self._plain(tensor) for tensor in node.inputs)
            else:
                inputs = tuple(self._stored(tensor) for tensor in node.inputs)
                make = self._weighted if node.operator in _WEIGHTED else self._with_constants
                inputs = make(inputs)
                self._quantize_activation(node.output)
            self._nodes.append(replace(node, inputs=inputs))
        return replace(graph, tensors=tuple(self._tensors), nodes=tuple(self._nodes))

    def _stored(self, tensor: int) -> int:
        """Return the activation as int8; constants as they are."""
        found = self._tensors[tensor]
        if found.data is not None or found.dtype == "int8":
            return tensor
        return self._converted(tensor, Operator.QUANTIZE, self._as_int8(replace(found, name=found.name + _STORED)))

    def _plain(self, tensor: int) -> int:
        """Return the activation as float32; constants as they are."""
        found = self._tensors[tensor]
        if found.data is not None or found.dtype != "int8":
            return tensor
        plain = replace(found, name=found.name + _PLAIN, dtype="float32", quantization=None)
        return self._converted(tensor, Operator.DEQUANTIZE, plain)

    def _converted(self, tensor: int, operator: Operator, result: Tensor) -> int:
        if tensor not in self._other:
            self._other[tensor] = self._added(result)
            self._nodes.append(Node(operator, (tensor,), self._other[tensor]))
        return self._other[tensor]

    def _quantize_activation(self, tensor: int) -> None:
        self._tensors[tensor] = self._as_int8(self._tensors[tensor])

    def _as_int8(self, tensor: Tensor) -> Tensor:
        # A scheme that was read from a file names the tensor that is int8 there.
        found = self._scheme.get(tensor.name) or self._scheme.get(tensor.name.removesuffix(_STORED))
        if found is None:
            raise TfliteError(f"calibration: nothing is known of {tensor.name!r}: is it of another model?")
        scale, zero_point = found
        return replace(tensor, dtype="int8", quantization=_quantization([scale], [zero_point]))

    def _weighted(self, inputs: tuple[int, ...]) -> tuple[int, ...]:
        x, weight, bias = inputs
        if self._tensors[weight].dtype != "int8":
            self._tensors[weight] = _weight(self._graph.tensors[weight])
        # Weights used again on an input of another scale need a bias in other units.
        key = (weight, bias, _scale(self._tensors[x]))
        if key not in self._biases:
            scales = _scale(self._tensors[x]) * _scales(self._tensors[weight])
            again = self._tensors[bias].dtype == "int32"
            made = _bias(self._graph.tensors[bias], scales, f".{x}" if again else "")
            if not again:
                self._tensors[bias] = made
            self._biases[key] = self._added(made) if again else bias
        return (x, weight, self._biases[key])

    def _with_constants(self, inputs: tuple[int, ...]) -> tuple[int, ...]:
        for tensor in inputs:
            found = self._tensors[tensor]
            if found.data is not None and found.dtype == "float32":  # indices and shapes stay what they are
                self._tensors[tensor] = _constant(found)
        return inputs

    def _added(self, tensor: Tensor) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1


def _weight(tensor: Tensor) -> Tensor:
    data = _finite(tensor)
    peak = np.abs(data).reshape(len(data), -1).max(axis=1)
    scales = np.where(peak > 0, peak / np.float32(HIGH), np.float32(1.0)).astype(np.float32)
    stored = np.rint(data / scales.reshape(-1, *[1] * (data.ndim - 1)))
    return replace(
        tensor,
        dtype="int8",
        data=np.clip(stored, -HIGH, HIGH).astype(np.int8),
        quantization=_quantization(scales, np.zeros(len(scales), np.int64)),
    )


def _bias(tensor: Tensor, scales: NDArray[np.float64], suffix: str) -> Tensor:
    limit = 2.0**31 - 1
    stored = np.clip(np.rint(_finite(tensor).astype(np.float64) / scales), -limit, limit)
    return replace(
        tensor,
        name=tensor.name + suffix,
        dtype="int32",
        data=stored.astype(np.int32),
        quantization=_quantization(scales, np.zeros(len(scales), np.int64)),
    )


def _constant(tensor: Tensor) -> Tensor:
    data = _finite(tensor)
    scale, zero_point = affine(min(0.0, float(data.min())), max(0.0, float(data.max())))
    stored = quantize_values(data, scale, zero_point)
    return replace(tensor, dtype="int8", data=stored, quantization=_quantization([scale], [zero_point]))


def _finite(tensor: Tensor) -> NDArray[Any]:
    if tensor.data is None or not np.isfinite(tensor.data).all():
        raise TfliteError(f"{tensor.name} has values that are not finite: a model that diverged has no int8 form")
    return tensor.data


def _scale(tensor: Tensor) -> float:
    return float(_scales(tensor)[0])


def _scales(tensor: Tensor) -> NDArray[np.float64]:
    if tensor.quantization is None:
        raise TfliteError(f"{tensor.name} is not quantized")
    return tensor.quantization.scales.astype(np.float64)


def _quantization(scales: Iterable[float], zero_points: Iterable[int]) -> Quantization:
    return Quantization(np.array(scales, np.float32), np.array(zero_points, np.int64))
