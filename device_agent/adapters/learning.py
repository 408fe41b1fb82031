"""The federation's model, built: a network of ours from its spec, or a ``.tflite`` file that learns, as it was sent.

Imports NumPy: only the trainer's thread, and the one that predicts, import this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from device_agent.adapters.backbone_files import TRIAL_S, backbone_path, try_once
from device_agent.adapters.embedding import samples_for
from device_agent.adapters.leaving import never
from device_agent.adapters.running import running
from device_agent.frozen import file_of, is_file
from models import SpecError, build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models import Model, Pipeline
    from protocol.messages import Manifest


def built(manifest: Manifest, state_dir: Path, stopped: Callable[[], bool] = never, trial_s: float = TRIAL_S) -> Model:
    """Return the model that the manifest describes; raise ``SpecError``, or ``BackboneError`` for a bad file.

    Such a file is read by our own reader first, and takes its first steps in a process of its own, once for each digest
    and runtime. ``stopped`` is asked meanwhile: ``TaskLeftError``.
    """
    if not is_file(manifest):
        return build(manifest.model)
    if (file := file_of(manifest)) is None:
        raise SpecError("model: digest and size name no .tflite file")
    path = backbone_path(state_dir, file.digest)
    with running("the model's file", path, file):
        # Late: what the extra brings, and what reads such files, are for federations with such models.
        from models.tflite.adapters.files import read_file  # noqa: PLC0415 - see above
        from models.tflite.adapters.training_trial import try_training  # noqa: PLC0415 - see above
        from models.tflite.contract import TrainableSpec  # noqa: PLC0415 - see above
        from models.tflite.runtime import load_runtime  # noqa: PLC0415 - see above
        from models.tflite.trainable import TrainableModel  # noqa: PLC0415 - see above

        spec, runtime = TrainableSpec.from_data(manifest.model), load_runtime()
        # Read, not mapped: each training and each version opens it anew, also when its place is another file's by then.
        model = TrainableModel(read_file(path), spec, runtime)
        by = f"{runtime.name} {runtime.version} {sorted(manifest.model.items())}"
        try_once(path, by, lambda: try_training(path, spec, trial_s, stopped))
        return model


class Models:
    """Makes the model of a manifest, and how rows become its examples: the same version after version."""

    def __init__(self, state_dir: Path, trial_s: float) -> None:
        self._state_dir = state_dir
        self._trial_s = trial_s
        self._made: tuple[Model, Pipeline | None] | None = None
        self._of: tuple[dict[str, Any], dict[str, Any]] = ({}, {})

    def of(self, manifest: Manifest, stopped: Callable[[], bool]) -> tuple[Model, Pipeline | None]:
        """Return both; without a pipeline the samples are examples. Raise as ``built``, or ``FeaturesError``."""
        described = (manifest.model, manifest.features)
        if self._made is None or self._of != described:
            model = built(manifest, self._state_dir, stopped, self._trial_s)
            self._made, self._of = (model, _pipeline(manifest, model)), described
        return self._made


def _pipeline(manifest: Manifest, model: Model) -> Pipeline | None:
    if not manifest.features:
        return None
    from models import Pipeline  # noqa: PLC0415 - half a megabyte, for federations that make examples of rows

    return Pipeline.for_model(manifest.features, samples_for(model, manifest.backbone))
