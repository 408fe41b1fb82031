"""A model that is ready to be asked about windows of rows. Imports NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from device_agent.adapters.backbone_files import TRIAL_S
from device_agent.adapters.collected import CONSTANTS_NAME, kept_constants
from device_agent.adapters.embedding import load_network, samples_for
from device_agent.adapters.learning import built
from device_agent.adapters.model_cache import CacheError, read_model
from device_agent.adapters.personalizing import personal_parameters
from device_agent.adapters.predicting import ServingPredictor
from device_agent.adapters.running import BackboneError
from device_agent.frozen import is_file
from device_agent.sensing.adapters.reading import SamplesError, extent_of
from device_agent.sensing.recent import Cut
from models import FeaturesError, Pipeline, PlanError, Series, SpecError, TfliteError
from models.predicting import Origin, Predictor
from protocol import tensors
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

    from device_agent.sensing.predictions import What
    from device_agent.sensing.recent import Recent
    from models import Model, Standardization
    from models.parameters import FloatArray
    from models.tflite.backbone import Backbone
    from protocol.messages import BackboneRef, Manifest
    from protocol.thresholds import Threshold

FILE_NAME = "model.tflite"
"""The version that predictions are made by, in the state directory, for the board's other programs."""


class ServingError(Exception):
    """The model cannot be asked about windows; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model says of one window."""

    output: list[float]
    ends: float
    """When the window ended, in seconds since 1970 UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One version, ready. ``ask`` is for one thread."""

    version: int
    cut: Cut
    what: What
    by: str
    """What computes."""
    threshold: Threshold | None
    """The federation's, for anomalies, if there is one."""
    _pipeline: Pipeline
    _standardization: Standardization | None
    _answer: Callable[[FloatArray], FloatArray]
    """What is said of one example."""
    _backbone: Backbone | None = None

    def ask(self, recent: Recent) -> Answer | None:
        """Return what the model says of the newest window; None when that one is dropped, as it is in training."""
        found = self._pipeline.newest(series_of(recent))
        if not len(found):
            return None
        x = found.x
        if self._standardization is not None:
            self._standardization.apply(x)
        if self._backbone is not None:
            x = self._backbone.embed(x)
        return Answer(output=self._answer(x).tolist(), ends=float(found.ends[0]))


class Exchange:
    """Makes versions ready, one after the other: what one version needed is used again for the next."""

    def __init__(
        self, open_model: Callable[[], BinaryIO], state_dir: Path, *, tflite: bool, trial_s: float = TRIAL_S
    ) -> None:
        """``open_model`` returns the file of the newest model, or raises ``CacheError``."""
        self._open_model = open_model
        self._state_dir = state_dir
        self._tflite = tflite
        self._trial_s = trial_s
        self._serving: ServingPredictor | None = None
        self._model: Model | None = None
        self._spec: dict[str, Any] = {}
        self._backbone: Backbone | None = None

    def newest(self) -> Served | None:
        """Return the newest version, ready to be asked; None when there is no model. Raise ``ServingError``."""
        try:
            with self._open_model() as file:
                manifest, blob = read_model(file)
        except CacheError:
            return None
        try:
            model = self._built(manifest)
            pipeline = _pipeline(manifest, model)
            decoded = tensors.decode(manifest.blob.encoding, blob, model.layout.size)
            parameters = personal_parameters(self._state_dir, manifest, model, np.array(decoded, np.float32))
        except (SpecError, FeaturesError, PlanError, ProtocolError, BackboneError, TfliteError) as exc:
            raise ServingError(f"version {manifest.version}: {exc}") from exc
        self._backbone = self._network(manifest.backbone)
        by, answer = self._asked(manifest, model, parameters)
        return Served(
            version=manifest.version,
            cut=cut_of(pipeline),
            what=_what(model),
            by=by,
            threshold=manifest.anomaly,
            _pipeline=pipeline,
            _standardization=_constants(self._state_dir, pipeline),
            _answer=answer,
            _backbone=self._backbone,
        )

    def _network(self, ref: BackboneRef | None) -> Backbone | None:
        """Return the backbone in a runtime, another one than the trainer's; None where the federation has none."""
        if ref is None or (self._backbone is not None and self._backbone.spec.digest == ref.blob.digest):
            return None if ref is None else self._backbone
        try:
            return load_network(self._state_dir, ref, trial_s=self._trial_s)
        except BackboneError as exc:
            raise ServingError(str(exc)) from exc

    def _built(self, manifest: Manifest) -> Model:
        if self._model is None or manifest.model != self._spec:
            self._model = built(manifest, self._state_dir, trial_s=self._trial_s)
            self._spec, self._serving = manifest.model, None
        return self._model

    def _asked(
        self, manifest: Manifest, model: Model, parameters: FloatArray
    ) -> tuple[str, Callable[[FloatArray], FloatArray]]:
        """Return what computes, and what one example is put to."""
        unusual = model.task == "reconstruction"
        if is_file(manifest):
            from models.tflite.trainable import FilePredictor, TrainableModel  # noqa: PLC0415 - for who federates files

            assert isinstance(model, TrainableModel)  # noqa: S101 - built as the manifest says
            file = FilePredictor(model, parameters)
            return file.by, file.errors if unusual else _first(file)
        predictor = self._network_predictor(manifest, model, parameters)
        return ("numpy", partial(model.errors, parameters)) if unusual else (predictor.by, _first(predictor))

    def _network_predictor(self, manifest: Manifest, model: Model, parameters: FloatArray) -> Predictor:
        if self._serving is None:
            self._serving = ServingPredictor(model, self._state_dir / FILE_NAME, tflite=self._tflite)
        origin = Origin(federation=manifest.federation, epoch=manifest.epoch, version=manifest.version)
        return self._serving.update(parameters, origin)


def _first(predictor: Predictor) -> Callable[[FloatArray], FloatArray]:
    return lambda x: predictor.predict(x)[0]


def _pipeline(manifest: Manifest, model: Model) -> Pipeline:
    if not manifest.features:
        raise ServingError("the aggregator declares no [features]: nobody says how rows become inputs")
    pipeline = Pipeline.from_data(manifest.features)
    if pipeline.inputs != (wanted := samples_for(model, manifest.backbone).inputs):
        raise ServingError(f"the features are {pipeline.inputs} inputs, the model takes {wanted}")
    return pipeline


def _constants(state_dir: Path, pipeline: Pipeline) -> Standardization | None:
    """Return the constants that this device trains with; None where it trains without."""
    if pipeline.standardize == "none":
        return None
    try:
        store = extent_of(state_dir).identity
    except SamplesError as exc:
        raise ServingError(f"samples: {exc}") from exc
    found = kept_constants(state_dir / CONSTANTS_NAME, pipeline, store)
    if not found.count:
        raise ServingError("inputs are on this device's own scale, which its first training finds")
    return found


def _what(model: Model) -> What:
    if model.task == "reconstruction":
        return "error"
    return "class" if model.task == "classification" else "values"


def cut_of(pipeline: Pipeline) -> Cut:
    """Return what decides when a window of this pipeline is complete."""
    return Cut(
        channels=pipeline.channels,
        window=pipeline.window,
        stride=pipeline.stride,
        every_s=pipeline.every_s,
        rows_needed=pipeline.rows_needed,
        span_s=pipeline.span_s,
    )


def series_of(recent: Recent) -> Series:
    """Return the newest rows, as the pipeline takes them."""
    channels = recent.cut.channels
    times = np.array(recent.times, np.float64)
    values = np.array(recent.values, np.float32).reshape(len(times), len(channels))
    ids = np.arange(recent.first_id, recent.first_id + len(times), dtype=np.int64)
    return Series(times, values, np.full(len(times), np.nan), channels, ids)
