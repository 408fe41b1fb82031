"""Small models of every kind, and examples for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import Dataset, Model, build

SPECS: dict[str, dict[str, Any]] = {
    "softmax": {"kind": "softmax", "inputs": 5, "outputs": 3, "l2": 0.01},
    "linear": {"kind": "linear", "inputs": 5, "outputs": 2},
    "linear-huber": {"kind": "linear", "inputs": 5, "outputs": 1, "loss": "huber", "huber_delta": 0.7, "l2": 0.1},
    "mlp-relu": {"kind": "mlp", "inputs": 5, "hidden": [7, 4], "outputs": 3},
    "mlp-tanh": {"kind": "mlp", "inputs": 5, "hidden": [6], "outputs": 4, "activation": "tanh", "l2": 0.02},
    "mlp-mse": {"kind": "mlp", "inputs": 5, "hidden": [6], "outputs": 2, "task": "regression", "activation": "tanh"},
    "mlp-huber": {
        "kind": "mlp",
        "inputs": 5,
        "hidden": [6, 5],
        "outputs": 2,
        "task": "regression",
        "loss": "huber",
        "huber_delta": 0.5,
    },
}


def examples(model: Model, count: int, seed: int = 0) -> Dataset:
    """Examples that can be learnt: targets follow from the features, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, model.inputs))
    values = np.tanh(x @ rng.standard_normal((model.inputs, model.outputs))) * 2
    values += 0.3 * rng.standard_normal(values.shape)
    y: NDArray[Any] = values.argmax(axis=1) if model.task == "classification" else values
    return Dataset.for_model(model, x, y)


def model_and_data(name: str, count: int = 40) -> tuple[Model, NDArray[np.float32], Dataset]:
    """A model, parameters that are not special, and examples."""
    model = build(SPECS[name])
    start = model.init(np.random.default_rng(1)) * np.float32(0.8)
    start += np.random.default_rng(2).standard_normal(len(start), dtype=np.float32) * np.float32(0.2)
    return model, start, examples(model, count)


def normalised(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities that sum to one in float64: scikit-learn warns about float32's last digit."""
    exact = probabilities.astype(np.float64)
    normal: NDArray[np.float64] = exact / exact.sum(axis=1, keepdims=True)
    return normal
