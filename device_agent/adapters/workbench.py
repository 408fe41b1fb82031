"""Training and evaluation themselves. Imports NumPy: only the trainer's thread imports this, for its first task."""

from __future__ import annotations

import hashlib
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from device_agent.adapters.data import DataFileError, Samples, fingerprint, load_samples
from device_agent.adapters.model_cache import CacheError, read_model
from device_agent.events import EvaluationDone, Fault, TaskFailed, TaskStopped, TrainingDone
from models import DataError, Dataset, Model, PlanError, SpecError, TrainingPlan, build, local_train
from protocol import tensors
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from device_agent.commands import Evaluate, Train
    from device_agent.settings import AgentSettings
    from protocol.messages import Manifest


class _TaskError(Exception):
    """A task cannot be done, and where the fault lies."""

    def __init__(self, reason: str, fault: Fault) -> None:
        super().__init__(reason)
        self.fault: Fault = fault


class Workbench:
    """Keeps the samples between tasks; reads them again when the file is another one."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._path = Path(settings.data.path)
        self._samples: Samples | None = None
        self._samples_of: tuple[Any, ...] = ()
        self._model: Model | None = None
        self._model_of: dict[str, Any] = {}

    def train(
        self, task: Train, file: BinaryIO, should_stop: Callable[[], bool]
    ) -> TrainingDone | TaskStopped | TaskFailed:
        """Train the model in the file as the task says. Deterministic for the seed, the version and the samples."""
        try:
            return self._train(task, file, should_stop)
        except _TaskError as exc:
            return TaskFailed(task=task.task, reason=str(exc), fault=exc.fault)

    def evaluate(self, task: Evaluate, file: BinaryIO) -> EvaluationDone | TaskFailed:
        """Measure the model in the file on the holdout."""
        try:
            model, parameters = self._read(task.manifest, file)
            metrics = model.evaluate(parameters, self._holdout(model)).summary()
            return EvaluationDone(task=task.task, metrics=metrics)
        except _TaskError as exc:
            return TaskFailed(task=task.task, reason=str(exc), fault=exc.fault)

    def _train(self, task: Train, file: BinaryIO, should_stop: Callable[[], bool]) -> TrainingDone | TaskStopped:
        started = time.monotonic()
        manifest = task.manifest
        model, parameters = self._read(manifest, file)
        plan = _plan(manifest)
        samples = self._load(model)
        rng = self._rng(manifest, task.contribution)
        before = model.evaluate(parameters, samples.holdout).summary() if samples.holdout else {}
        result = local_train(model, parameters, samples.train, plan, rng, should_stop)
        if not result.finished:
            return TaskStopped(task=task.task)
        delta = result.parameters - parameters
        if not np.isfinite(delta).all():
            raise _TaskError("the training diverged: parameters are not finite any more", "model")
        after = model.evaluate(result.parameters, samples.holdout).summary() if samples.holdout else {}
        return TrainingDone(
            task=task.task,
            num_examples=result.num_examples,
            num_steps=result.num_steps,
            delta=_encoded(manifest.participation.codec, delta, rng),
            duration_s=time.monotonic() - started,
            train_loss=float(result.loss),
            before=before,
            after=after,
        )

    def _read(self, manifest: Manifest, file: BinaryIO) -> tuple[Model, NDArray[np.float32]]:
        try:
            cached, data = read_model(file)
        except (CacheError, OSError) as exc:
            raise _TaskError(str(exc), "cache") from exc
        if cached.parameters != manifest.parameters:
            raise _TaskError("the cached model is another version", "cache")
        model = self._built(manifest)
        try:
            parameters = tensors.decode(cached.blob.encoding, data, model.layout.size)
        except ProtocolError as exc:
            raise _TaskError(f"parameters: {exc}", "model") from exc
        # Of float32 the blob's digest is that of the parameters, and it has been checked.
        known = cached.blob.digest if cached.blob.encoding == "f32" else _digest(parameters)
        if known != manifest.parameters:
            raise _TaskError("the parameters are not the ones that the manifest names", "model")
        return model, parameters

    def _built(self, manifest: Manifest) -> Model:
        # The spec is the same version after version, and a model has no state.
        if self._model is None or self._model_of != manifest.model:
            try:
                self._model = build(manifest.model)
            except SpecError as exc:
                raise _TaskError(f"model spec: {exc}", "model") from exc
            self._model_of = manifest.model
        if self._model.layout.digest != manifest.layout:
            raise _TaskError("the model spec leads to another layout than the manifest names", "model")
        return self._model

    def _load(self, model: Model) -> Samples:
        wanted = (fingerprint(self._path), model.layout.digest, model.task)
        if self._samples is None or self._samples_of != wanted:
            # The old ones go first: both at once may be more than the board has.
            self._samples = None
            try:
                self._samples = load_samples(self._path, self._settings.data, model)
            except DataFileError as exc:
                raise _TaskError(str(exc), "data") from exc
            self._samples_of = wanted
        return self._samples

    def _holdout(self, model: Model) -> Dataset:
        holdout = self._load(model).holdout
        if holdout is None:
            raise _TaskError("there are no held-out samples to evaluate on", "data")
        return holdout

    def _rng(self, manifest: Manifest, contribution: int) -> np.random.Generator:
        device = zlib.crc32(self._settings.device.id.encode())
        return np.random.default_rng([self._settings.training.seed, device, manifest.version, contribution])


def _digest(parameters: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f4").data).hexdigest()


def _plan(manifest: Manifest) -> TrainingPlan:
    try:
        return TrainingPlan.from_data(manifest.training)
    except PlanError as exc:
        raise _TaskError(f"training plan: {exc}", "model") from exc


def _encoded(codec: str, delta: NDArray[np.float32], rng: np.random.Generator) -> bytes:
    try:
        return tensors.encode(codec, delta, rng)
    except (ProtocolError, DataError) as exc:
        raise _TaskError(f"codec {codec!r}: {exc}", "model") from exc
