"""A user's ``.tflite`` file as a model: it is trained, measured and asked as the networks in NumPy are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.data import Dataset
from models.errors import PlanError, TfliteError
from models.losses import softmax
from models.network import EVALUATION_FLOATS, Model
from models.parameters import FloatArray
from models.plan import TrainingPlan
from models.spec import Task
from models.stepping import Stepper
from models.tflite.contract import RATE, Contract, TrainableSpec, contract_of
from models.tflite.reading import Bytes
from models.tflite.runtime import Runtime
from models.tflite.session import Session
from models.tflite.signatures import ANY
from models.workspace import StepLeftError

_BLOCK_ROWS = 256
_APPLIES = frozenset({"epochs", "batch_size", "max_steps", "deadline_s", "on_deadline"})
_LEAST = np.float32(1e-30)
"""Instead of a probability of 0, of which there is no logarithm."""


class TrainableModel(Model):
    """What a spec and its file describe. It has no layers; what is learned are the tensors that ``get`` gives."""

    def __init__(self, data: Bytes, spec: TrainableSpec, runtime: Runtime, path: Path | None = None) -> None:
        """Raise ``TfliteError`` unless these are the bytes of the spec, and a file that can be federated.

        ``path``: where they lie, if they do. Runtimes then map the file themselves; otherwise they share the bytes.

        Try a file of others out in a process of its own before (``adapters.trial``).
        """
        if hashlib.sha256(data).hexdigest() != spec.digest:
            raise TfliteError("this is not the .tflite file that the federation has pinned: its SHA-256 is another")
        self.contract: Contract = contract_of(data, spec)
        self.layers = ()
        self.layout = self.contract.layout
        self._file = path or bytes(data)
        self._described = spec
        self._runtime = runtime
        self.software = f", {runtime.name} {runtime.version}"

    @property
    def spec(self) -> dict[str, Any]:
        """The spec as data: which file, and how it is read."""
        return self._described.to_data()

    @property
    def task(self) -> Task:
        """What is learnt."""
        return self._described.task

    @property
    def inputs(self) -> int:
        """Number of values of an example."""
        return self.contract.inputs

    @property
    def outputs(self) -> int:
        """Number of classes, or of values per example."""
        return self.contract.outputs

    @property
    def gives_scores(self) -> bool:
        """Whether ``infer`` gives scores, of which a softmax makes probabilities."""
        return self._described.logits

    def session(self) -> Session:
        """Return the file in a runtime, with variables of its own."""
        return Session(self._runtime, self._file, self._described, self.contract)

    def init(self, rng: np.random.Generator) -> FloatArray:  # noqa: ARG002 - the file brings its values
        """Return what the file begins with, whatever ``rng``."""
        return self.session().get()

    def loss_and_gradient(
        self, parameters: FloatArray, x: ArrayLike, y: ArrayLike | None, rng: np.random.Generator | None = None
    ) -> tuple[float, FloatArray]:
        """Raise ``TfliteError``: a file takes steps, and shows no gradient."""
        del parameters, x, y, rng
        raise TfliteError("a .tflite file shows no gradient")

    def check_plan(self, plan: TrainingPlan, said: Collection[str] = ()) -> None:
        """Raise ``PlanError`` where the plan says what only the file can decide, or ``said`` does, be it as usual."""
        other = {field.name for field in fields(plan) if getattr(plan, field.name) != field.default} | set(said)
        if decided := sorted(other - self._applies):
            more = f"; {RATE} could be, were it an input of train" if RATE in decided else ""
            raise PlanError(
                f"training: the .tflite file decides on {', '.join(decided)}, which cannot be said here{more}: "
                "leave that out"
            )
        rows = self.contract.rows
        if rows not in {ANY, plan.batch_size}:
            raise PlanError(f"training: batch_size is {plan.batch_size}, the .tflite file takes batches of {rows} only")

    def followed(self, plan: TrainingPlan) -> dict[str, Any]:
        """Return what of the plan the file does not decide itself."""
        return {key: value for key, value in plan.to_data().items() if key in self._applies}

    @property
    def _applies(self) -> frozenset[str]:
        return _APPLIES | ({RATE} if self.contract.takes_rate else frozenset())

    def stepper(self, start: FloatArray, plan: TrainingPlan) -> Stepper:
        """Return what gives batches to the file's ``train``; raise ``PlanError`` as ``check_plan``."""
        self.check_plan(plan)
        return _FileStepper(self, start, plan.learning_rate)

    def _workspace(self, parameters: FloatArray) -> Any:  # noqa: ANN401 - as much of a Workspace as measuring needs
        return _Answers(self, parameters)

    @property
    def _block_rows(self) -> int:
        return max(1, min(_BLOCK_ROWS, EVALUATION_FLOATS // self.inputs))


class FilePredictor:
    """Predicts by the file, in a session of its own. One thread at a time."""

    def __init__(self, model: TrainableModel, parameters: FloatArray) -> None:
        self.by = model.software.lstrip(", ")
        self._model = model
        self._answers = _Answers(model, parameters)

    def predict(self, x: FloatArray) -> FloatArray:
        """See ``models.predicting.Predictor``. Raises ``TfliteError`` when the runtime fails."""
        found = self._answers.forward(Dataset.features(self._model.inputs, x))
        return softmax(found) if self._model.task == "classification" else found

    def errors(self, x: FloatArray) -> FloatArray:
        """Return how badly each example is reconstructed, as ``Model.errors``; the task must be that one."""
        wanted = Dataset.features(self._model.inputs, x)
        means: FloatArray = np.mean(np.square(self._answers.forward(wanted) - wanted), axis=1)
        return means


class _FileStepper:
    """Steps by the file's ``train``. A step cannot be left: it is carried out by the runtime."""

    def __init__(self, model: TrainableModel, start: FloatArray, rate: float) -> None:
        self.leave: Callable[[], bool] | None = None
        self.state: Mapping[str, FloatArray] = {}
        self._model = model
        self._rate = rate
        self._known: FloatArray | None = None
        self._begin(start)

    @property
    def parameters(self) -> FloatArray:
        if self._known is None:
            self._known = self._session.get()
        return self._known

    def step(self, x: FloatArray, y: NDArray[Any], _rng: np.random.Generator, frozen: tuple[slice, ...]) -> float:
        if frozen:
            raise TfliteError("a .tflite file changes all its parameters in every step")
        if self.leave is not None and self.leave():
            raise StepLeftError
        loss = self._session.train(x, y, self._rate)
        self._known = None
        return loss

    def restore(self, parameters: FloatArray, state: Mapping[str, FloatArray], steps: int) -> None:  # noqa: ARG002 - whatever else the file holds begins anew
        self._begin(parameters)

    def begin_anew(self) -> None:
        self._begin(self.parameters)

    def _begin(self, parameters: FloatArray) -> None:
        # A new session: what the file holds beside the parameters must not depend on who trained before.
        self._session = self._model.session()
        self._session.put(parameters)
        self._known = None


class _Answers:
    """What measuring and predicting ask of a ``Workspace``."""

    def __init__(self, model: TrainableModel, parameters: FloatArray) -> None:
        model.layout.check(parameters)
        self.leave: Callable[[], bool] | None = None
        self._classes = model.task == "classification"
        self._probabilities = self._classes and not model.gives_scores
        self._session = model.session()
        self._session.put(parameters)

    def forward(self, x: FloatArray) -> FloatArray:
        if self.leave is not None and self.leave():
            raise StepLeftError
        found = self._session.infer(x)
        # Scores that the softmax makes these probabilities of.
        return np.log(np.maximum(found, _LEAST)) if self._probabilities else found

    def wanted(self, x: FloatArray, y: NDArray[Any]) -> NDArray[Any]:  # noqa: ARG002 - as a Workspace
        return y

    def data_loss(self, output: FloatArray, y: NDArray[Any]) -> float:
        if not self._classes:
            return float(np.mean(np.square(output - y, dtype=np.float64)))
        shifted = output - output.max(axis=1, keepdims=True)
        picked = shifted[np.arange(len(y)), y]
        return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - picked, dtype=np.float64))
