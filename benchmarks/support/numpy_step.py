"""Prints the median microseconds of one of fedmq's training steps, and the process's peak in MB: NAME BATCH STEPS."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from typing import Any

import numpy as np

from models import Dataset, TrainingPlan, build, local_train

_BLOCKS = 20

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp 64-32-10": {"kind": "mlp", "inputs": 64, "hidden": [32], "outputs": 10},
    "mlp 561-200-6": {"kind": "mlp", "inputs": 561, "hidden": [200], "outputs": 6},
    "image_cnn": {"kind": "image_cnn", "outputs": 10},
    "image_cnn of McMahan et al.": {
        "kind": "image_cnn",
        "outputs": 10,
        "filters": [32, 64],
        "kernel": 5,
        "hidden": [512],
    },
    "series_cnn": {"kind": "series_cnn", "input_shape": [128, 9], "outputs": 6},
    "gru": {"kind": "gru", "input_shape": [128, 9], "outputs": 6},
}


def main(name: str, batch: int, steps: int) -> None:
    """Train as a device does: shuffled batches, gradient, SGD."""
    rng = np.random.default_rng(0)
    model = build(NETWORKS[name])
    x = rng.standard_normal((32 * batch, model.inputs), dtype=np.float32)
    data = Dataset.for_model(model, x, rng.integers(0, model.outputs, len(x)))
    per_block = max(1, steps // _BLOCKS)
    plan = TrainingPlan.from_data(
        {"epochs": 1000, "batch_size": batch, "optimizer": "sgd", "learning_rate": 0.01, "max_steps": per_block}
    )
    parameters = local_train(model, model.init(rng), data, plan, rng).parameters
    blocks = []
    for _ in range(_BLOCKS):
        started = time.perf_counter()
        parameters = local_train(model, parameters, data, plan, rng).parameters
        blocks.append((time.perf_counter() - started) / per_block)
    print(1e6 * statistics.median(blocks), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
