"""Where int8 gets the ranges of its activations from: examples, statistics of the features, or plain ranges."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from models import Dataset, Model, TfliteError
from models.parameters import FloatArray
from models.tflite.calibration import Ranges, Statistics, ranges_of
from models.tflite.graph import Graph

DRAWN_ROWS = 1000
"""Examples that are drawn where there are only statistics."""

_STATISTICS = ("mean", "deviation", "low", "high")


@dataclass(frozen=True, slots=True, eq=False)
class Calibrator:
    """What a calibration file gives."""

    examples: FloatArray | None = None
    """Real ones only."""
    statistics: Statistics | None = None
    given: Ranges | None = None

    @classmethod
    def read(cls, path: Path, model: Model) -> Calibrator:
        """Read a file: JSON with ranges by name, or NPZ with ``x``, or with mean, deviation, low and high of features.

        Raise ``TfliteError`` or ``DataError``, naming what is wrong, or ``OSError``.
        """
        if path.suffix.lower() == ".json":
            return cls(given=_ranges(path))
        arrays = _arrays(path)
        if "x" in arrays:
            return cls(examples=Dataset.features(model.inputs, arrays["x"]))
        missing = [name for name in _STATISTICS if name not in arrays]
        if missing:
            raise TfliteError(
                f"{path} has neither x (examples) nor {missing[0]}: statistics are {', '.join(_STATISTICS)}"
            )
        rows = {name: Dataset.features(model.inputs, np.atleast_2d(arrays[name]))[0] for name in _STATISTICS}
        return cls(statistics=Statistics(**rows))

    def ranges(self, graph: Graph) -> Ranges:
        """Return the range of each activation of the graph; raise ``TfliteError`` without any example."""
        if self.given is not None:
            return self.given
        if self.examples is not None:
            return ranges_of(graph, self.examples)
        if self.statistics is None:
            raise TfliteError("nothing to calibrate with")
        return ranges_of(graph, self.statistics.examples(DRAWN_ROWS, np.random.default_rng(0)))


def _ranges(path: Path) -> dict[str, tuple[float, float]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[float, float]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise TfliteError(f'{path} does not hold ranges, as in {{"x": [-1.5, 2.0]}}: {exc}') from exc


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("x", *_STATISTICS) if name in arrays}
    except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as exc:
        raise TfliteError(f"{path} is no NPZ file of plain arrays: {exc}") from exc
