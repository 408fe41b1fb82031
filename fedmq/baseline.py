"""What the federation is compared with: each device alone on its own data, and all data in one place. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedmq.demo_plan import MODEL, TRAINING
from models import Dataset, TrainingPlan, build, local_train

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmq.demo_data import Samples

ALONE_EPOCHS = 30
"""After some twenty, more training changes a lone device's accuracy on others by less than half a point."""
CENTRAL_EPOCHS = 15
"""The whole data are seven times as many steps an epoch; it has levelled off as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Accuracies from 0 to 1 on people that no device has data of."""

    alone: tuple[float, ...]
    """Of each device that trains with nothing but its own data, in the fleet's order."""
    central: float
    """Of one model trained on everybody's data in one place, which is what federated learning does without."""

    @property
    def alone_mean(self) -> float:
        """The mean device alone."""
        return float(np.mean(self.alone))


def measure(fleet: Sequence[Samples], unseen: Samples, seed: int = 0) -> Baseline:
    """Train the demo's model, with the demo's training plan but until it levels off, without any federation.

    The lone devices get all of their data, also what they hold out in the federation: no unfair advantage for us.
    """
    alone = tuple(_accuracy([samples], unseen, ALONE_EPOCHS, seed) for samples in fleet)
    return Baseline(alone=alone, central=_accuracy(fleet, unseen, CENTRAL_EPOCHS, seed))


def _accuracy(fleet: Sequence[Samples], unseen: Samples, epochs: int, seed: int) -> float:
    model = build(MODEL)
    rng = np.random.default_rng(seed)
    x = np.concatenate([samples.x for samples in fleet])
    y = np.concatenate([samples.y for samples in fleet])
    plan = TrainingPlan.from_data({**TRAINING, "epochs": epochs})
    result = local_train(model, model.init(rng), Dataset.for_model(model, x, y), plan, rng)
    return model.evaluate(result.parameters, Dataset.for_model(model, unseen.x, unseen.y)).summary()["accuracy"]
