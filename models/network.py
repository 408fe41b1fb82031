"""A network: layers in a row and a loss, on one flat parameter vector."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.data import Dataset
from models.errors import DataError
from models.losses import softmax
from models.metrics import ClassificationMetrics, Metrics, ReconstructionMetrics, RegressionMetrics
from models.parameters import FloatArray, join
from models.plan import TrainingPlan
from models.spec import NetworkSpec, Task
from models.stepping import NetworkStepper, Stepper
from models.workspace import Workspace, check_step, check_weights

__all__ = ["Model", "Workspace"]

EVALUATION_ROWS = 512
"""Evaluation goes in blocks of so many rows at most: large enough to be fast, small enough that buffers stay small."""

EVALUATION_FLOATS = 2**21
"""Fewer rows where so many values, 8 MB, would not hold all that they leave behind."""


class Model:
    """What a spec describes: immutable, without parameters of its own, so any number of threads may share it."""

    def __init__(self, spec: NetworkSpec) -> None:
        self.network = spec
        self.layers = spec.layers
        self.layout = join(layer.entries for layer in self.layers)

    software = ""
    """What computes beside NumPy, if it matters to who goes on with a training."""

    @property
    def spec(self) -> dict[str, Any]:
        """The spec as data, with every default filled in; ``build`` makes an equal model from it."""
        return self.network.to_data()

    @property
    def task(self) -> Task:
        """What is learnt: classes, values, or the examples themselves."""
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

    def loss_and_gradient(
        self, parameters: FloatArray, x: ArrayLike, y: ArrayLike | None, rng: np.random.Generator | None = None
    ) -> tuple[float, FloatArray]:
        """Return the mean loss over the batch plus the L2 penalty, and its gradient, float32 ``(layout.size,)``.

        Dropout is active with ``rng`` only. Raises ``DataError`` for a batch that does not fit or is empty,
        ``ValueError`` for parameters that do not.
        """
        batch = Dataset.for_model(self, x, y)
        if not len(batch):
            raise DataError("no examples: their mean loss is undefined")
        workspace = Workspace(self, parameters)
        loss = workspace.loss_and_gradient(batch.x, batch.y, rng) + workspace.penalty()
        return loss, workspace.gradient

    def check_plan(self, plan: TrainingPlan, said: Collection[str] = ()) -> None:
        """Raise ``PlanError`` when the model cannot be trained as the plan says, however many examples there are.

        ``said``: keys that are said and not left at their defaults, of which a model may know that they mean nothing.
        """
        del said
        check_step(self, plan.batch_size)
        check_weights(self, plan.class_weights)

    def followed(self, plan: TrainingPlan) -> dict[str, Any]:
        """Return what of the plan this model is trained by, as data: all of it, where it has no ways of its own."""
        return plan.to_data()

    def stepper(self, start: FloatArray, plan: TrainingPlan) -> Stepper:
        """Return what takes the steps of a training from a copy of ``start``, as the plan says."""
        return NetworkStepper(self, start, plan)

    def predict(self, parameters: FloatArray, x: ArrayLike) -> FloatArray:
        """Return class probabilities ``(n, classes)`` or values ``(n, outputs)``; raise like ``loss_and_gradient``.

        A reconstruction is one of standardized values, where the network begins with ``standardize``.
        """
        data = self._examples(x)
        workspace = self._workspace(parameters)
        result = np.empty((len(data), self.outputs), np.float32)
        with np.errstate(all="ignore"):
            for rows in self._blocks(len(data)):
                result[rows] = workspace.forward(data.x[rows])
        return softmax(result) if self.task == "classification" else result

    def errors(self, parameters: FloatArray, x: ArrayLike) -> FloatArray:
        """Return how badly each example is reconstructed, ``(n,)``: the mean of its squared errors.

        Raises ``ValueError`` where the task is another one.
        """
        if self.task != "reconstruction":
            raise ValueError(f"the task is {self.task}: nothing is reconstructed")
        data = self._examples(x)
        workspace = self._workspace(parameters)
        result = np.empty(len(data), np.float32)
        with np.errstate(all="ignore"):
            for rows in self._blocks(len(data)):
                result[rows] = _errors(workspace, data.x[rows])
        return result

    def evaluate(self, parameters: FloatArray, data: Dataset, leave: Callable[[], bool] | None = None) -> Metrics:
        """Return the metrics of these parameters on the data; those of no data have ``count`` 0.

        ``leave`` is asked between layers; when it says so ``StepLeftError`` is raised.
        """
        measure, nothing = _MEASURES[self.task]
        workspace = self._workspace(parameters)
        workspace.leave = leave
        total: Any = nothing()
        with np.errstate(all="ignore"):  # parameters that diverged show in the loss, not as warnings
            for rows in self._blocks(len(data)):
                total += measure(workspace, data.x[rows], data.y[rows])
        result: Metrics = total
        return result

    def _workspace(self, parameters: FloatArray) -> Workspace:
        return Workspace(self, parameters)

    @property
    def _block_rows(self) -> int:
        return max(1, min(EVALUATION_ROWS, EVALUATION_FLOATS // self.network.kept))

    def _examples(self, x: ArrayLike) -> Dataset:
        nothing = np.zeros(len(np.atleast_1d(x)), np.int64)
        wanted = np.zeros((len(nothing), self.outputs), np.float32) if self.task == "regression" else nothing
        return Dataset.for_model(self, x, wanted)

    def _blocks(self, rows: int) -> Iterator[slice]:
        block = self._block_rows
        return (slice(start, min(start + block, rows)) for start in range(0, rows, block))


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


def _errors(workspace: Workspace, x: FloatArray) -> FloatArray:
    error = workspace.forward(x) - workspace.wanted(x, x)
    means: FloatArray = np.einsum("ij,ij->i", error, error) / np.float32(error.shape[1])
    return means


def _reconstruction(workspace: Workspace, x: FloatArray, y: NDArray[Any]) -> ReconstructionMetrics:
    output = workspace.forward(x)
    error = output - workspace.wanted(x, y)
    errors = np.einsum("ij,ij->i", error, error, dtype=np.float64) / error.shape[1]
    loss = workspace.data_loss(output, workspace.wanted(x, y))
    return ReconstructionMetrics.of(errors, loss * len(x))


_MEASURES: dict[Task, tuple[Any, Any]] = {
    "classification": (_classification, ClassificationMetrics),
    "regression": (_regression, RegressionMetrics),
    "reconstruction": (_reconstruction, ReconstructionMetrics),
}
