"""A network: layers in a row and a loss, on one flat parameter vector."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.data import Dataset
from models.errors import DataError
from models.layers import BoundLayer, Dense, Start
from models.losses import BoundLoss, bind_loss, softmax
from models.metrics import ClassificationMetrics, Metrics, RegressionMetrics
from models.parameters import FloatArray, join
from models.spec import NetworkSpec, Task

if TYPE_CHECKING:
    from collections.abc import Iterator

EVALUATION_ROWS = 512
"""Evaluation goes in blocks of so many rows: large enough to be fast, small enough that buffers stay small."""


class Model:
    """What a spec describes: immutable, without parameters of its own, so any number of threads may share it."""

    def __init__(self, spec: NetworkSpec) -> None:
        self.network = spec
        self.layers = _dense_layers(spec)
        self.layout = join(layer.entries for layer in self.layers)

    @property
    def spec(self) -> dict[str, Any]:
        """The spec as data, with every default filled in; ``build`` makes an equal model from it."""
        return self.network.to_data()

    @property
    def task(self) -> Task:
        """What is learnt: classes or values."""
        return self.network.task

    @property
    def inputs(self) -> int:
        """Number of features of an example."""
        return self.network.inputs

    @property
    def outputs(self) -> int:
        """Number of classes, or of values per example."""
        return self.network.outputs

    def init(self, rng: np.random.Generator) -> FloatArray:
        """Return parameters to begin with, float32 ``(layout.size,)``, the same for the same state of ``rng``."""
        vector = np.empty(self.layout.size, np.float32)
        views = self.layout.views(vector)
        for layer in self.layers:
            layer.init(views, rng)
        return vector

    def loss_and_gradient(self, parameters: FloatArray, x: ArrayLike, y: ArrayLike) -> tuple[float, FloatArray]:
        """Return the mean loss over the batch plus the L2 penalty, and its gradient, float32 ``(layout.size,)``.

        Raises ``DataError`` for a batch that does not fit or is empty, ``ValueError`` for parameters that do not.
        """
        batch = Dataset.for_model(self, x, y)
        if not len(batch):
            raise DataError("no examples: their mean loss is undefined")
        workspace = Workspace(self, parameters)
        loss = workspace.loss_and_gradient(batch.x, batch.y) + workspace.penalty()
        return loss, workspace.gradient

    def predict(self, parameters: FloatArray, x: ArrayLike) -> FloatArray:
        """Return class probabilities ``(n, classes)`` or values ``(n, outputs)``; raise like ``loss_and_gradient``."""
        nothing = np.zeros(len(np.atleast_1d(x)), np.int64)
        wanted = nothing if self.task == "classification" else np.zeros((len(nothing), self.outputs), np.float32)
        data = Dataset.for_model(self, x, wanted)
        workspace = Workspace(self, parameters)
        result = np.empty((len(data), self.outputs), np.float32)
        with np.errstate(all="ignore"):
            for rows in _blocks(len(data)):
                result[rows] = workspace.forward(data.x[rows])
        return softmax(result) if self.task == "classification" else result

    def evaluate(self, parameters: FloatArray, data: Dataset) -> Metrics:
        """Return the metrics of these parameters on the data; those of no data have ``count`` 0."""
        measure = _classification if self.task == "classification" else _regression
        workspace = Workspace(self, parameters)
        total: Any = ClassificationMetrics() if self.task == "classification" else RegressionMetrics()
        with np.errstate(all="ignore"):  # parameters that diverged show in the loss, not as warnings
            for rows in _blocks(len(data)):
                total += measure(workspace, data.x[rows], data.y[rows])
        result: Metrics = total
        return result


class Workspace:
    """A model bound to one parameter vector, with the gradient and all buffers of a step: one thread's alone.

    The parameters are read at every call: whoever owns the vector changes it in place. Buffers are made once for every
    batch size that occurs; in a training these are two, the full batch and the last.
    """

    def __init__(self, model: Model, parameters: FloatArray) -> None:
        self._model = model
        self._spec = model.network
        self._values = model.layout.views(parameters)
        self.gradient = np.zeros(model.layout.size, np.float32)
        self._gradients = model.layout.views(self.gradient)
        self._bound: dict[int, tuple[list[BoundLayer], BoundLoss]] = {}
        names = [name for layer in model.layers for name in layer.decayed] if self._spec.l2 else []
        self._decayed = [
            (self._values[name], self._gradients[name], np.empty_like(self._values[name])) for name in names
        ]
        self._l2 = np.float32(self._spec.l2)

    def forward(self, x: FloatArray) -> FloatArray:
        """Return scores or values for ``x``, in a buffer that the next call overwrites."""
        layers, _ = self._for_rows(len(x))
        for layer in layers:
            x = layer.forward(x)
        return x

    def data_loss(self, output: FloatArray, y: NDArray[Any]) -> float:
        """Return the mean loss of what ``forward`` returned, without the penalty; ``output`` is overwritten."""
        _, loss = self._for_rows(len(output))
        return loss(output, y)

    def loss_and_gradient(self, x: FloatArray, y: NDArray[Any]) -> float:
        """Return the mean loss over the batch without the penalty; ``gradient`` is overwritten, the penalty in it."""
        layers, loss = self._for_rows(len(x))
        for layer in layers:
            x = layer.forward(x)
        value = loss(x, y)
        upstream: FloatArray | None = x
        for layer in reversed(layers):
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

    def _for_rows(self, rows: int) -> tuple[list[BoundLayer], BoundLoss]:
        found = self._bound.get(rows)
        if found is None:
            layers = [
                layer.bind(self._values, self._gradients, rows, first=position == 0)
                for position, layer in enumerate(self._model.layers)
            ]
            found = self._bound[rows] = (layers, bind_loss(self._spec, rows))
        return found


def _dense_layers(spec: NetworkSpec) -> tuple[Dense, ...]:
    widths = spec.widths
    last = len(widths) - 2
    layers = []
    for position, (fan_in, fan_out) in enumerate(pairwise(widths)):
        hidden = position < last
        start: Start = "zero" if not spec.hidden else "he" if hidden and spec.activation == "relu" else "glorot"
        layers.append(Dense(f"dense{position}", fan_in, fan_out, spec.activation if hidden else "none", start))
    return tuple(layers)


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + EVALUATION_ROWS, rows)) for start in range(0, rows, EVALUATION_ROWS))


def _classification(workspace: Workspace, x: FloatArray, y: NDArray[Any]) -> ClassificationMetrics:
    scores = workspace.forward(x)
    correct = int(np.count_nonzero(scores.argmax(axis=1) == y))
    return ClassificationMetrics(count=len(x), correct=correct, loss_sum=workspace.data_loss(scores, y) * len(x))


def _regression(workspace: Workspace, x: FloatArray, y: NDArray[Any]) -> RegressionMetrics:
    values = workspace.forward(x)
    error = (values - y).astype(np.float64)
    return RegressionMetrics(
        count=len(x),
        squared_error_sum=float(np.vdot(error, error)) / y.shape[1],
        absolute_error_sum=float(np.abs(error).sum()) / y.shape[1],
        loss_sum=workspace.data_loss(values, y) * len(x),
    )
