"""Networks with every kind of layer, small."""

from __future__ import annotations

from typing import Any

import numpy as np

from models import Model, build
from models.parameters import FloatArray

NETWORKS: dict[str, dict[str, Any]] = {
    "series": {
        "input_shape": [32, 3],
        "layers": [
            {"kind": "standardize"},
            {"kind": "conv1d", "filters": 8, "kernel": 5, "activation": "relu"},
            {"kind": "max_pool", "size": 2},
            {"kind": "conv1d", "filters": 6, "kernel": 4, "stride": 2, "activation": "tanh", "padding": "valid"},
            {"kind": "group_norm", "groups": 3, "activation": "relu"},
            {"kind": "average_pool", "size": 2},
            {"kind": "dropout", "rate": 0.3},
            {"kind": "flatten"},
            {"kind": "dense", "outputs": 4},
        ],
    },
    "images": {
        "input_shape": [13, 11, 3],
        "layers": [
            {"kind": "conv2d", "filters": 8, "kernel": 3, "stride": 2},
            {"kind": "group_norm", "groups": 1, "activation": "tanh"},
            {
                "kind": "residual",
                "layers": [
                    {"kind": "conv2d", "filters": 8, "kernel": [3, 2], "activation": "relu"},
                    {"kind": "conv2d", "filters": 8, "kernel": 4},
                ],
                "activation": "relu",
            },
            {"kind": "max_pool", "size": [2, 1]},
            {"kind": "global_average_pool"},
            {"kind": "dense", "outputs": 4},
        ],
    },
    "recurrent": {
        "input_shape": [12, 3],
        "layers": [
            {"kind": "gru", "units": 6, "sequence": True},
            {"kind": "gru", "units": 5},
            {"kind": "dense", "outputs": 2},
        ],
        "task": "regression",
    },
    "one-step": {
        "input_shape": [1, 3],
        "layers": [{"kind": "gru", "units": 5, "sequence": True}, {"kind": "flatten"}, {"kind": "dense", "outputs": 3}],
    },
    "residual-tanh": {
        "input_shape": [6],
        "layers": [
            {
                "kind": "residual",
                "layers": [{"kind": "dense", "outputs": 6, "activation": "relu"}],
                "activation": "tanh",
            },
            {"kind": "dense", "outputs": 3},
        ],
    },
}
SHORT: dict[str, dict[str, Any]] = {
    "autoencoder": {"kind": "autoencoder", "inputs": 12, "hidden": [6, 3, 6], "standardize": True},
    "series-cnn": {"kind": "series_cnn", "input_shape": [32, 3], "outputs": 3, "filters": [6, 8], "kernel": 3},
    "image-cnn": {"kind": "image_cnn", "input_shape": [14, 14, 1], "outputs": 5, "filters": [4, 6], "kernel": 5},
}
SPECS = {name: {"kind": "network", **spec} for name, spec in NETWORKS.items()} | SHORT


def network_and_data(name: str, rows: int = 70) -> tuple[Model, FloatArray, FloatArray]:
    """A network, parameters that are not special, and examples."""
    model, rng = build(SPECS[name]), np.random.default_rng(0)
    parameters = model.init(rng)
    parameters += rng.standard_normal(len(parameters), dtype=np.float32) * np.float32(0.05)
    return model, parameters, rng.standard_normal((rows, model.inputs), dtype=np.float32)
