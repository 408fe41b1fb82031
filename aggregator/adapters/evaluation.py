"""The aggregator's own data, on which versions are judged before they are published."""

from __future__ import annotations

import logging
import math
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aggregator.adapters.backbones import embedded, samples_of
from aggregator.frozen import Backbone
from aggregator.stepping import Evaluator
from models import DataError, Dataset, Model, TfliteError
from models.data import Shaped
from protocol.settings import ConfigurationError

log = logging.getLogger(__name__)


def evaluator_of(path: str, model: Model, backbone: Backbone | None = None) -> Evaluator:
    """Return what judges parameters on the NPZ file's arrays ``x`` and ``y``; without a path it finds nothing to say.

    Where the task is reconstruction, there need be no ``y``. With a backbone these are samples, as devices have them,
    which go through it once, here. Raise ``ConfigurationError`` when the file cannot be read or does not fit, or there
    is nothing to run the backbone with.
    """
    if not path:
        return lambda _parameters: {}
    data = _read(Path(path), samples_of(model, backbone))
    if backbone is not None:
        data = embedded(backbone, model, data)

    def evaluate(parameters: NDArray[np.float32]) -> dict[str, float]:
        # A candidate that has gone astray overflows; its infinite loss is the verdict, a warning would add nothing.
        try:
            with np.errstate(all="ignore"):
                return model.evaluate(parameters, data).summary()
        except TfliteError as exc:
            # A file that worked at the start: no version is worth the end of the federation.
            log.error(f"a version cannot be evaluated: {exc}")  # noqa: TRY400 - the reason is known
            return {"loss": math.inf}

    return evaluate


def _read(path: Path, model: Shaped) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            needed = ("x",) if model.task == "reconstruction" else ("x", "y")
            missing = [name for name in needed if name not in arrays]
            if missing:
                found = ", ".join(sorted(arrays)) or "none"
                raise ConfigurationError(f"evaluation.path: {path} has no array {missing[0]!r}; it has {found}")
            return Dataset.for_model(model, arrays["x"], arrays["y"] if "y" in needed else None)
    except DataError as exc:
        raise ConfigurationError(f"evaluation.path: {path}: {exc}") from exc
    except OSError as exc:
        raise ConfigurationError(f"evaluation.path: {path} cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as exc:
        raise ConfigurationError(f"evaluation.path: {path} is no NPZ file of plain arrays: {exc}") from exc
