"""Small networks with every layer in every form, and examples for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import Dataset, Model, build


def conv(filters: int, kernel: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "conv2d", "filters": filters, "kernel": kernel, **more}


def conv1(filters: int, kernel: int, **more: Any) -> dict[str, Any]:
    return {"kind": "conv1d", "filters": filters, "kernel": kernel, **more}


def dense(outputs: int, **more: Any) -> dict[str, Any]:
    return {"kind": "dense", "outputs": outputs, **more}


def gru(units: int, **more: Any) -> dict[str, Any]:
    return {"kind": "gru", "units": units, **more}


def norm(groups: int, **more: Any) -> dict[str, Any]:
    return {"kind": "group_norm", "groups": groups, **more}


def pool(size: Any) -> dict[str, Any]:
    return {"kind": "max_pool", "size": size}


def around(*layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "residual", "layers": list(layers), **more}


STANDARDIZE = {"kind": "standardize"}
FLATTEN, GLOBAL = {"kind": "flatten"}, {"kind": "global_average_pool"}
RELU, TANH = {"activation": "relu"}, {"activation": "tanh"}
MAX, MEAN = {"kind": "max_pool"}, {"kind": "average_pool"}

LAYERS: dict[str, tuple[list[int], list[dict[str, Any]]]] = {
    "dense": ([5], [dense(6, **RELU), dense(4, **TANH), dense(3)]),
    "dense-constants": ([5], [STANDARDIZE, dense(6, **TANH), dense(3)]),
    "conv2d": ([6, 5, 2], [conv(3, 3, **RELU), conv(2, 3, **TANH), FLATTEN, dense(3)]),
    "conv2d-valid": ([6, 5, 2], [conv(3, [3, 2], padding="valid"), conv(4, [2, 1], padding="valid"), GLOBAL]),
    "conv2d-even": ([5, 6, 1], [conv(3, [2, 4]), conv(2, [4, 2], **RELU), FLATTEN, dense(3)]),
    "conv2d-stride": ([7, 6, 2], [conv(3, 3, stride=2), conv(3, [2, 3], stride=[1, 2], **TANH), FLATTEN, dense(3)]),
    "conv2d-stride-wide": ([7, 8, 2], [conv(3, 2, stride=3), conv(4, 1, stride=2), FLATTEN, dense(3)]),
    "conv2d-stride-valid": ([7, 8, 2], [conv(3, 3), conv(3, 3, stride=2, padding="valid"), FLATTEN, dense(3)]),
    "conv2d-pool": ([6, 8, 2], [conv(3, 3, **RELU), MAX, conv(4, 3, **RELU), pool([3, 2]), FLATTEN, dense(3)]),
    "conv2d-pool-rest": ([7, 7, 1], [conv(2, 3), conv(3, 3, **TANH), pool([2, 3]), GLOBAL]),
    "conv2d-pool-valid": (
        [9, 7, 2],
        [conv(4, 3, padding="valid", stride=[1, 2], **RELU), pool(1), GLOBAL, dense(2)],
    ),
    "conv2d-large": ([24, 25, 3], [conv(4, 5, **RELU), MAX, conv(4, 5, **RELU), FLATTEN, dense(3)]),
    "conv2d-tiled": ([7, 6, 8], [conv(8, 3, **RELU), conv(9, [5, 2], **TANH), FLATTEN, dense(3)]),
    "conv2d-tiled-valid": ([9, 7, 8], [conv(9, 3, padding="valid"), conv(8, [5, 3], padding="valid"), GLOBAL]),
    "conv2d-tiled-stride": ([6, 9, 8], [conv(8, 3, stride=[1, 2]), conv(10, [3, 4], stride=[1, 3], **RELU), GLOBAL]),
    "conv2d-tiled-pool": ([8, 7, 8], [conv(8, 3, **RELU), MAX, conv(8, 5, **RELU), pool([3, 2]), FLATTEN, dense(3)]),
    "conv2d-tiled-pool-rest": ([11, 5, 8], [conv(8, [5, 3], **TANH), pool([3, 1]), GLOBAL, dense(3)]),
    "conv2d-tiled-pool-odd": ([9, 5, 8], [conv(8, 3, padding="valid"), pool([1, 2]), FLATTEN, dense(3)]),
    "pools": ([7, 6, 2], [conv(3, 3), MEAN, MAX, FLATTEN, dense(3)]),
    "pool-first": ([6, 6, 2], [MAX, MEAN, conv(3, 2), FLATTEN, dense(3)]),
    "norm-pool": ([6, 6, 2], [conv(4, 3), norm(2, **RELU), MAX, FLATTEN, dense(3)]),
    "norm": ([4, 4, 3], [conv(6, 3), norm(3, **TANH), conv(4, 3), FLATTEN, dense(3)]),
    "norm-channels": ([9, 2], [conv1(3, 3), norm(3), conv1(2, 3), GLOBAL, dense(3)]),
    "norm-first": ([9, 4], [norm(2), FLATTEN, dense(3)]),
    "conv1d": ([11, 3], [conv1(4, 5, **RELU), conv1(3, 4, stride=2, **TANH), GLOBAL, dense(3)]),
    "conv1d-pool": (
        [13, 3],
        [STANDARDIZE, conv1(4, 3, **RELU), MAX, conv1(3, 3, **RELU), pool(3), FLATTEN, dense(3)],
    ),
    "conv1d-valid": ([13, 3], [conv1(4, 3, padding="valid"), MEAN, conv1(3, 2, padding="valid"), GLOBAL, dense(3)]),
    "residual": (
        [6, 5, 2],
        [conv(4, 3), around(conv(3, 3, **RELU), conv(4, 3), **RELU), around(norm(2, **RELU), conv(4, 3)), GLOBAL],
    ),
    "residual-dense": ([4], [around(dense(5, **TANH), dense(4), **TANH), dense(6, **RELU), around(dense(6)), dense(2)]),
    "residual-pool": ([8, 3], [conv1(3, 3), around(conv1(3, 3, **RELU), pool(1)), MAX, FLATTEN, dense(3)]),
    "residual-first": ([4], [around(dense(4, **RELU)), dense(3)]),
    "gru": ([7, 3], [gru(4), dense(3)]),
    "gru-stack": ([5, 2], [gru(4, sequence=True), gru(3, sequence=True), FLATTEN, dense(3)]),
    "gru-conv": ([10, 2], [conv1(4, 3, **RELU), MAX, gru(5, sequence=True), conv1(3, 2), GLOBAL]),
    "gru-alone": ([6, 2], [STANDARDIZE, gru(3)]),
}

TASKS: dict[str, dict[str, Any]] = {
    "classification": {},
    "regression": {"task": "regression"},
    "huber": {"task": "regression", "loss": "huber", "huber_delta": 0.4, "l2": 0.05},
}


def spec_of(name: str, task: str = "classification") -> dict[str, Any]:
    shape, layers = LAYERS[name]
    return {"kind": "network", "input_shape": shape, "layers": layers, **TASKS[task]}


def examples(model: Model, count: int, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, model.inputs))
    y: NDArray[Any]
    if model.task == "classification":
        y = rng.integers(0, model.outputs, count)
    else:
        y = rng.standard_normal((count, model.outputs))
    return Dataset.for_model(model, x, y)


def network(name: str, task: str = "classification") -> tuple[Model, NDArray[np.float32]]:
    """The model, and parameters that are not special, constants included."""
    model = build(spec_of(name, task))
    start = model.init(np.random.default_rng(1))
    start += np.random.default_rng(2).standard_normal(len(start), dtype=np.float32) * np.float32(0.2)
    return model, start
