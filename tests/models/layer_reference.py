"""Networks in float64, one example at a time, window by window: slow, plain, and written apart from the product.

There is no backward pass: gradients are finite differences of this loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import Model
from tests.models import reference

Array = NDArray[np.float64]
Table = Mapping[str, Any]


class Parameters:
    """Takes parts off the vector in the order of the layers."""

    def __init__(self, vector: NDArray[Any]) -> None:
        self._vector = np.asarray(vector, np.float64)
        self._position = 0
        self.decayed = 0.0

    def take(self, *shape: int, decayed: bool = False) -> Array:
        size = int(np.prod(shape))
        found = self._vector[self._position : self._position + size].reshape(shape)
        self._position += size
        if decayed:
            self.decayed += float(np.sum(found**2))
        return found

    @property
    def exhausted(self) -> bool:
        return self._position == len(self._vector)


def activated(values: Array, table: Table) -> Array:
    name = table.get("activation", "none")
    if name == "relu":
        return np.where(values > 0.0, values, 0.0)
    return np.tanh(values) if name == "tanh" else values


def sizes(value: Any, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)


def corners(lengths: list[int]) -> Iterator[tuple[int, ...]]:
    return iter(np.ndindex(*lengths))


def convolved(x: Array, table: Table, parts: Parameters) -> Array:
    axes = x.ndim - 1
    kernel, stride = sizes(table["kernel"], axes), sizes(table.get("stride", 1), axes)
    weight = parts.take(table["filters"], *kernel, x.shape[-1], decayed=True)
    bias = parts.take(table["filters"])
    if table.get("padding", "same") == "same":
        counts = [int(np.ceil(n / s)) for n, s in zip(x.shape, stride, strict=False)]
        missing = [max((c - 1) * s + k - n, 0) for c, s, k, n in zip(counts, stride, kernel, x.shape, strict=False)]
        x = np.pad(x, [*((m // 2, m - m // 2) for m in missing), (0, 0)])
    else:
        counts = [(n - k) // s + 1 for n, s, k in zip(x.shape, stride, kernel, strict=False)]
    out = np.empty((*counts, table["filters"]))
    for place in corners(counts):
        window = x[tuple(slice(p * s, p * s + k) for p, s, k in zip(place, stride, kernel, strict=True))]
        for f in range(table["filters"]):
            out[(*place, f)] = np.sum(weight[f] * window) + bias[f]
    return activated(out, table)


def pooled(x: Array, table: Table) -> Array:
    size = sizes(table.get("size", 2), x.ndim - 1)
    counts = [n // s for n, s in zip(x.shape, size, strict=False)]
    out = np.empty((*counts, x.shape[-1]))
    for place in corners(counts):
        window = x[tuple(slice(p * s, p * s + s) for p, s in zip(place, size, strict=True))].reshape(-1, x.shape[-1])
        out[place] = window.max(axis=0) if table["kind"] == "max_pool" else window.mean(axis=0)
    return out


def normalized(x: Array, table: Table, parts: Parameters) -> Array:
    weight, bias = parts.take(x.shape[-1]), parts.take(x.shape[-1])
    out = np.empty_like(x)
    for group in np.split(np.arange(x.shape[-1]), table["groups"]):
        values = x[..., group]
        out[..., group] = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
    return activated(out * weight + bias, table)


def recurrent(x: Array, table: Table, parts: Parameters) -> Array:
    units = table["units"]
    weight, inner = parts.take(3 * units, x.shape[1], decayed=True), parts.take(3 * units, units, decayed=True)
    bias, inner_bias = parts.take(3 * units), parts.take(units)
    state, states = np.zeros(units), []
    for step in x:
        r, z, n = np.split(weight @ step + bias, 3)
        u_r, u_z, u_n = np.split(inner @ state, 3)
        reset, update = 1.0 / (1.0 + np.exp(-(r + u_r))), 1.0 / (1.0 + np.exp(-(z + u_z)))
        state = (1.0 - update) * np.tanh(n + reset * (u_n + inner_bias)) + update * state
        states.append(state)
    return np.array(states) if table.get("sequence") else state


def dense(x: Array, table: Table, parts: Parameters) -> Array:
    weight, bias = parts.take(len(x), table["outputs"], decayed=True), parts.take(table["outputs"])
    return activated(x @ weight + bias, table)


def standardized(x: Array, _table: Table, parts: Parameters) -> Array:
    mean, scale = parts.take(x.shape[-1]), parts.take(x.shape[-1])
    return (x - mean) * scale


def around(x: Array, table: Table, parts: Parameters) -> Array:
    return activated(x + through(x, table["layers"], parts), table)


def averaged(x: Array, _table: Table, _parts: Parameters) -> Array:
    return np.array([x[..., channel].mean() for channel in range(x.shape[-1])])


LAYERS: dict[str, Callable[[Array, Table, Parameters], Array]] = {
    "dense": dense,
    "standardize": standardized,
    "conv1d": convolved,
    "conv2d": convolved,
    "max_pool": lambda x, table, _parts: pooled(x, table),
    "average_pool": lambda x, table, _parts: pooled(x, table),
    "global_average_pool": averaged,
    "group_norm": normalized,
    "gru": recurrent,
    "flatten": lambda x, _table, _parts: x.ravel(),
    "residual": around,
}


def through(x: Array, layers: list[Table], parts: Parameters) -> Array:
    for table in layers:
        x = LAYERS[table["kind"]](x, table, parts)
    return x


def output(spec: Table, vector: NDArray[Any], example: NDArray[Any]) -> Array:
    parts = Parameters(vector)
    found = through(example.astype(np.float64).reshape(spec["input_shape"]), spec["layers"], parts)
    assert parts.exhausted
    return found


def loss(model: Model, vector: NDArray[Any], x: NDArray[Any], y: NDArray[Any], weights: Any = None) -> float:
    spec = model.spec
    parts = Parameters(vector)
    through(x[0].astype(np.float64).reshape(spec["input_shape"]), spec["layers"], parts)
    losses = [
        reference.example_loss(spec, output(spec, vector, example), wanted)[0]
        * (1.0 if weights is None else weights[wanted])
        for example, wanted in zip(x, y, strict=True)
    ]
    return float(np.mean(losses)) + float(spec["l2"]) / 2.0 * parts.decayed


def slopes(model: Model, vector: NDArray[Any], x: NDArray[Any], y: NDArray[Any], places: NDArray[Any]) -> Array:
    """Return the gradient at some places of the vector."""
    step, found = 1e-6, []
    for place in places:
        aside = np.zeros(len(vector))
        aside[place] = step
        at = vector.astype(np.float64)
        found.append((loss(model, at + aside, x, y) - loss(model, at - aside, x, y)) / (2 * step))
    return np.array(found)
