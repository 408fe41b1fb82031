"""A federation whose model is a ``.tflite`` file of the operator's that learns: checked, and kept beside the store."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aggregator.configuration import AggregatorSettings
from aggregator.frozen import ENCODING, Learner
from models import Model, SpecError, TfliteError, build
from protocol.chunks import blob_of
from protocol.settings import ConfigurationError

log = logging.getLogger(__name__)

KIND = "tflite"
_PATH = "path"
_FILE = "learner.tflite"


def anchored_model(said: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what the configuration says of the model, with its file's path relative to the configuration's folder."""
    path = said.get(_PATH)
    if said.get("kind") != KIND or not isinstance(path, str):
        return dict(said)
    return {**said, _PATH: str(folder / path)}


def load_model(said: Mapping[str, Any], chunk_bytes: int) -> tuple[Model, Learner | None]:
    """Return the model that the configuration describes, and its file; None where it is a network of ours.

    A file is read, examined and tried out in a process of its own. Raise ``ConfigurationError``.
    """
    if said.get("kind") != KIND:
        try:
            return build(said), None
        except SpecError as exc:
            raise ConfigurationError(f"[model]: {exc}") from exc
    path = said.get(_PATH)
    if not isinstance(path, str) or not path:
        raise ConfigurationError("model.path is missing: kind 'tflite' needs the file that is to be trained")
    # Late: federations with networks of ours do without a runtime, and what reads these files.
    from models.tflite.adapters.files import read_file  # noqa: PLC0415 - see above
    from models.tflite.adapters.training_trial import try_training  # noqa: PLC0415 - see above
    from models.tflite.contract import TrainableSpec  # noqa: PLC0415 - see above
    from models.tflite.runtime import RuntimeUnavailable  # noqa: PLC0415 - see above

    try:
        data = read_file(Path(path))
        spec = TrainableSpec.of(data, said, besides=(_PATH,))
        model = _built(data, spec.to_data())
        try_training(Path(path), spec)
    except OSError as exc:
        raise ConfigurationError(f"model.path: {path} cannot be read: {exc.strerror or exc}") from exc
    except SpecError as exc:
        raise ConfigurationError(f"[model]: {exc}") from exc
    except TfliteError as exc:
        raise ConfigurationError(f"model.path: {path} cannot be federated: {exc}") from exc
    except RuntimeUnavailable as exc:
        raise ConfigurationError(f"[model] kind 'tflite' needs a TFLite runtime, here and on devices: {exc}") from exc
    return model, Learner(blob=blob_of(data, ENCODING, chunk_bytes), data=data)


def check_terms(settings: AggregatorSettings) -> None:
    """Raise ``ConfigurationError`` for what cannot be where the model is a file."""
    if settings.backbone.path:
        raise ConfigurationError("[backbone] and [model] kind 'tflite': what is frozen can be part of the model's file")
    if settings.statistics.before_training or settings.statistics.class_weights != "none":
        raise ConfigurationError(
            "[statistics] before_training and class_weights make constants and weights for networks of fedmq's own; "
            "a .tflite file has its own: leave them out"
        )
    if settings.registry.export_tflite:
        raise ConfigurationError("registry.export_tflite: the model is a .tflite file already; leave it out")


def keep_file(state_dir: Path, learner: Learner | None) -> None:
    """Keep the model's file beside the store, for commands that look at versions; raise ``OSError``."""
    if learner is None:
        return
    from models.tflite.adapters.files import read_file, write_file  # noqa: PLC0415 - see above

    path = state_dir / _FILE
    if not path.exists() or read_file(path) != learner.data:
        write_file(path, learner.data)


def kept_model(spec: Mapping[str, Any], state_dir: Path) -> Model:
    """Return the model that a store's spec describes; raise ``TfliteError`` where its file is not there."""
    if spec.get("kind") != KIND:
        return build(spec)
    from models.tflite.adapters.files import read_file  # noqa: PLC0415 - see above
    from models.tflite.runtime import RuntimeUnavailable  # noqa: PLC0415 - see above

    try:
        return _built(read_file(state_dir / _FILE), spec)
    except OSError as exc:
        raise TfliteError(f"{state_dir / _FILE}: {exc.strerror or exc}; the aggregator puts it there") from exc
    except RuntimeUnavailable as exc:
        raise TfliteError(str(exc)) from exc


def warnings_of(model: Model) -> list[str]:
    """Return what is allowed, and still may not be what was meant."""
    begins_anew: tuple[str, ...] = getattr(getattr(model, "contract", None), "begins_anew", ())
    if not begins_anew:
        return []
    names = ", ".join(begins_anew)
    said = f"[model] train of the .tflite file changes {names}, and set does not: as in the file"
    return [f"{said} they are whenever a device begins a training, and when it goes on with one"]


def _built(data: bytes, spec: Mapping[str, Any]) -> Model:
    from models.tflite.contract import TrainableSpec  # noqa: PLC0415 - see above
    from models.tflite.runtime import load_runtime  # noqa: PLC0415 - see above
    from models.tflite.trainable import TrainableModel  # noqa: PLC0415 - see above

    return TrainableModel(data, TrainableSpec.from_data(spec), load_runtime())
