"""Where the activations of a graph lie, found with examples, and how int8 is to hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.errors import TfliteError
from models.parameters import FloatArray
from models.tflite.graph import Graph
from models.tflite.reference import carry_out
from models.tflite.schema import Operator

LOW, HIGH = -128, 127
CALIBRATION_ROWS = 32
"""So many examples at a time: what unrolled windows of a convolution may take of memory."""

_FIXED = {
    Operator.TANH: (1.0 / 128, 0),
    Operator.LOGISTIC: (1.0 / 256, -128),
    Operator.SOFTMAX: (1.0 / 256, -128),
}
"""Scale and zero point that the specification demands of an output."""

_SAME = {
    Operator.RESHAPE,
    Operator.MAX_POOL_2D,
    Operator.AVERAGE_POOL_2D,
    Operator.STRIDED_SLICE,
    Operator.CONCATENATION,
}
"""Operators whose output is quantized as their inputs are; those of a CONCATENATION are alike already."""

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
        scheme[graph.tensors[tensor].name] = fixed.get(group) or affine(*joined[group])
    return scheme


def _groups(graph: Graph) -> dict[int, int]:
    """Return for each activation the first of those that have to be quantized alike."""
    groups = {graph.input: graph.input}
    for node in graph.nodes:
        if node.operator in _SAME and not node.exact:
            groups[node.output] = groups[node.inputs[0]]
        else:
            groups[node.output] = graph.alike.get(node.output, node.output)
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


def affine(low: float, high: float) -> tuple[float, int]:
    """Return scale and zero point that spread ``low <= 0 <= high`` over the int8 values, with zero on one of them."""
    scale = float(np.float32(max((high - low) / (HIGH - LOW), 1e-9)))
    zero_point = int(np.clip(np.rint(LOW - low / scale), LOW, HIGH))
    return scale, zero_point
