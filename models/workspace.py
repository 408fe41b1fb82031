"""A model bound to one parameter vector, with everything that a step writes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.errors import PlanError
from models.layers import BoundLayer, Buffers, Tie, bind_all, is_standardize
from models.losses import BoundLoss, bind_loss
from models.parameters import FloatArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from models.layers import Reader, Shape
    from models.network import Model

MAX_STEP_FLOATS = 2**28
"""Values that one batch may leave behind on its way through the network: 1 GB."""


class StepLeftError(Exception):
    """A step was left between two layers: the parameters are as before, gradient and buffers are not."""


class Workspace:
    """A model bound to one parameter vector, with the gradient and all buffers of a step: one thread's alone.

    The parameters are read at every call: whoever owns the vector changes it in place. Buffers are made once for every
    batch size that occurs; in a training these are two, the full batch and the last.
    """

    def __init__(self, model: Model, parameters: FloatArray, class_weights: Sequence[float] = ()) -> None:
        """Bind; ``class_weights``, one for each class, are of the loss. Raises ``PlanError`` where there are no such.

        Those of a training: what is measured is measured without them.
        """
        self._model = model
        check_weights(model, class_weights)
        self._class_weights = np.array(class_weights, np.float32) if class_weights else None
        self._door = _Door()
        self._spec = model.network
        self._values = model.layout.views(parameters)
        self.gradient = np.zeros(model.layout.size, np.float32)
        self._gradients = model.layout.views(self.gradient)
        self._bound: dict[int, _Bound] = {}
        names = [name for layer in model.layers for name in layer.decayed] if self._spec.l2 else []
        self._decayed = [
            (self._values[name], self._gradients[name], np.empty_like(self._values[name])) for name in names
        ]
        self._l2 = np.float32(self._spec.l2)
        first = model.layers[0]
        self._constants = first if model.task == "reconstruction" and is_standardize(first) else None

    @property
    def leave(self) -> Callable[[], bool] | None:
        """Asked between the layers of ``forward`` and ``loss_and_gradient``, and within long ones.

        True: raise ``StepLeftError``.
        """
        return self._door.leave

    @leave.setter
    def leave(self, ask: Callable[[], bool] | None) -> None:
        self._door.leave = ask

    def forward(self, x: FloatArray) -> FloatArray:
        """Return scores or values for ``x``, in a buffer that the next call overwrites."""
        return self._for_rows(len(x)).forward(x)

    def wanted(self, x: FloatArray, y: NDArray[Any]) -> NDArray[Any]:
        """Return what the network should give for the examples: ``y``, standardized where the examples are."""
        if self._constants is None:
            return y
        mean, scale = (self._values[name] for name, _ in self._constants.entries)
        found: FloatArray = ((x.reshape(len(x), -1, len(mean)) - mean) * scale).reshape(x.shape)
        return found

    def data_loss(self, output: FloatArray, y: NDArray[Any]) -> float:
        """Return the mean loss of what ``forward`` returned, without the penalty; ``output`` is overwritten."""
        return self._for_rows(len(output)).loss(output, y)

    def loss_and_gradient(self, x: FloatArray, y: NDArray[Any], rng: np.random.Generator | None = None) -> float:
        """Return the mean loss over the batch without the penalty; ``gradient`` is overwritten, the penalty in it.

        What chance a training takes part in (dropout) comes from ``rng``; without one there is none.
        """
        bound = self._for_rows(len(x))
        output = bound.forward(x, rng)
        value = bound.loss(output, self.wanted(x, y))
        upstream: FloatArray | None = output
        for layer in bound.backwards:
            self._door()
            if upstream is not None:
                upstream = layer.backward(upstream)
        for values, gradients, work in self._decayed:
            np.multiply(values, self._l2, out=work)
            np.add(gradients, work, out=gradients)
        return value

    def penalty(self) -> float:
        """Return the L2 penalty of the parameters."""
        squares = sum(float(np.vdot(values, values)) for values, _, _ in self._decayed)
        return 0.5 * self._spec.l2 * squares

    def _for_rows(self, rows: int) -> _Bound:
        found = self._bound.get(rows)
        if found is None:
            check_step(self._model, rows)
            tie = Tie(self._values, self._gradients, rows, Buffers(self._door), first=True)
            shape = self._spec.input_shape
            reader = _reader(shape, rows) if len(shape) > 1 else None
            loss = bind_loss(self._spec, rows, self._class_weights)
            found = _Bound(reader, bind_all(self._model.layers, tie), loss, self._door)
            self._bound[rows] = found
        return found


def check_weights(model: Model, weights: Sequence[float]) -> None:
    """Raise ``PlanError`` when these are no weights of the model's classes; none at all are fine for every model."""
    classes = model.outputs if model.task == "classification" else 0
    if weights and len(weights) != classes:
        having = f"{classes} classes" if classes else f"no classes (its task is {model.task})"
        raise PlanError(f"training: class_weights has {len(weights)} numbers, the model {having}")


def check_step(model: Model, rows: int) -> None:
    """Raise ``PlanError`` when a batch of so many rows would need more memory than any step may."""
    needed = rows * model.network.kept
    if needed > MAX_STEP_FLOATS:
        allowed = MAX_STEP_FLOATS // model.network.kept
        raise PlanError(
            f"training: batch_size is {rows}, allowed is at most {allowed} for this model: "
            f"a step would hold {needed} values, and {MAX_STEP_FLOATS} are the limit"
        )


class _Door:
    """Leaves a step when it is asked to; called between two pieces of its work.

    An object of its own: if the buffers knew the workspace that has them, it would die only when Python looks for
    cycles, which an agent that trains seldom does: 10 MB of a board for nothing.
    """

    def __init__(self) -> None:
        self.leave: Callable[[], bool] | None = None

    def __call__(self) -> None:
        if self.leave is not None and self.leave():
            raise StepLeftError


def _reader(shape: Shape, rows: int) -> Reader:
    from models.layers.shaping import Reader  # noqa: PLC0415 - see models.layers

    return Reader(shape, rows)


class _Bound:
    """The layers and the loss, for batches of one size."""

    def __init__(self, reader: Reader | None, layers: list[BoundLayer], loss: BoundLoss, door: _Door) -> None:
        self._reader = reader
        self._layers = layers
        self._door = door
        self.loss = loss
        self.backwards = layers[::-1]

    def forward(self, x: FloatArray, rng: np.random.Generator | None = None) -> FloatArray:
        """Return scores or values for ``x``."""
        if self._reader is not None:
            x = self._reader(x)
        for layer in self._layers:
            self._door()
            x = layer.forward(x, rng)
        return x
