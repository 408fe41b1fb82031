"""A graph carried out in NumPy: tells which values the activations take, where no runtime is installed.

It follows the operators' definitions and is slow. Calibration and tests use it, prediction does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.parameters import FloatArray
from models.tflite.graph import Graph
from models.tflite.schema import SAME, Fused, Operator

Options = Mapping[str, Any]
Array = NDArray[Any]


def carry_out(graph: Graph, x: FloatArray) -> Iterator[tuple[int, FloatArray]]:
    """Yield the position and the values of every activation for the examples ``x``, the input first, the output last.

    Values that nobody needs any longer are let go of: a long graph does not hold all of its activations.
    """
    values: dict[int, Array] = {graph.input: x}
    last_use = {tensor: position for position, node in enumerate(graph.nodes) for tensor in node.inputs}
    yield graph.input, x
    for position, node in enumerate(graph.nodes):
        inputs = [_value(graph, values, tensor) for tensor in node.inputs]
        values[node.output] = _OPERATORS[node.operator](inputs, node.options)
        yield node.output, values[node.output]
        for tensor in node.inputs:
            if last_use[tensor] == position:
                values.pop(tensor, None)


def output(graph: Graph, x: FloatArray) -> FloatArray:
    """Return the graph's output for the examples ``x``."""
    result = x
    for tensor, values in carry_out(graph, x):
        if tensor == graph.output:
            result = values
    return result


def _value(graph: Graph, values: Mapping[int, Array], tensor: int) -> Array:
    data = graph.tensors[tensor].data
    return values[tensor] if data is None else data


def _fuse(result: Array, options: Options) -> Array:
    return np.maximum(result, np.float32(0)) if options.get("fused", 0) == Fused.RELU else result


def _fully_connected(inputs: list[Array], options: Options) -> Array:
    x, weight, bias = inputs
    return _fuse(x @ weight.T + bias, options)


def _windows(x: Array, size: tuple[int, int], options: Options) -> Array:
    """Return views ``(n, height, width, channels, *size)``."""
    steps_h, steps_w = options["stride_h"], options["stride_w"]
    return sliding_window_view(x, size, axis=(1, 2))[:, ::steps_h, ::steps_w]


def _convolve(inputs: list[Array], options: Options) -> Array:
    x, weight, bias = inputs
    _, height, width, _ = weight.shape
    if options["padding"] == SAME:
        around = (_around(x.shape[1], height, options["stride_h"]), _around(x.shape[2], width, options["stride_w"]))
        x = np.pad(x, ((0, 0), *around, (0, 0)))
    windows = _windows(x, (height, width), options)
    return _fuse(np.tensordot(windows, weight, axes=((3, 4, 5), (3, 1, 2))) + bias, options)


def _around(size: int, taps: int, step: int) -> tuple[int, int]:
    """Return the zeros in front and behind, the odd one behind."""
    missing = max((-(-size // step) - 1) * step + taps - size, 0)
    return missing // 2, missing - missing // 2


def _pool(reduce: Callable[..., Array]) -> Callable[[list[Array], Options], Array]:
    def pool(inputs: list[Array], options: Options) -> Array:
        windows = _windows(inputs[0], (options["filter_h"], options["filter_w"]), options)
        return reduce(windows, axis=(4, 5))

    return pool


def _combine(function: Callable[[Array, Array], Array]) -> Callable[[list[Array], Options], Array]:
    return lambda inputs, options: _fuse(function(inputs[0], inputs[1]), options)


def _each(function: Callable[[Array], Array]) -> Callable[[list[Array], Options], Array]:
    return lambda inputs, _options: function(inputs[0])


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _logistic(x: Array) -> Array:
    # By tanh, which does not overflow.
    return np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * x)


def _slice(inputs: list[Array], options: Options) -> Array:
    x, begin, end, _ = inputs
    whole = options["begin_mask"]
    parts = tuple(
        slice(None) if whole >> axis & 1 else slice(int(begin[axis]), int(end[axis])) for axis in range(x.ndim)
    )
    return x[parts]


_OPERATORS: dict[Operator, Callable[[list[Array], Options], Array]] = {
    Operator.ADD: _combine(np.add),
    Operator.AVERAGE_POOL_2D: _pool(np.mean),
    Operator.CONCATENATION: lambda inputs, options: np.concatenate(inputs, axis=options["axis"]),
    Operator.CONV_2D: _convolve,
    Operator.FULLY_CONNECTED: _fully_connected,
    Operator.LOGISTIC: _each(_logistic),
    Operator.MAX_POOL_2D: _pool(np.max),
    Operator.MUL: _combine(np.multiply),
    Operator.RESHAPE: lambda inputs, _options: inputs[0].reshape(inputs[1]),
    Operator.SOFTMAX: _each(_softmax),
    Operator.TANH: _each(np.tanh),
    Operator.MEAN: lambda inputs, _options: inputs[0].mean(axis=tuple(inputs[1]), keepdims=True),
    Operator.SUB: _combine(np.subtract),
    Operator.STRIDED_SLICE: _slice,
    Operator.RSQRT: _each(lambda x: 1 / np.sqrt(x)),
    Operator.SQUARED_DIFFERENCE: _combine(lambda x, y: np.square(x - y)),
}
