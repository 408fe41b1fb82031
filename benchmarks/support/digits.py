"""scikit-learn's digits, split over devices as federated learning's papers do it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

SPEC = {"kind": "mlp", "inputs": 64, "hidden": [32], "outputs": 10, "task": "classification"}
PLAN = {"epochs": 1, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.1}


@dataclass(frozen=True, slots=True)
class Part:
    """Examples: x float32 (n, 64) from 0 to 1, y int64 (n,) from 0 to 9."""

    x: Floats
    y: Labels

    def __len__(self) -> int:
        return len(self.y)


def train_and_test(seed: int = 0) -> tuple[Part, Part]:
    """Return a random 80/20 split."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    whole = Part((x[order] / 16.0).astype(np.float32), y[order].astype(np.int64))
    cut = int(0.8 * len(y))
    return Part(whole.x[:cut], whole.y[:cut]), Part(whole.x[cut:], whole.y[cut:])


def dirichlet_parts(part: Part, devices: int = 10, alpha: float = 0.3, seed: int = 0) -> list[Part]:
    """Return the part cut up over the devices, label by label in Dirichlet(alpha) shares.

    As in Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution" (2019); drawn again until
    every device has at least two batches of 16.
    """
    rng = np.random.default_rng(seed)
    while True:
        owner = np.empty(len(part), dtype=np.int64)
        for label in range(10):
            of_label = rng.permutation(np.flatnonzero(part.y == label))
            cuts = (np.cumsum(rng.dirichlet([alpha] * devices))[:-1] * len(of_label)).astype(int)
            for device, indices in enumerate(np.split(of_label, cuts)):
                owner[indices] = device
        sizes = np.bincount(owner, minlength=devices)
        if sizes.min() >= 32:
            return [Part(part.x[owner == device], part.y[owner == device]) for device in range(devices)]
