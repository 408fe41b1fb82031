"""Who takes the steps of a local training: parameters, and what changes them by one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.optimizers import Adam, Optimizer, Sgd
from models.workspace import Workspace

if TYPE_CHECKING:
    from models.network import Model
    from models.parameters import FloatArray
    from models.plan import TrainingPlan


class Stepper(Protocol):
    """Parameters of its own, and how a batch changes them: one thread's alone."""

    leave: Callable[[], bool] | None
    """Asked within a step, where that can be left; it raises ``StepLeftError`` then, with the parameters as before."""

    @property
    def parameters(self) -> FloatArray:
        """Where it stands; not to be changed."""

    @property
    def state(self) -> Mapping[str, FloatArray]:
        """What it needs to go on beside the parameters: vectors by name, as they are."""

    def step(self, x: FloatArray, y: NDArray[Any], rng: np.random.Generator, frozen: tuple[slice, ...]) -> float:
        """Take one step on a batch, with the parameters in ``frozen`` as they are; return the loss before it."""

    def restore(self, parameters: FloatArray, state: Mapping[str, FloatArray], steps: int) -> None:
        """Stand where another one stood, so many steps after its beginning or ``begin_anew``."""

    def begin_anew(self) -> None:
        """Forget everything but the parameters."""


class NetworkStepper:
    """Steps by the gradient of a network, as a plan says."""

    def __init__(self, model: Model, start: FloatArray, plan: TrainingPlan) -> None:
        """Begin from a copy of ``start``. The buffers are made once: no step allocates but views."""
        self._plan = plan
        self._start = start
        self.parameters = start.copy()
        self._workspace = Workspace(model, self.parameters, plan.class_weights)
        self._optimizer = _optimizer(plan, self.parameters)
        self._drift = np.empty_like(start) if plan.proximal else None

    @property
    def leave(self) -> Callable[[], bool] | None:
        """Asked between the layers of a step."""
        return self._workspace.leave

    @leave.setter
    def leave(self, ask: Callable[[], bool] | None) -> None:
        self._workspace.leave = ask

    @property
    def state(self) -> Mapping[str, FloatArray]:
        """The optimizer's vectors."""
        return self._optimizer.state

    def step(self, x: FloatArray, y: NDArray[Any], rng: np.random.Generator, frozen: tuple[slice, ...]) -> float:
        """See ``Stepper``. What chance a step takes part in (dropout) comes from ``rng``."""
        loss = self._workspace.loss_and_gradient(x, y, rng)
        gradient = self._workspace.gradient
        if self._drift is not None:
            np.subtract(self.parameters, self._start, out=self._drift)
            np.multiply(self._drift, np.float32(self._plan.proximal), out=self._drift)
            np.add(gradient, self._drift, out=gradient)
        for place in frozen:
            gradient[place] = 0.0
        if self._plan.clip_norm:
            _clip(gradient, self._plan.clip_norm)
        self._optimizer.step(gradient)
        return loss

    def restore(self, parameters: FloatArray, state: Mapping[str, FloatArray], steps: int) -> None:
        """See ``Stepper``."""
        self.parameters[:] = parameters
        self._optimizer.restore(state, steps)

    def begin_anew(self) -> None:
        """Begin with a new optimizer: what the old one remembers would go on moving what is to stay."""
        self._optimizer = _optimizer(self._plan, self.parameters)


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
