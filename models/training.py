"""Local training: epochs of shuffled batches over one device's data, as a plan says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np

from models.data import Dataset
from models.errors import DataError, PlanError
from models.fields import Fields
from models.network import Model, Workspace
from models.optimizers import Adam, Optimizer, Sgd
from models.parameters import FloatArray

MAX_EPOCHS = 10_000
MAX_BATCH = 2**16
MAX_STEPS = 2**31
MAX_RATE = 1e3
MAX_PROXIMAL = 1e3
MAX_CLIP_NORM = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How a device trains, as the manifest says. Make one with ``from_data``, which checks it."""

    epochs: int = 1
    batch_size: int = 32
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    """Of ``sgd``; ``adam`` has its own."""
    proximal: float = 0.0
    """FedProx (Li et al. 2020): adds ``proximal / 2 * ||w - w_start|| ** 2`` to the loss, biases included."""
    max_steps: int = 0
    """Stop after so many steps; 0 = no limit."""
    clip_norm: float = 0.0
    """Scale the whole gradient, penalties included, down to this Euclidean norm; 0 = never."""

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> TrainingPlan:
        """Return the checked plan, or raise ``PlanError``; every key has a default."""
        fields = Fields(data, "training", PlanError)
        plan = cls(
            epochs=fields.integer("epochs", 1, MAX_EPOCHS, 1),
            batch_size=fields.integer("batch_size", 1, MAX_BATCH, 32),
            optimizer=cast("Literal['sgd', 'adam']", fields.choice("optimizer", ("sgd", "adam"), "sgd")),
            learning_rate=fields.number("learning_rate", 0.0, MAX_RATE, 0.1, above=True),
            momentum=fields.number("momentum", 0.0, 0.9999, 0.0),
            proximal=fields.number("proximal", 0.0, MAX_PROXIMAL, 0.0),
            max_steps=fields.integer("max_steps", 0, MAX_STEPS, 0),
            clip_norm=fields.number("clip_norm", 0.0, MAX_CLIP_NORM, 0.0),
        )
        fields.finish()
        if plan.optimizer == "adam" and plan.momentum:
            raise fields.wrong("momentum", plan.momentum, "0 with optimizer 'adam'")
        return plan

    def to_data(self) -> dict[str, Any]:
        """Return the plan as data, complete; ``from_data`` gives the same plan again."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingResult:
    """What came of a local training."""

    parameters: FloatArray
    """A new vector. It may hold NaN or infinity when the training diverged."""
    num_steps: int
    num_examples: int
    """Examples of the data set, each counted once however often it was seen: the weight in an average."""
    loss: float
    """Mean over the examples of the last epoch, each before its step and without penalties; NaN without a step."""
    finished: bool
    """Whether the plan was carried out; False when ``should_stop`` ended it."""


def never() -> bool:
    """Return False: train to the end."""
    return False


def local_train(  # noqa: PLR0917 - read as a sentence: train this, from here, on that
    model: Model,
    parameters: FloatArray,
    data: Dataset,
    plan: TrainingPlan,
    rng: np.random.Generator,
    should_stop: Callable[[], bool] = never,
) -> TrainingResult:
    """Train a copy of ``parameters`` on ``data``, which is shuffled with ``rng`` for every epoch.

    ``should_stop`` is asked before every step. The same arguments and state of ``rng`` give the same bits (on one
    machine and BLAS). Raises ``DataError`` when there are no examples. Divergence raises nothing: it is in the result.
    """
    if not len(data):
        raise DataError("no examples to train on")
    run = _Run(model, parameters, data, plan)
    with np.errstate(all="ignore"):
        finished = run.carry_out(rng, should_stop)
    return TrainingResult(
        parameters=run.parameters,
        num_steps=run.num_steps,
        num_examples=len(data),
        loss=run.loss_sum / run.seen if run.seen else math.nan,
        finished=finished,
    )


class _Run:
    """The buffers and counts of one training. Nothing is allocated in a step but the views that slicing makes."""

    def __init__(self, model: Model, parameters: FloatArray, data: Dataset, plan: TrainingPlan) -> None:
        model.layout.check(parameters)
        self._plan = plan
        self._data = data
        self._start = parameters
        self.parameters = parameters.copy()
        self._workspace = Workspace(model, self.parameters)
        self._optimizer = _optimizer(plan, self.parameters)
        self._drift = np.empty_like(parameters) if plan.proximal else None
        rows = min(plan.batch_size, len(data))
        self._x = np.empty((rows, *data.x.shape[1:]), np.float32)
        self._y = np.empty((rows, *data.y.shape[1:]), data.y.dtype)
        self.num_steps = 0
        self.seen = 0
        self.loss_sum = 0.0

    def carry_out(self, rng: np.random.Generator, should_stop: Callable[[], bool]) -> bool:
        """Train; return whether the plan came to its end."""
        size = len(self._x)
        for _ in range(self._plan.epochs):
            order = rng.permutation(len(self._data))
            fresh = True
            for first in range(0, len(order), size):
                if self._plan.max_steps and self.num_steps >= self._plan.max_steps:
                    return True
                if should_stop():
                    return False
                if fresh:  # only now, so that an epoch without a step leaves the figures of the one before
                    self.seen, self.loss_sum, fresh = 0, 0.0, False
                self._step(order[first : first + size])
        return True

    def _step(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        count = len(rows)
        full = count == len(self._x)
        x = self._x if full else self._x[:count]
        y = self._y if full else self._y[:count]
        # "clip" spares a buffered copy; a permutation is in range.
        self._data.x.take(rows, axis=0, out=x, mode="clip")
        self._data.y.take(rows, axis=0, out=y, mode="clip")
        loss = self._workspace.loss_and_gradient(x, y)
        gradient = self._workspace.gradient
        if self._drift is not None:
            np.subtract(self.parameters, self._start, out=self._drift)
            np.multiply(self._drift, np.float32(self._plan.proximal), out=self._drift)
            np.add(gradient, self._drift, out=gradient)
        if self._plan.clip_norm:
            _clip(gradient, self._plan.clip_norm)
        self._optimizer.step(gradient)
        self.num_steps += 1
        self.seen += count
        self.loss_sum += loss * count


def _optimizer(plan: TrainingPlan, parameters: FloatArray) -> Optimizer:
    if plan.optimizer == "adam":
        return Adam(parameters, plan.learning_rate)
    return Sgd(parameters, plan.learning_rate, plan.momentum)


def _clip(gradient: FloatArray, limit: float) -> None:
    length = math.sqrt(float(np.dot(gradient, gradient)))
    if math.isinf(length):  # squares leave float32's range long before their roots do
        length = float(np.linalg.norm(gradient.astype(np.float64)))
    if length > limit:
        np.multiply(gradient, np.float32(limit / length), out=gradient)
