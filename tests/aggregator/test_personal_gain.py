"""Devices that mean different things by the same labels learn a body together, each with a head of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aggregator.buffer import WeightedSum
from models import Dataset, Personal, Training, TrainingPlan, build

SPEC = {"kind": "mlp", "inputs": 8, "hidden": [16], "outputs": 4}
DEVICES, VERSIONS = 6, 30


def fleet() -> list[tuple[Dataset, Dataset]]:
    """Four clouds of points in a space of eight; every device numbers them in its own order."""
    rng = np.random.default_rng(8)
    centres = rng.normal(0.0, 2.0, (4, 8))
    found = []
    for _ in range(DEVICES):
        which = rng.integers(0, 4, 60)
        x = (centres[which] + rng.normal(size=(60, 8))).astype(np.float32)
        data = Dataset.for_model(build(SPEC), x, rng.permutation(4)[which])
        found.append((data.subset(slice(0, 40)), data.subset(slice(40, 60))))
    return found


def accuracy(personal: Personal) -> float:
    model, devices = build(SPEC), fleet()
    split = personal.split(model)
    plan = personal.plan_of(TrainingPlan(batch_size=8))
    version = model.init(np.random.default_rng(0))
    own = [split.private_of(version)] * DEVICES
    for number in range(VERSIONS):
        total = WeightedSum(split.shared.size)
        for place, (train, _) in enumerate(devices):
            start = split.overlaid(version, own[place])
            rng = np.random.default_rng([number, place])
            training = Training(model, start, train, plan, rng, personal.turns_of(split))
            training.run()
            total.fold(split.shared_of(training.parameters - start), len(train))
            own[place] = split.private_of(training.parameters)
        version = (version + split.spread(total.mean())).astype(np.float32)
    mine = [split.overlaid(version, private) for private in own]
    measured: list[Any] = [model.evaluate(p, test).summary() for p, (_, test) in zip(mine, devices, strict=True)]
    return float(np.mean([each["accuracy"] for each in measured]))


@pytest.mark.parametrize("private_epochs", [0, 1])
def test_a_private_head_serves_devices_that_one_model_cannot(private_epochs: int) -> None:
    private = accuracy(Personal.from_data({"private": ["dense1.*"], "private_epochs": private_epochs}))
    assert private > 0.9
    assert accuracy(Personal()) < 0.6
