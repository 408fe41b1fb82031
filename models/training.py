"""Local training: epochs of shuffled batches over one device's data, as a plan says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import Checkpoint
from models.data import Dataset
from models.errors import CheckpointError, DataError
from models.network import Model
from models.parameters import FloatArray
from models.plan import TrainingPlan
from models.workspace import StepLeftError

_Order: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingResult:
    """What came of a local training."""

    parameters: FloatArray
    """A new vector. It may hold NaN or infinity when the training diverged."""
    num_steps: int
    num_examples: int
    """Examples of the data set, each counted once however often it was seen: the weight in an average."""
    loss: float
    """Mean over the examples of the last epoch, each before its step and without penalties; NaN without a step.
    With the plan's class weights, where it has any."""
    finished: bool
    """Whether the plan was carried out; False when ``should_stop`` ended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Some parameters are trained before the others, as in FedRep (Collins et al. 2021)."""

    epochs: int
    """So many at the beginning are the first turn; the rest of the plan's is the second."""
    first: tuple[slice, ...]
    """Parameters that stay as they are in the first turn."""
    then: tuple[slice, ...]
    """Parameters that stay as they are in the second."""


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
    training = Training(model, parameters, data, plan, rng)
    finished = training.run(should_stop)
    return training.result(finished=finished)


class Training:
    """A local training that can be paused between any two steps, and gone on with: here, or from a checkpoint.

    ``run`` works until it is told to stop; ``checkpoint`` says where it stands. The buffers are made once: nothing is
    allocated in a step but the views that slicing makes. One thread's alone.
    """

    def __init__(  # noqa: PLR0917 - as of local_train
        self,
        model: Model,
        parameters: FloatArray,
        data: Dataset,
        plan: TrainingPlan,
        rng: np.random.Generator,
        turns: Turns | None = None,
    ) -> None:
        """Begin from a copy of ``parameters``; raise ``DataError`` when there are no examples.

        Raises ``PlanError`` where the model cannot be trained as the plan says (weights of other classes).

        All chance comes from ``rng``, which belongs to the training from now on. With ``turns`` the optimizer starts
        from zero in each.
        """
        if not len(data):
            raise DataError("no examples to train on")
        model.layout.check(parameters)
        self._plan = plan
        self._data = data
        self._rng = rng
        self._turns = turns
        self._frozen: tuple[slice, ...] = ()
        self._stepper = model.stepper(parameters, plan)
        rows = min(plan.batch_size, len(data))
        self._x = np.empty((rows, *data.x.shape[1:]), np.float32)
        self._y = np.empty((rows, *data.y.shape[1:]), data.y.dtype)
        self._epoch = self._position = 0
        self._order: _Order | None = None
        self._shuffle: Mapping[str, Any] = {}
        self.num_steps = self._seen = 0
        self._loss_sum = 0.0

    @property
    def parameters(self) -> FloatArray:
        """Where it stands; not to be changed."""
        return self._stepper.parameters

    def resume(self, checkpoint: Checkpoint) -> None:
        """Stand where the checkpoint was made, by a training of the same model, start, examples and plan.

        What follows has the same bits as if there had been no pause (on one machine, BLAS and version of NumPy, whose
        shuffling is repeated). Raises ``CheckpointError`` when it cannot be of such a training; then begin anew, with a
        new object.
        """
        self._check(checkpoint)
        steps = checkpoint.num_steps - self._steps_before(checkpoint.epoch)
        self._stepper.restore(checkpoint.parameters, checkpoint.optimizer, steps)
        try:
            self._rng.bit_generator.state = dict(checkpoint.shuffle)
            self._new_order()
            self._rng.bit_generator.state = dict(checkpoint.generator)
        except (ValueError, TypeError, KeyError) as exc:
            raise CheckpointError(f"the generator's state cannot be restored: {exc}"[:200]) from exc
        self._epoch, self._position = checkpoint.epoch, checkpoint.position
        self.num_steps, self._seen, self._loss_sum = checkpoint.num_steps, checkpoint.seen, checkpoint.loss_sum

    def checkpoint(self) -> Checkpoint:
        """Return where it stands, copied. Call it while ``run`` asks ``should_stop`` or after it returned False."""
        now = self._rng.bit_generator.state
        return Checkpoint(
            parameters=self.parameters.copy(),
            optimizer={name: array.copy() for name, array in self._stepper.state.items()},
            epoch=self._epoch,
            position=self._position,
            num_steps=self.num_steps,
            seen=self._seen,
            loss_sum=self._loss_sum,
            shuffle=self._shuffle if self._order is not None else now,
            generator=now,
        )

    def run(self, should_stop: Callable[[], bool] = never, leave: Callable[[], bool] | None = None) -> bool:
        """Train on; return whether the plan came to its end. ``should_stop`` is asked before every step.

        ``leave`` is asked between the layers of a step. When it says so the step is given up, as if it had not begun.
        """
        self._stepper.leave = leave
        with np.errstate(all="ignore"):
            while self._epoch < self._plan.epochs:
                self._take_turn()
                order = self._new_order() if self._order is None else self._order
                while self._position < len(order):
                    if self._plan.max_steps and self.num_steps >= self._plan.max_steps:
                        return True
                    if should_stop():
                        return False
                    if not self._take_step(order):
                        return False
                self._epoch, self._position, self._order = self._epoch + 1, 0, None
        return True

    def result(self, *, finished: bool) -> TrainingResult:
        """Return what came of it so far."""
        return TrainingResult(
            parameters=self.parameters,
            num_steps=self.num_steps,
            num_examples=len(self._data),
            loss=self._loss_sum / self._seen if self._seen else math.nan,
            finished=finished,
        )

    def _take_turn(self) -> None:
        if self._turns is None:
            return
        second = self._epoch >= self._turns.epochs
        self._frozen = self._turns.then if second else self._turns.first
        if self._epoch == self._turns.epochs and self._position == 0:
            self._stepper.begin_anew()

    def _steps_before(self, epoch: int) -> int:
        """Return how many steps there were before the turn that this epoch is in."""
        if self._turns is None or epoch < self._turns.epochs:
            return 0
        return self._turns.epochs * -(-len(self._data) // len(self._x))

    def _new_order(self) -> _Order:
        self._shuffle = self._rng.bit_generator.state
        order: _Order = self._rng.permutation(len(self._data))
        self._order = order
        return order

    def _check(self, checkpoint: Checkpoint) -> None:
        if self.num_steps or self._order is not None:
            raise CheckpointError("a training that has begun cannot take a checkpoint")
        wanted = {"parameters": self.parameters, **self._stepper.state}
        found = checkpoint.arrays
        if found.keys() != wanted.keys():
            raise CheckpointError(f"it has the vectors {sorted(found)}, the plan takes {sorted(wanted)}"[:200])
        for name, array in found.items():
            if array.shape != wanted[name].shape or array.dtype != np.float32:
                raise CheckpointError(f"{name} has shape {array.shape}, the model {wanted[name].shape}")
        rows, size = len(self._data), len(self._x)
        over = checkpoint.epoch == self._plan.epochs and checkpoint.position == 0
        inside = over or (checkpoint.epoch < self._plan.epochs and checkpoint.position <= rows + size)
        if not inside or checkpoint.num_steps > self._plan.steps(rows):
            raise CheckpointError("it is further than the plan goes")

    def _take_step(self, order: _Order) -> bool:
        """Take a step, or leave everything as before; return which."""
        before = self._rng.bit_generator.state if self._stepper.leave else {}
        rows = order[self._position : self._position + len(self._x)]
        try:
            loss = self._step(rows)
        except StepLeftError:
            self._rng.bit_generator.state = before  # a dropout may have drawn
            return False
        if self._position == 0:  # only now, so that an epoch without a step leaves the figures of the one before
            self._seen, self._loss_sum = 0, 0.0
        self.num_steps += 1
        self._seen += len(rows)
        self._loss_sum += loss * len(rows)
        self._position += len(self._x)
        return True

    def _step(self, rows: _Order) -> float:
        count = len(rows)
        full = count == len(self._x)
        x = self._x if full else self._x[:count]
        y = self._y if full else self._y[:count]
        # "clip" spares a buffered copy; a permutation is in range.
        self._data.x.take(rows, axis=0, out=x, mode="clip")
        self._data.y.take(rows, axis=0, out=y, mode="clip")
        return self._stepper.step(x, y, self._rng, self._frozen)
