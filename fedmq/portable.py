"""The last version as ``.tflite`` files: how large they are, and whether a runtime says with them what NumPy says."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aggregator.adapters.exporting import Wish, export
from aggregator.adapters.exports import ExportLog
from aggregator.downlink import vector_of
from fedmq.baseline import Score
from models import build
from models.answering import standardize_of
from models.tflite.file import TfliteModel
from models.tflite.predicting import TflitePredictor
from models.tflite.runtime import RuntimeUnavailable, load_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.adapters.registry import Registry
    from fedmq.demo_data import Labels
    from fedmq.demo_task import Dealt
    from fedmq.workshop import Workshop
    from models import Model
    from models.parameters import FloatArray
    from models.tflite.runtime import Runtime

NAMES = {"float32": "final.tflite", "int8": "final-int8.tflite"}


SHOWN = 4
"""Answers that people are shown: as many as fit into a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a file says of one example."""

    said: int
    truth: int
    share: float
    """How sure it is, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portable:
    """One file, and what became of it."""

    weights: str
    """``float32`` or ``int8``."""
    size_bytes: int
    score: Score | None = None
    """On what nobody has, as a runtime predicts with it; None: there is no runtime."""
    agreement: float | None = None
    """Share of examples of which it says the same as NumPy: the same class, or the same about an alarm."""
    difference: float | None = None
    """The largest, of all the numbers that it answers."""
    answers: tuple[Answer, ...] = ()
    """Some, where examples have classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ported:
    """Both files."""

    files: tuple[Portable, ...]
    by: str
    """The runtime; empty: none."""
    why_not: str
    """Why there is none."""


def port(registry: Registry, version: int, workshop: Workshop, dealt: Dealt, threshold: float | None) -> Ported:
    """Write both files into the workshop and ask a runtime, where there is one, about what nobody has.

    int8 is calibrated with the aggregator's examples, as the command ``export`` does unless told otherwise: they
    say between which values activations lie, and nothing of what is right. Raises what ``export`` raises.
    """
    with _quiet():
        return _port(registry, version, workshop, dealt, threshold)


def _port(registry: Registry, version: int, workshop: Workshop, dealt: Dealt, threshold: float | None) -> Ported:
    model = build(registry.spec())
    vector = vector_of(registry.parameters(version)).astype(np.float32)
    runtime, why_not = _runtime()
    log = ExportLog(workshop.aggregator_state())
    files = []
    for weights, name in NAMES.items():
        path = workshop.folder / name
        export(registry, log, Wish(version=version, to=path, int8=weights == "int8"), workshop.evaluation)
        data = path.read_bytes()
        file = Portable(weights=weights, size_bytes=len(data))
        files.append(_asked(runtime, file, data, model, vector, dealt, threshold) if runtime else file)
    return Ported(files=tuple(files), by=f"{runtime.name} {runtime.version}" if runtime else "", why_not=why_not)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a runtime's C++ writes to stderr by itself ("INFO: Created ...") off the terminal."""
    sys.stderr.flush()
    kept = os.dup(sys.stderr.fileno())
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())
        yield
    finally:
        os.dup2(kept, sys.stderr.fileno())
        os.close(kept)


def _runtime() -> tuple[Runtime | None, str]:
    try:
        return load_runtime(), ""
    except RuntimeUnavailable as exc:
        return None, str(exc)


def _asked(  # noqa: PLR0917 - a file, whose model it is, and what is asked
    runtime: Runtime,
    file: Portable,
    data: bytes,
    model: Model,
    vector: FloatArray,
    dealt: Dealt,
    threshold: float | None,
) -> Portable:
    predictor = TflitePredictor(runtime, TfliteModel.parse(data, model))
    usual = dealt.unseen
    exact, found = model.predict(vector, usual.x), predictor.predict(usual.x)
    told = replace(file, difference=float(np.abs(exact - found).max()))
    if dealt.odd is None:
        said = found.argmax(axis=1)
        score = Score(float((said == usual.y).mean()))
        agreement = float((said == exact.argmax(axis=1)).mean())
        return replace(told, score=score, agreement=agreement, answers=_some(found, usual.y))
    if threshold is None:
        return told
    alarms = [_errors(model, vector, samples.x, predictor) > threshold for samples in (dealt.odd, usual)]
    by_numpy = [model.errors(vector, samples.x) > threshold for samples in (dealt.odd, usual)]
    agreement = float((np.concatenate(alarms) == np.concatenate(by_numpy)).mean())
    return replace(told, score=Score(float(alarms[0].mean()), float(alarms[1].mean())), agreement=agreement)


def _some(found: FloatArray, truth: Labels) -> tuple[Answer, ...]:
    """Return the answers about one example each of some classes: that in the middle, for neighbours are alike."""
    classes = np.unique(truth)
    asked = classes[np.linspace(0, len(classes) - 1, min(SHOWN, len(classes)), dtype=int)]
    places = [np.flatnonzero(truth == one) for one in asked]
    middles = [int(of_one[len(of_one) // 2]) for of_one in places]
    return tuple(
        Answer(said=int(found[place].argmax()), truth=int(truth[place]), share=float(found[place].max()))
        for place in middles
    )


def _errors(model: Model, vector: FloatArray, x: FloatArray, predictor: TflitePredictor) -> FloatArray:
    """Return what ``Model.errors`` does, of the predictor's reconstructions: those are of standardized values."""
    constants = standardize_of(model)
    wanted = x
    if constants is not None:
        views = model.layout.views(vector)
        wanted = (x - views[f"{constants.name}.mean"]) * views[f"{constants.name}.scale"]
    result: FloatArray = np.square(wanted - predictor.predict(x)).mean(axis=1)
    return result
