"""What private parameters bring, on each device's own held-out digits: one model for all, own parts, or no federation.

Twenty devices, 100 versions with all of them; on average 54 digits to train on and 18 held out. They differ in

- classes: each has three of the ten classes, as in McMahan et al. 2017 and Collins et al. 2021;
- meanings: each numbers the ten classes in an order of its own;
- sensors: each has its own gain, half of them negative, and its own offset for every pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aggregator.buffer import WeightedSum
from benchmarks.support.digits import Floats, Labels, train_and_test
from benchmarks.support.report import Options, Row, progress, run
from models import Dataset, Model, Personal, Split, Training, TrainingPlan, build

DEVICES = 20
VERSIONS = 100
MLP: dict[str, Any] = {"kind": "mlp", "inputs": 64, "hidden": [64, 32], "outputs": 10}
NETWORK: dict[str, Any] = {
    "kind": "network",
    "input_shape": [8, 8, 1],
    "task": "classification",
    "layers": [
        {"kind": "conv2d", "name": "conv1", "filters": 16, "kernel": 3},
        {"kind": "group_norm", "name": "norm1", "groups": 4, "activation": "relu"},
        {"kind": "max_pool", "size": 2},
        {"kind": "conv2d", "name": "conv2", "filters": 16, "kernel": 3},
        {"kind": "group_norm", "name": "norm2", "groups": 4, "activation": "relu"},
        {"kind": "flatten"},
        {"kind": "dense", "name": "head", "outputs": 10},
    ],
}
PLAN = {"epochs": 2, "batch_size": 16, "learning_rate": 0.1}


@dataclass(frozen=True, slots=True)
class Device:
    """What one device has."""

    train: Dataset
    holdout: Dataset


def devices(differing: str, model: Model, seed: int) -> list[Device]:
    """Return all devices; a quarter of each one's digits is held out."""
    rng = np.random.default_rng(seed)
    whole, _ = train_and_test(seed)
    alike = np.array_split(rng.permutation(len(whole)), DEVICES)
    parts = _by_class(whole.y, rng) if differing == "classes" else alike
    found = []
    for rows in parts:
        x, y = _changed(differing, whole.x[rows], whole.y[rows], rng)
        cut = len(rows) // 4
        found.append(Device(Dataset.for_model(model, x[cut:], y[cut:]), Dataset.for_model(model, x[:cut], y[:cut])))
    return found


def _by_class(y: Labels, rng: np.random.Generator) -> list[Any]:
    """Deal out shards of one class each, three to a device."""
    shards = [shard for label in range(10) for shard in np.array_split(rng.permutation(np.flatnonzero(y == label)), 6)]
    order = rng.permutation(len(shards)).reshape(DEVICES, 3)
    return [rng.permutation(np.concatenate([shards[number] for number in own])) for own in order]


def _changed(differing: str, x: Floats, y: Labels, rng: np.random.Generator) -> tuple[Floats, Labels]:
    if differing == "meanings":
        return x, rng.permutation(10)[y]
    if differing == "sensors":
        gain, offset = rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 2.0), rng.normal(0.0, 0.5, 64)
        return (x * gain + offset).astype(np.float32), y
    return x, y


def federated(model: Model, fleet: list[Device], personal: Personal, seed: int) -> list[float]:
    """Return each device's accuracy on its holdout, by the last version with the device's own parameters in it."""
    split, plan = personal.split(model), personal.plan_of(TrainingPlan.from_data(PLAN))
    version = model.init(np.random.default_rng(seed))
    own = [split.private_of(version) for _ in fleet]
    for number in range(VERSIONS):
        total = WeightedSum(split.shared.size)
        for place, device in enumerate(fleet):
            start = split.overlaid(version, own[place])
            result = _trained(model, start, device, plan, personal, split, [seed, number, place])
            total.fold(split.shared_of(result - start), len(device.train))
            own[place] = split.private_of(result)
        version = (version + split.spread(total.mean())).astype(np.float32)
    return [_accuracy(model, split.overlaid(version, mine), device) for mine, device in zip(own, fleet, strict=True)]


def alone(model: Model, fleet: list[Device], seed: int) -> list[float]:
    """Return each device's accuracy with a model of nothing but its own data, trained as often."""
    begun, plan = model.init(np.random.default_rng(seed)), TrainingPlan.from_data(PLAN | {"epochs": 2 * VERSIONS})
    found = []
    for place, device in enumerate(fleet):
        training = Training(model, begun, device.train, plan, np.random.default_rng([seed, place]))
        training.run()
        found.append(_accuracy(model, training.parameters, device))
    return found


def _trained(  # noqa: PLR0917 - all that a training is made of
    model: Model, start: Floats, device: Device, plan: TrainingPlan, personal: Personal, split: Split, seed: list[int]
) -> Floats:
    training = Training(model, start, device.train, plan, np.random.default_rng(seed), personal.turns_of(split))
    training.run()
    return training.parameters


def _accuracy(model: Model, parameters: Floats, device: Device) -> float:
    return float(model.evaluate(parameters, device.holdout).summary()["accuracy"])


CASES: dict[str, dict[str, dict[str, Any]]] = {
    "classes": {
        "own head": {"private": ["dense2.*"]},
        "own head first": {"private": ["dense2.*"], "private_epochs": 2},
    },
    "meanings": {"own head": {"private": ["dense2.*"]}},
    "sensors": {"own head": {"private": ["dense2.*"]}, "own first layer": {"private": ["dense0.*"]}},
}


NORMS: dict[str, dict[str, dict[str, Any]]] = {
    "sensors": {"own normalization": {"private": ["norm*.*"]}, "own head": {"private": ["head.*"]}},
    "classes": {"own normalization": {"private": ["norm*.*"]}, "own head": {"private": ["head.*"]}},
}
"""Of the network that has some: FedBN (Li et al. 2021)."""


def measure(options: Options) -> list[Row]:
    """Measure all three in every case: means over devices and seeds, and the lowest tenth of the devices."""
    return [*_measured("MLP", build(MLP), CASES, options), *_measured("CNN", build(NETWORK), NORMS, options)]


def _measured(name: str, model: Model, cases: dict[str, dict[str, dict[str, Any]]], options: Options) -> list[Row]:
    rows = []
    for differing, ways in cases.items():
        progress(f"{name}, {differing}")
        seeds = range(options.repeat)
        fleets = [devices(differing, model, seed) for seed in seeds]
        found = {
            "no federation": [alone(model, fleet, seed) for seed, fleet in zip(seeds, fleets, strict=True)],
            "one model": [federated(model, fleet, Personal(), s) for s, fleet in zip(seeds, fleets, strict=True)],
        }
        for way, data in ways.items():
            personal = Personal.from_data(data)
            found[way] = [federated(model, fleet, personal, s) for s, fleet in zip(seeds, fleets, strict=True)]
        for way, runs in found.items():
            each = np.array(runs)
            tenth, worst = np.quantile(each, 0.1, axis=1).mean(), each.min(axis=1).mean()
            rows.append(
                Row(
                    what=f"{name}, {differing}: {way}",
                    value=float(each.mean()),
                    unit="accuracy",
                    spread=f"lowest tenth {tenth:.3f}, worst {worst:.3f}",
                )
            )
    return rows


if __name__ == "__main__":
    run("personal", "Accuracy of private parameters on the devices' own digits", measure, repeat=5)
