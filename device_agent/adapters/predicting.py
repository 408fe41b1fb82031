"""The predictor of a device, which serves on while versions change: by a TFLite runtime if one works, else by NumPy."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from device_agent.adapters.attempts import Attempts
from models.errors import TfliteError
from models.network import Model
from models.parameters import FloatArray
from models.predicting import NumpyPredictor, Origin, Predictor

if TYPE_CHECKING:
    from models.tflite.file import TfliteModel
    from models.tflite.runtime import Runtime

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Beside NumPy's answer, relative above 1; measured are differences below 1e-6. More means that a runtime is broken."""

MARK_NAME = "tflite.trying"
"""Beside the file of the current version."""

PROBES = 4
"""So many made-up examples are asked of a new version both ways, before it is used."""


class ServingPredictor:
    """A predictor for any thread, whose parameters are exchanged without a gap. ``update`` comes first.

    A runtime that is missing, fails or answers otherwise than NumPy is not used, ``why_not`` says so, and NumPy
    answers. With ``path`` the device's other programs find the current version there as a ``.tflite`` file, and a mark
    beside it counts the processes that a runtime took down, as one built for another processor does: after some, NumPy.
    """

    def __init__(self, model: Model, path: Path | None = None, *, tflite: bool = True) -> None:
        self._model = model
        self._path = path
        self._lock = threading.Lock()
        self._predictor: Predictor | None = None
        self._file: TfliteModel | None = None
        self._runtime: Runtime | None = None
        self._attempts: Attempts | None = None
        self.why_not = "" if tflite else "switched off"
        """Why NumPy predicts; empty when a runtime does."""
        if tflite:
            self._find_runtime()

    @property
    def by(self) -> str:
        """What computes: ``numpy``, or a runtime's name and version."""
        predictor = self._predictor
        return predictor.by if predictor else "numpy"

    def predict(self, x: FloatArray) -> FloatArray:
        """Return what ``Predictor.predict`` does, by the newest version there is.

        Raises ``DataError`` for examples that do not fit, ``RuntimeError`` before the first ``update``.
        """
        with self._lock:
            if self._predictor is None:
                raise RuntimeError("no version has been given to the predictor yet")
            return self._predictor.predict(x)

    def update(self, parameters: FloatArray, origin: Origin) -> Predictor:
        """Go over to other parameters, which must not change from here on. The old ones answer until then.

        Return what answers by these, whatever comes later.

        A file that cannot be written is logged, and the prediction goes on without it.
        """
        plain = NumpyPredictor(self._model, parameters)
        fresh: Predictor = plain
        if self._runtime is not None:
            try:
                fresh = self._by_runtime(plain, parameters, origin)
            except TfliteError as exc:
                self.why_not = str(exc)
                log.warning(f"NumPy predicts, not {self._runtime.name}: {exc}")
        if self._attempts is not None:  # it has run a version, or failed to, and the process is still there
            self._attempts.over()
            self._attempts = None
        with self._lock:
            self._predictor = fresh
        return fresh

    def _find_runtime(self) -> None:
        # Late and guarded: a device without the extra has neither a runtime nor what writes the files.
        try:
            from models.tflite.runtime import RuntimeUnavailable, installed, load_runtime  # noqa: PLC0415 - see above
        except ImportError as exc:
            self.why_not = str(exc)
            return
        found = installed()
        if self._path is not None and found:
            attempts = Attempts(self._path.with_name(MARK_NAME), f"{found}, NumPy {np.__version__}")
            if attempts.exhausted:
                self.why_not = (
                    f"{found} took this program down {attempts.died} times in a row. Install another version of it; "
                    f"to try this one again, delete {attempts.path}"
                )
                log.warning(f"NumPy predicts: {self.why_not}")
                return
            self._attempts = attempts
            attempts.begin()
        try:
            self._runtime = load_runtime()
        except (ImportError, RuntimeUnavailable) as exc:
            self.why_not = str(exc)
            if found:
                log.warning(f"NumPy predicts: {exc}")

    def _by_runtime(self, plain: NumpyPredictor, parameters: FloatArray, origin: Origin) -> Predictor:
        from models.tflite.file import TfliteModel  # noqa: PLC0415 - only where there is a runtime
        from models.tflite.predicting import TflitePredictor  # noqa: PLC0415 - see above

        assert self._runtime is not None  # noqa: S101 - for the type checker
        if self._file is None:
            file = TfliteModel.export(self._model, parameters, origin)
        else:
            file = self._file.patch(parameters, origin)
        fresh = TflitePredictor(self._runtime, file)
        _compare(plain, fresh, self._model.inputs)
        self._file = file
        self.why_not = ""
        self._save(file)
        return fresh

    def _save(self, file: TfliteModel) -> None:
        from models.tflite.adapters.files import write_file  # noqa: PLC0415 - see above

        if self._path is None:
            return
        try:
            write_file(self._path, file.data)
        except OSError as exc:
            log.warning(f"cannot write {self._path}: {exc.strerror or exc}")


def _compare(plain: Predictor, fresh: Predictor, inputs: int) -> None:
    """Raise ``TfliteError`` when the two differ on a few examples."""
    x = np.random.default_rng(0).standard_normal((PROBES, inputs), dtype=np.float32)
    expected, found = plain.predict(x), fresh.predict(x)
    if not np.isfinite(expected).all():
        return  # a model that diverged: how NaN and infinity travel is nobody's promise
    difference = float(np.max(np.abs(expected - found) / np.maximum(1.0, np.abs(expected))))
    if not difference <= TOLERANCE:
        raise TfliteError(f"{fresh.by} differs from NumPy by {difference:.2g} on made-up examples")
