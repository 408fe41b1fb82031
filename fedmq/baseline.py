"""What the federation is compared with: each device alone on its own data, and all data in one place. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models import Dataset, TrainingPlan, build, local_train
from models.answering import standardize_of
from models.statistics import FeatureStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmq.demo_data import Samples
    from fedmq.demo_task import Dealt, Task
    from models import Model
    from models.parameters import FloatArray

ALONE_EPOCHS = 30
"""After some twenty, more training changes a lone device's accuracy on others by less than half a point."""
CENTRAL_EPOCHS = 15
"""The whole data are seven times as many steps an epoch; it has levelled off as well."""
USUAL_SHARE = 0.99
"""Of what is usual on a device, so much is to pass: the median device's threshold, as in ``aftermath``."""
HELD_OUT = 0.2
"""Of the usual examples, to set the threshold by."""


@dataclass(frozen=True, slots=True)
class Score:
    """How good a model is, from 0 to 1."""

    right: float
    """Accuracy; or the share of what is unusual that was found."""
    false: float | None = None
    """Share of what is usual that raised an alarm; None where there are none to raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Scores on examples that no device has."""

    alone: tuple[Score, ...]
    """Of each device that trains with nothing but its own data, in the fleet's order."""
    central: Score
    """Of one model trained on everybody's data in one place, which is what federated learning does without."""

    @property
    def alone_mean(self) -> Score:
        """The mean device alone."""
        false = [score.false for score in self.alone if score.false is not None]
        return Score(float(np.mean([score.right for score in self.alone])), float(np.mean(false)) if false else None)


def measure(task: Task, dealt: Dealt, seed: int = 0) -> Baseline:
    """Train the task's model, by its training plan but until it levels off, without any federation.

    The lone devices get all of their data, also what they hold out in the federation: no unfair advantage for us.
    """
    alone = tuple(_score(task, [samples], dealt, ALONE_EPOCHS, seed) for samples in dealt.fleet)
    return Baseline(alone=alone, central=_score(task, dealt.fleet, dealt, CENTRAL_EPOCHS, seed))


def judge(model: Model, parameters: FloatArray, dealt: Dealt, threshold: float | None = None) -> Score:
    """Return how good the model is on what nobody has; unusual is what has an error above the threshold."""
    if dealt.odd is None or threshold is None:
        data = Dataset.for_model(model, dealt.unseen.x, dealt.unseen.y)
        return Score(model.evaluate(parameters, data).summary()["accuracy"])
    found, false = (
        float((model.errors(parameters, samples.x) > threshold).mean()) for samples in (dealt.odd, dealt.unseen)
    )
    return Score(found, false)


def _score(task: Task, fleet: Sequence[Samples], dealt: Dealt, epochs: int, seed: int) -> Score:
    model = build(task.model)
    rng = np.random.default_rng(seed)
    plan = TrainingPlan.from_data({**task.training, "epochs": epochs})
    if task.labelled:
        x = np.concatenate([samples.x for samples in fleet])
        y = np.concatenate([samples.y for samples in fleet])
        result = local_train(model, model.init(rng), Dataset.for_model(model, x, y), plan, rng)
        return judge(model, result.parameters, dealt)
    held_out = [rng.random(len(samples.x)) < HELD_OUT for samples in fleet]
    x = np.concatenate([samples.x[~out] for samples, out in zip(fleet, held_out, strict=True)])
    begun = _scaled(model, model.init(rng), x) if task.statistics else model.init(rng)
    trained = local_train(model, begun, Dataset.for_model(model, x), plan, rng).parameters
    errors = [model.errors(trained, samples.x[out]) for samples, out in zip(fleet, held_out, strict=True)]
    return judge(model, trained, dealt, float(np.median([np.quantile(found, USUAL_SHARE) for found in errors])))


def _scaled(model: Model, parameters: FloatArray, x: FloatArray) -> FloatArray:
    """Return the parameters with the constants that these examples give, as a federation makes them of statistics."""
    constants = standardize_of(model)
    if constants is None:
        raise ValueError("the model has no constants")
    statistics = FeatureStatistics.of(x)
    found = parameters.copy()
    views = model.layout.views(found)
    views[f"{constants.name}.mean"][...] = statistics.mean
    views[f"{constants.name}.scale"][...] = 1.0 / statistics.scale()
    return found
