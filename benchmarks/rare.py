"""What class weights bring in a federation where some classes are rare: recall of those, and what it costs the others.

Twenty devices share the digits, dealt out at random, but of two classes (8 and 9) only one training example in twenty
is there: 7 of each among 1,170, so that most devices have none. Measured on a test set in which all classes are as
frequent as ever. Counts are added up and weights made as the aggregator does it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.buffer import WeightedSum
from benchmarks.support.digits import train_and_test
from benchmarks.support.report import Options, Row, progress, run
from models import Dataset, Model, TrainingPlan, build, local_train
from models.answering import no_statistics, statistics_of
from models.weighting import class_weights

DEVICES = 20
VERSIONS = 60
RARE = (8, 9)
KEPT = 20
"""One in so many examples of a rare class is there."""
MLP: dict[str, Any] = {"kind": "mlp", "inputs": 64, "hidden": [64, 32], "outputs": 10}
PLAN = {"epochs": 2, "batch_size": 16, "learning_rate": 0.1}

WAYS: dict[str, dict[str, Any]] = {
    "no weights": {"method": "none"},
    "balanced, at most 10 times": {"method": "balanced"},
    "balanced, at most 100 times": {"method": "balanced", "most": 100.0},
    "effective, beta 0.99": {"method": "effective", "beta": 0.99},
}


def fleet(model: Model, seed: int) -> tuple[list[Dataset], Dataset]:
    """Return the devices' examples, and the test set."""
    rng = np.random.default_rng(seed)
    train, test = train_and_test(seed)
    rows = [rng.permutation(np.flatnonzero(train.y == label)) for label in range(10)]
    rows = [each[: len(each) // KEPT] if label in RARE else each for label, each in enumerate(rows)]
    dealt = np.array_split(rng.permutation(np.concatenate(rows)), DEVICES)
    devices = [Dataset.for_model(model, train.x[part], train.y[part]) for part in dealt]
    return devices, Dataset.for_model(model, test.x, test.y)


def trained(model: Model, devices: list[Dataset], way: dict[str, Any], seed: int) -> NDArray[np.float32]:
    """Return the last version."""
    total = no_statistics(model)
    for device in devices:
        total += statistics_of(model, device)
    weights = class_weights(total.classes.tolist(), **way)
    plan = TrainingPlan.from_data(PLAN | {"class_weights": weights})
    version = model.init(np.random.default_rng(seed))
    for number in range(VERSIONS):
        buffer = WeightedSum(model.layout.size)
        for place, device in enumerate(devices):
            result = local_train(model, version, device, plan, np.random.default_rng([seed, number, place]))
            buffer.fold(result.parameters - version, len(device))
        version = (version + buffer.mean()).astype(np.float32)
    return version


def figures(model: Model, version: NDArray[np.float32], test: Dataset) -> tuple[float, float, float, float]:
    """Return accuracy, recall and precision of the rare classes, and recall of the others."""
    found, rare = model.predict(version, test.x).argmax(axis=1), np.isin(test.y, RARE)
    right = found == test.y
    said = np.isin(found, RARE)
    precision = float(right[said].mean()) if said.any() else float("nan")
    return float(right.mean()), float(right[rare].mean()), precision, float(right[~rare].mean())


def measure(options: Options) -> list[Row]:
    """Measure every way with the same federations."""
    model, rows = build(MLP), []
    names = ("accuracy", "recall of rare classes", "precision of rare classes", "recall of the others")
    for name, way in WAYS.items():
        progress(name)
        runs = []
        for seed in range(options.repeat):
            devices, test = fleet(model, seed)
            runs.append(figures(model, trained(model, devices, way, seed), test))
        for place, what in enumerate(names):
            values = sorted(each[place] for each in runs)
            rows.append(
                Row(
                    what=f"{name}: {what}",
                    value=float(np.mean(values)),
                    unit="share",
                    spread=f"{values[0]:.3f}..{values[-1]:.3f}",
                )
            )
    return rows


if __name__ == "__main__":
    run("rare", "What class weights bring where classes are rare", measure, repeat=5)
