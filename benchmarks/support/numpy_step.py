"""Prints the median microseconds of one of fedmq's training steps: INPUTS HIDDEN OUTPUTS BATCH STEPS."""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

from models import Dataset, TrainingPlan, build, local_train

_BLOCKS = 20


def main(inputs: int, hidden: int, outputs: int, batch: int, steps: int) -> None:
    """Train as a device does: shuffled batches, gradient, SGD."""
    rng = np.random.default_rng(0)
    model = build({"kind": "mlp", "inputs": inputs, "hidden": [hidden], "outputs": outputs, "task": "classification"})
    x = rng.standard_normal((32 * batch, inputs)).astype(np.float32)
    data = Dataset.for_model(model, x, rng.integers(0, outputs, len(x)))
    per_block = steps // _BLOCKS
    plan = TrainingPlan.from_data(
        {"epochs": 1000, "batch_size": batch, "optimizer": "sgd", "learning_rate": 0.01, "max_steps": per_block}
    )
    parameters = model.init(rng)
    blocks = []
    for _ in range(_BLOCKS):
        started = time.perf_counter()
        parameters = local_train(model, parameters, data, plan, rng).parameters
        blocks.append((time.perf_counter() - started) / per_block)
    print(1e6 * statistics.median(blocks))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
