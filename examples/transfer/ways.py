"""What is compared: a head on a frozen backbone, and what one would do without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from windows import CHANNELS, EXERCISES, PEOPLE, Windows, windows

from fedmq.demo_data import FEATURES, WINDOW
from models import Dataset, TrainingPlan, build, local_train
from models.tflite.truncating import truncated

BACKBONE = "backbone.tflite"
EMBEDDING = 64


@dataclass(frozen=True)
class Way:
    """Something to federate: what a device's samples are, what learns on them, and behind which file."""

    name: str
    model: dict[str, Any]
    samples: Callable[[Windows], NDArray[np.float32]]
    learning_rate: float
    """Among the best of three that were tried for this way, with four seeds each: nobody starts with a handicap."""
    backbone: Path | None = None


def network(outputs: int) -> dict[str, Any]:
    """Return the small CNN: three convolutions over time, and one layer that names the exercise."""
    layers: list[dict[str, Any]] = []
    for filters in (16, 32, EMBEDDING):
        layers.append({"kind": "conv1d", "filters": filters, "kernel": 5, "activation": "relu"})
        layers.append({"kind": "max_pool", "size": 2} if filters < EMBEDDING else {"kind": "global_average_pool"})
    layers.append({"kind": "dense", "outputs": outputs})
    return {"kind": "network", "task": "classification", "input_shape": [WINDOW, CHANNELS], "layers": layers}


def head(inputs: int, outputs: int) -> dict[str, Any]:
    """Return what is learned on embeddings, or on plain features."""
    return {"kind": "softmax", "inputs": inputs, "outputs": outputs}


def make_backbone(path: Path, known: list[int], epochs: int, rng: np.random.Generator) -> Path:
    """Train the CNN on the known exercises, for so many epochs, and write it without its last layer."""
    found, model = windows(PEOPLE, known), build(network(len(known)))
    parameters = model.init(rng)
    if epochs:
        plan = TrainingPlan.from_data({"epochs": epochs, "batch_size": 32, "learning_rate": 0.05})
        data = Dataset.for_model(model, found.raw, found.y)
        parameters = local_train(model, parameters, data, plan, rng).parameters
    path.write_bytes(truncated(model, parameters))
    return path


def ways(folder: Path, known: list[int], seed: int, *, more: bool) -> list[Way]:
    """Return what is compared: the three that matter, and with ``more`` two that tell why."""
    rng, new = np.random.default_rng([seed, 0]), EXERCISES - len(known)
    trained = make_backbone(folder / BACKBONE, known, 20, rng)
    found = [
        Way("head on the backbone", head(EMBEDDING, new), raw, 0.1, trained),
        Way("same head on raw windows", head(WINDOW * CHANNELS, new), raw, 0.1),
        Way("the CNN from nothing", network(new), raw, 0.1),
    ]
    if more:
        untrained = make_backbone(folder / "untrained.tflite", known, 0, rng)
        found.append(Way("head, untrained backbone", head(EMBEDDING, new), raw, 1.0, untrained))
        found.append(Way("head on made features", head(FEATURES, new), made, 0.5))
    return found


def raw(found: Windows) -> NDArray[np.float32]:
    """Return windows as they were measured."""
    return found.raw


def made(found: Windows) -> NDArray[np.float32]:
    """Return the features that people thought of for the demo."""
    return found.made
