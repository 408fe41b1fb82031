"""Frozen networks for tests: small, of our own making, and their bytes as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models import build
from models.tflite.truncating import truncated


def backbone_bytes(inputs: int = 64, outputs: int = 12, *, hidden: int = 16, seed: int = 0) -> bytes:
    """Return a network of random weights: ``inputs`` to ``outputs`` values, all of them positive or 0."""
    spec = {"kind": "mlp", "inputs": inputs, "hidden": [hidden, outputs], "outputs": 2, "task": "classification"}
    model = build(spec)
    return truncated(model, model.init(np.random.default_rng(seed)))


def write_backbone(path: Path, inputs: int = 64, outputs: int = 12, *, hidden: int = 16, seed: int = 0) -> Path:
    """Write it to a file, and return that."""
    path.write_bytes(backbone_bytes(inputs, outputs, hidden=hidden, seed=seed))
    return path
