"""Versions as files for other programs: NPZ for NumPy, ``.tflite`` for TFLite runtimes, chosen by the suffix.

What is written is noted first, with its SHA-256: no file that was exported is without its entry.
"""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from aggregator.adapters.calibrating import Calibrator
from aggregator.adapters.errors import ExportFailed
from aggregator.adapters.exports import ExportLog
from aggregator.adapters.registry import Registry
from aggregator.card import Export
from aggregator.downlink import vector_of
from models import DataError, Model, TfliteError
from models.parameters import FloatArray
from models.predicting import Origin
from models.tflite.adapters.files import write_file
from models.tflite.calibration import scheme_of
from models.tflite.file import TfliteModel, check_layers
from models.tflite.lowering import lower
from models.tflite.predicting import TflitePredictor
from models.tflite.runtime import RuntimeUnavailable, load_runtime
from protocol.chunks import digest_of

SUFFIXES = (".npz", ".tflite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the operator wants."""

    version: int
    to: Path
    int8: bool = False
    calibration: Path | None = None
    """Examples, statistics or ranges, for int8."""


def export(registry: Registry, log: ExportLog, wish: Wish, fallback: Path | None = None) -> dict[str, Any]:
    """Write the version, and note it in the log; return what was done.

    ``fallback`` has examples (``x``) in case the wish names no calibration. Raise ``ExportFailed``, ``NotKept``,
    ``StoreError`` or ``OSError``; the file is there whole, or as it was before.
    """
    suffix = wish.to.suffix.lower()
    if suffix not in SUFFIXES:
        raise ExportFailed(f"{wish.to}: the name has to end in {' or '.join(SUFFIXES)}, which says what is written")
    if suffix == ".npz" and (wish.int8 or wish.calibration):
        raise ExportFailed("--int8 and --calibration are for .tflite files; an NPZ file has the parameters as they are")
    if wish.calibration and not wish.int8:
        raise ExportFailed("--calibration without --int8: float32 needs none")
    parameters = registry.parameters(wish.version)
    vector = vector_of(parameters).astype(np.float32)
    federation, epoch = registry.identity()
    origin = Origin(federation=federation, epoch=epoch, version=wish.version)
    try:
        model = registry.model()
        data, done = _npz(model, vector, origin) if suffix == ".npz" else _tflite(model, vector, wish, origin, fallback)
    except (DataError, TfliteError) as exc:
        raise ExportFailed(str(exc)) from exc
    made = Export(
        sha256=digest_of(data),
        epoch=epoch,
        version=wish.version,
        file=str(wish.to.absolute()),
        format=suffix[1:],
        weights="int8" if wish.int8 else "float32",
        bytes=len(data),
        parameters=digest_of(parameters),
        calibration=_digest_of_file(wish.calibration or fallback) if wish.int8 else "",
        made=time.time(),
    )
    write_noted(log, wish.to, data, made)
    return {"version": wish.version, "file": str(wish.to), **done, "sha256": made.sha256}


def write_noted(log: ExportLog, to: Path, data: bytes, made: Export) -> None:
    """Note the file, then write it. Raise ``StoreError`` or ``OSError``; then neither is there, or as it was before."""
    known = made.sha256 in {export.sha256 for export in log.of_version(made.epoch, made.version)}
    log.note(made)
    try:
        write_file(to, data)
    except OSError:
        if not known:
            log.forget(made)
        raise


def _npz(model: Model, vector: FloatArray, origin: Origin) -> tuple[bytes, dict[str, Any]]:
    """Return a file with an array for each named part, ``parameters`` (the flat vector), ``spec`` (JSON text)."""
    arrays: dict[str, Any] = {
        **model.layout.views(vector),
        "parameters": vector,
        "spec": np.array(msgspec.json.encode(model.spec).decode()),
        "layout": np.array(model.layout.digest),
        "version": np.array(origin.version),
        "federation": np.array(origin.federation),
        "epoch": np.array(origin.epoch),
    }
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue(), {"arrays": [name for name, _ in model.layout.entries], "bytes": vector.nbytes}


def _tflite(
    model: Model, vector: FloatArray, wish: Wish, origin: Origin, fallback: Path | None
) -> tuple[bytes, dict[str, Any]]:
    check_layers(model)
    calibrator = _calibrator(model, wish, fallback) if wish.int8 else None
    scheme = None
    if calibrator is not None:
        graph = lower(model, vector)
        scheme = scheme_of(graph, calibrator.ranges(graph))
    file = TfliteModel.export(model, vector, origin, scheme)
    done = {"weights": "int8" if wish.int8 else "float32", "bytes": len(file.data)}
    examples = calibrator.examples if calibrator else None
    return file.data, done | (_compared(file, vector, examples) if examples is not None else {})


def _digest_of_file(path: Path | None) -> str:
    if path is None:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _calibrator(model: Model, wish: Wish, fallback: Path | None) -> Calibrator:
    source = wish.calibration or fallback
    if source is None:
        raise ExportFailed(
            "--int8 needs to know the ranges of the activations: name a file with examples, statistics or ranges by "
            "--calibration, or give the aggregator data of its own ([evaluation] path)"
        )
    return Calibrator.read(source, model)


def _compared(file: TfliteModel, vector: FloatArray, x: FloatArray) -> dict[str, Any]:
    """Return how the file's answers compare with NumPy's, where a runtime is installed; else nothing."""
    try:
        runtime = load_runtime()
    except RuntimeUnavailable:
        return {}
    exact, found = file.model.predict(vector, x), TflitePredictor(runtime, file).predict(x)
    difference = {"difference": float(np.abs(exact - found).max())}
    if file.model.task != "classification":
        return difference
    return {"agreement": float((exact.argmax(axis=1) == found.argmax(axis=1)).mean()), **difference}
