"""What a task begins with: its model, its parameters and its plan, each checked against what the manifest names.

Imports NumPy: only the trainer's thread imports this module.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from device_agent.adapters.data import DataFileError
from device_agent.adapters.learning import Models
from device_agent.adapters.leaving import TaskLeftError
from device_agent.adapters.model_cache import CacheError, read_model
from device_agent.adapters.running import BackboneError
from device_agent.events import Fault, TaskFailed, TaskStopped
from models import FeaturesError, Model, PlanError, SpecError, TfliteError, TrainingPlan
from protocol import tensors
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models import Pipeline
    from protocol.messages import Manifest


class TaskError(Exception):
    """A task cannot be done, and where the fault lies."""

    def __init__(self, reason: str, fault: Fault) -> None:
        super().__init__(reason)
        self.fault: Fault = fault


ENDINGS = (TaskLeftError, TaskError, BackboneError, DataFileError, FeaturesError, PlanError, TfliteError)


def ended(task: int, exc: Exception) -> TaskStopped | TaskFailed:
    """Return what is said of a task that did not come to its end: it was stopped, or something is wrong."""
    match exc:
        case TaskLeftError():
            return TaskStopped(task=task)
        case TaskError():
            fault = exc.fault
        case DataFileError():
            fault = "data"
        case BackboneError(damaged=True):
            fault = "backbone"
        case _:
            fault = "model"
    return TaskFailed(task=task, reason=str(exc), fault=fault)


class Loader:
    """Reads models from files, and keeps the last one built: the next version is of the same, nearly always."""

    def __init__(self, state_dir: Path, trial_s: float) -> None:
        self._models = Models(state_dir, trial_s)
        self.pipeline: Pipeline | None = None
        """Of the manifest that was read last."""

    def read(
        self, manifest: Manifest, file: BinaryIO, stopped: Callable[[], bool]
    ) -> tuple[Model, NDArray[np.float32]]:
        """Return the model that the manifest describes, and the parameters in the file; raise ``TaskError``.

        ``stopped`` is asked where that takes long: ``TaskLeftError``. Also ``FeaturesError``, ``TfliteError``.
        """
        try:
            cached, data = read_model(file)
        except (CacheError, OSError) as exc:
            raise TaskError(str(exc), "cache") from exc
        if cached.parameters != manifest.parameters:
            raise TaskError("the cached model is another version", "cache")
        model = self._built(manifest, stopped)
        try:
            parameters = tensors.decode(cached.blob.encoding, data, model.layout.size)
        except ProtocolError as exc:
            raise TaskError(f"parameters: {exc}", "model") from exc
        # Of float32 the blob's digest is that of the parameters, and it has been checked.
        known = cached.blob.digest if cached.blob.encoding == "f32" else _digest(parameters)
        if known != manifest.parameters:
            raise TaskError("the parameters are not the ones that the manifest names", "model")
        return model, parameters

    def candidate(self, manifest: Manifest, file: BinaryIO, stopped: Callable[[], bool]) -> NDArray[np.float32]:
        """Return a candidate's parameters; what is wrong with them is the candidate's fault, not the model's."""
        try:
            return self.read(manifest, file, stopped)[1]
        except (TaskError, FeaturesError) as exc:
            raise TaskError(str(exc), "candidate") from exc

    def _built(self, manifest: Manifest, stopped: Callable[[], bool]) -> Model:
        try:
            model, self.pipeline = self._models.of(manifest, stopped)
        except SpecError as exc:
            raise TaskError(f"model spec: {exc}", "model") from exc
        if model.layout.digest != manifest.layout:
            raise TaskError("the model spec leads to another layout than the manifest names", "model")
        return model


def plan_of(manifest: Manifest) -> TrainingPlan:
    """Return how the manifest wants it trained; raise ``TaskError``."""
    try:
        return TrainingPlan.from_data(manifest.training)
    except PlanError as exc:
        raise TaskError(f"training plan: {exc}", "model") from exc


def _digest(parameters: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f4").data).hexdigest()
