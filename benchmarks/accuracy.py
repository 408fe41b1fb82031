"""Accuracy of asynchronous federations on real data that are not part of fedmq: MNIST, and UCI HAR person by person.

MNIST: ten devices, each class spread over them by a Dirichlet draw (0.5); the first 3,000 test digits. UCI HAR (Anguita
et al. 2013): the raw windows of 21 people, a device each; tested on the nine others, of whom no device has data. Every
person's windows are standardized by that person's own constants, as with ``standardize = "device"`` in ``[features]``;
in har-together by those of all 21 together, which the model holds.
"""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.configuration import AggregationTable
from benchmarks.support.asynchronous import Federation
from benchmarks.support.report import Options, Row, Target, progress, run, spread
from models import Dataset, Model, TrainingPlan, build
from models.answering import standardize_of
from models.parameters import FloatArray
from models.standardization import Standardization

_UNSEEN = (2, 4, 9, 10, 12, 13, 18, 20, 24)
_LAST = 5
"""Versions whose mean is reported: one version's accuracy may be luck."""
_SLOWEST = 8.0
"""So many times slower than the fastest device is the slowest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model, how it is trained, and what it has to reach."""

    file: str
    model: dict[str, Any]
    training: dict[str, Any]
    goal: int
    versions: int
    target: float


def _har(more: dict[str, Any]) -> Task:
    return Task(
        file="uci_har_inertial.npz",
        model={"kind": "series_cnn", "input_shape": [128, 9], "outputs": 6, "dropout": 0.5, **more},
        training={"epochs": 2, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.001},
        goal=14,
        versions=80,
        target=0.93,
    )


TASKS = {
    "mnist": Task(
        file="mnist.npz",
        model={"kind": "image_cnn", "outputs": 10},
        training={"epochs": 1, "batch_size": 32, "learning_rate": 0.05, "momentum": 0.9, "clip_norm": 5.0},
        goal=7,
        versions=120,
        target=0.985,
    ),
    "har": _har({}),
    "har-together": _har({"standardize": True}),
}


def mnist(path: Path, model: Model, seed: int) -> tuple[list[Dataset], Dataset]:
    """Return ten devices' digits and the test digits."""
    with np.load(path, allow_pickle=False) as file:
        x, y, x_test, y_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    rng = np.random.default_rng(seed)
    owner = np.empty(len(y), np.int64)
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(y == digit))
        bounds = np.cumsum(rng.dirichlet(np.full(10, 0.5)))[:-1] * len(rows)
        for device, part in enumerate(np.split(rows, bounds.astype(np.int64))):
            owner[part] = device
    devices = [_pixels(model, x[owner == device], y[owner == device]) for device in range(10)]
    return [device for device in devices if len(device)], _pixels(model, x_test, y_test)


def _pixels(model: Model, x: NDArray[Any], y: NDArray[Any]) -> Dataset:
    return Dataset.for_model(model, x.reshape(len(x), -1).astype(np.float32) / np.float32(255.0), y)


def har(path: Path, model: Model, _seed: int) -> tuple[list[Dataset], Dataset]:
    """Return the windows of 21 people, a device each, and those of the nine others together."""
    with np.load(path, allow_pickle=False) as file:
        x, y, subject = file["x"].astype(np.float32), file["y"], file["subject"]
    flat = x.reshape(len(x), -1)
    if standardize_of(model) is None:
        for person in np.unique(subject):
            _by_own_constants(flat, subject == person)
    seen = [person for person in np.unique(subject) if person not in _UNSEEN]
    devices = [Dataset.for_model(model, flat[subject == person], y[subject == person]) for person in seen]
    others = np.isin(subject, _UNSEEN)
    return devices, Dataset.for_model(model, flat[others], y[others])


def _by_own_constants(x: FloatArray, rows: NDArray[np.bool_]) -> None:
    own = x[rows]
    Standardization.of(own).apply(own)
    x[rows] = own


_LOADERS = {"mnist.npz": mnist, "uci_har_inertial.npz": har}


def fill_constants(model: Model, parameters: NDArray[np.float32], devices: list[Dataset]) -> None:
    """Write what the devices' sums and sums of squares say into the frozen constants, where the model has any."""
    views = model.layout.views(parameters)
    if "constants.mean" not in views:
        return
    channels = len(views["constants.mean"])
    values = np.concatenate([device.x.reshape(-1, channels) for device in devices]).astype(np.float64)
    views["constants.mean"][:] = values.mean(axis=0)
    views["constants.scale"][:] = 1.0 / values.std(axis=0)


class Curve:
    """Accuracy on the test data, every few versions and of the last ones."""

    def __init__(self, what: str, model: Model, test: Dataset, versions: int) -> None:
        self._what, self._model, self._test = what, model, test
        self._versions = versions
        self.accuracy: list[float] = []

    def look(self, version: int, parameters: NDArray[np.float32]) -> None:
        """Take a look at a version, or not."""
        if version % _LAST and version <= self._versions - _LAST:
            return
        self.accuracy.append(self._model.evaluate(parameters, self._test).summary()["accuracy"])
        progress(f"{self._what}, version {version}: {self.accuracy[-1]:.4f}")


def measure(options: Options) -> list[Row]:
    """Run one task, or all."""
    names = [options.extra.task] if options.extra.task else list(TASKS)
    return [_measure(name, options) for name in names]


def _measure(name: str, options: Options) -> Row:
    task = TASKS[name]
    model = build(task.model)
    versions = options.extra.versions or (3 if options.quick else task.versions)
    results, details = [], []
    for seed in range(options.repeat):
        devices, test = _LOADERS[task.file](Path(options.extra.data) / task.file, model, seed)
        curve = Curve(f"{name}, seed {seed}", model, test, versions)
        start = model.init(np.random.default_rng(seed))
        fill_constants(model, start, devices)
        federation = Federation(
            model=model,
            plan=TrainingPlan.from_data(task.training),
            devices=devices,
            slowness=np.geomspace(1.0, _SLOWEST, len(devices)).tolist(),
            goal=min(task.goal, len(devices)),
            aggregation=AggregationTable(),
        )
        lag = federation.run(start, versions, seed, curve.look)
        results.append(float(np.mean(curve.accuracy[-_LAST:])))
        details.append({"accuracy": curve.accuracy, "mean_staleness": lag, "devices": len(devices)})
    return Row(
        what=f"{name}: {model.spec['kind']}, {model.layout.size:,} parameters, {len(devices)} devices, "
        f"{versions} versions of {task.goal} updates, mean staleness {details[-1]['mean_staleness']:.2g}",
        value=float(np.median(results)),
        unit="accuracy",
        spread=spread(results),
        target=Target(task.target, at_least=True),
        details={"runs": details},
    )


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="the folder with mnist.npz and uci_har_inertial.npz")
    parser.add_argument("--task", choices=list(TASKS), help="one of them only")
    parser.add_argument("--versions", type=int, help="stop after so many")


if __name__ == "__main__":
    run("accuracy", "asynchronous federations on real data", measure, repeat=1, arguments=_arguments)
