"""Eight bits: from a float32 graph and the ranges of its activations to one that needs integers only.

By the public 8-bit quantization specification of TensorFlow Lite: activations int8 with one scale and zero point each,
weights int8 and symmetric with one scale for each output channel, biases int32 in the product of the two scales.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import TfliteError
from models.parameters import FloatArray
from models.tflite.graph import Graph, Node, Quantization, Tensor
from models.tflite.reference import carry_out
from models.tflite.schema import Operator

LOW, HIGH = -128, 127
CALIBRATION_ROWS = 256
"""So many examples at a time: what the activations of a block may take of memory."""

_FIXED = {
    Operator.TANH: (1.0 / 128, 0),
    Operator.LOGISTIC: (1.0 / 256, -128),
    Operator.SOFTMAX: (1.0 / 256, -128),
}
"""Scale and zero point that the specification demands of an output."""

_SAME = {Operator.RESHAPE, Operator.MAX_POOL_2D, Operator.AVERAGE_POOL_2D, Operator.STRIDED_SLICE, Operator.PAD}
"""Operators whose output is quantized as their input is."""

_WEIGHTED = {Operator.FULLY_CONNECTED, Operator.CONV_2D}

Ranges = Mapping[str, tuple[float, float]]
"""Least and greatest value of each activation, by its name."""

Scheme = Mapping[str, tuple[float, int]]
"""Scale (exact in float32) and zero point of each activation, by its name."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is known of the features where there are no examples: float32 ``(inputs,)`` each, finite."""

    mean: FloatArray
    deviation: FloatArray
    low: FloatArray
    high: FloatArray

    def examples(self, rows: int, rng: np.random.Generator) -> FloatArray:
        """Draw examples as if features were normal and knew nothing of each other, with both extremes among them."""
        drawn = rng.standard_normal((rows, len(self.mean)), dtype=np.float32) * self.deviation + self.mean
        return np.concatenate([np.clip(drawn, self.low, self.high), self.low[None], self.high[None]])


def ranges_of(graph: Graph, x: FloatArray) -> dict[str, tuple[float, float]]:
    """Return the ranges of all activations over the examples; raise ``TfliteError`` when there are none."""
    if not len(x):
        raise TfliteError("no examples to calibrate with")
    found: dict[str, tuple[float, float]] = {}
    for start in range(0, len(x), CALIBRATION_ROWS):
        for tensor, values in carry_out(graph, x[start : start + CALIBRATION_ROWS]):
            name = graph.tensors[tensor].name
            low, high = found.get(name, (np.inf, -np.inf))
            found[name] = (min(low, float(values.min())), max(high, float(values.max())))
    return found


def scheme_of(graph: Graph, ranges: Ranges) -> dict[str, tuple[float, int]]:
    """Return how each activation is quantized; raise ``TfliteError`` when a range is missing or not finite."""
    groups = _groups(graph)
    fixed = _fixed(graph, groups)
    joined: dict[int, tuple[float, float]] = {}
    for tensor, group in groups.items():
        name = graph.tensors[tensor].name
        low, high = _range(ranges, name)
        before = joined.get(group, (0.0, 0.0))  # zero has to be among the values: padding and ReLU rely on it
        joined[group] = (min(before[0], low), max(before[1], high))
    scheme = {}
    for tensor, group in groups.items():
        scheme[graph.tensors[tensor].name] = fixed.get(group) or _affine(*joined[group])
    return scheme


def quantize(graph: Graph, scheme: Scheme) -> Graph:
    """Return the graph on int8, its input and output included. Raise ``TfliteError`` when the scheme lacks a tensor."""
    tensors = [_activation(tensor, scheme) if tensor.data is None else tensor for tensor in graph.tensors]
    done: dict[tuple[int, int], int] = {}
    nodes = []
    for node in graph.nodes:
        make = _weighted_inputs if node.operator in _WEIGHTED else _plain_inputs
        nodes.append(replace(node, inputs=make(graph, node, tensors, done)))
    return replace(graph, tensors=tuple(tensors), nodes=tuple(nodes))


def quantize_values(values: NDArray[Any], scale: float, zero_point: int) -> NDArray[np.int8]:
    """Return float32 values as int8; what is out of range takes the nearest that is not."""
    stored = np.rint(values / np.float32(scale)) + zero_point
    result: NDArray[np.int8] = np.clip(stored, LOW, HIGH).astype(np.int8)
    return result


def dequantize_values(stored: NDArray[np.int8], scale: float, zero_point: int) -> FloatArray:
    """Return what the int8 values stand for."""
    return (stored.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


# -- activations ---------------------------------------------------------------------------------------------------


def _groups(graph: Graph) -> dict[int, int]:
    """Return for each activation the first of those that have to be quantized alike."""
    groups = {graph.input: graph.input}
    for node in graph.nodes:
        groups[node.output] = groups[node.inputs[0]] if node.operator in _SAME else node.output
    return groups


def _fixed(graph: Graph, groups: Mapping[int, int]) -> dict[int, tuple[float, int]]:
    return {groups[node.output]: _FIXED[node.operator] for node in graph.nodes if node.operator in _FIXED}


def _range(ranges: Ranges, name: str) -> tuple[float, float]:
    if name not in ranges:
        raise TfliteError(f"calibration: there is no range for {name!r}: were the ranges taken from another model?")
    low, high = ranges[name]
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise TfliteError(f"calibration: {name!r} goes from {low:g} to {high:g}; it has to be a finite range")
    return low, high


def _affine(low: float, high: float) -> tuple[float, int]:
    """Return scale and zero point that spread ``low <= 0 <= high`` over the int8 values, with zero on one of them."""
    scale = float(np.float32(max((high - low) / (HIGH - LOW), 1e-9)))
    zero_point = int(np.clip(np.rint(LOW - low / scale), LOW, HIGH))
    return scale, zero_point


def _activation(tensor: Tensor, scheme: Scheme) -> Tensor:
    if tensor.name not in scheme:
        raise TfliteError(f"calibration: nothing is known of {tensor.name!r}: is it of another model?")
    scale, zero_point = scheme[tensor.name]
    return replace(tensor, dtype="int8", quantization=_quantization([scale], [zero_point]))


# -- constants -----------------------------------------------------------------------------------------------------


def _weighted_inputs(
    graph: Graph, node: Node, tensors: list[Tensor], done: dict[tuple[int, int], int]
) -> tuple[int, ...]:
    x, weight, bias = node.inputs
    if tensors[weight].dtype != "int8":
        tensors[weight] = _weight(graph.tensors[weight])
    scales = _scale(tensors[x]) * _scales(tensors[weight])
    # Weights used twice on inputs of different scales need a bias for each.
    key = (bias, x)
    if key not in done:
        again = tensors[bias].dtype == "int32"
        made = _bias(graph.tensors[bias], scales, f".{node.output}" if again else "")
        if again:
            tensors.append(made)
        else:
            tensors[bias] = made
        done[key] = len(tensors) - 1 if again else bias
    return (x, weight, done[key])


def _plain_inputs(
    graph: Graph, node: Node, tensors: list[Tensor], _done: dict[tuple[int, int], int]
) -> tuple[int, ...]:
    for tensor in node.inputs:
        if tensors[tensor].dtype == "float32":  # indices and shapes stay what they are
            tensors[tensor] = _constant(graph.tensors[tensor])
    return node.inputs


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
    scale, zero_point = _affine(min(0.0, float(data.min())), max(0.0, float(data.max())))
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
