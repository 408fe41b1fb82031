"""A device predicts on while versions change, by whatever works."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from device_agent.adapters.predicting import ServingPredictor
from models import DataError
from models.predicting import NumpyPredictor, Origin
from models.tflite import runtime as runtimes
from models.tflite.file import TfliteModel
from models.tflite.predicting import TflitePredictor
from models.tflite.runtime import RuntimeUnavailable
from tests.models.examples import model_and_data

ORIGIN = Origin(federation="mill", epoch="00e1", version=1)


def test_both_ways_say_the_same(tmp_path: Path) -> None:
    model, parameters, data = model_and_data("mlp-tanh")
    path = tmp_path / "model.tflite"
    with_runtime, without = ServingPredictor(model, path), ServingPredictor(model, tflite=False)
    for number in range(3):
        values = parameters * np.float32(1 + number)
        for predictor in (with_runtime, without):
            predictor.update(values, Origin(federation="mill", epoch="00e1", version=number))
        np.testing.assert_allclose(with_runtime.predict(data.x), without.predict(data.x), atol=1e-5)
        assert TfliteModel.parse(path.read_bytes(), model).origin.version == number
    assert with_runtime.by != "numpy"
    assert not with_runtime.why_not
    assert (without.by, without.why_not) == ("numpy", "switched off")


def test_without_a_runtime_numpy_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise RuntimeUnavailable("nothing there")

    monkeypatch.setattr(runtimes, "load_runtime", none)
    model, parameters, data = model_and_data("mlp-mse")
    predictor = ServingPredictor(model)
    predictor.update(parameters, ORIGIN)
    assert (predictor.by, predictor.why_not) == ("numpy", "nothing there")
    assert np.array_equal(predictor.predict(data.x), model.predict(parameters, data.x))


def test_a_runtime_that_answers_otherwise_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TflitePredictor.predict
    monkeypatch.setattr(TflitePredictor, "predict", lambda self, x: right(self, x) * np.float32(1.01))
    model, parameters, data = model_and_data("mlp-mse")
    predictor = ServingPredictor(model)
    predictor.update(parameters, ORIGIN)
    assert predictor.by == "numpy"
    assert "differs from NumPy" in predictor.why_not
    assert np.array_equal(predictor.predict(data.x), model.predict(parameters, data.x))


def test_a_model_that_diverged_is_no_reason_to_change(tmp_path: Path) -> None:
    model, parameters, data = model_and_data("mlp-mse")
    predictor = ServingPredictor(model, tmp_path / "no" / "such" / "folder.tflite")
    predictor.update(np.full_like(parameters, np.inf), ORIGIN)
    assert predictor.by != "numpy"
    predictor.update(parameters, ORIGIN)
    np.testing.assert_allclose(predictor.predict(data.x), model.predict(parameters, data.x), atol=1e-5)


def test_what_does_not_fit_is_refused_alike() -> None:
    model, parameters, _ = model_and_data("linear")
    serving = ServingPredictor(model)
    with pytest.raises(RuntimeError, match="no version"):
        serving.predict(np.zeros((1, 5), np.float32))
    serving.update(parameters, ORIGIN)
    for predictor in (serving, NumpyPredictor(model, parameters)):
        with pytest.raises(DataError, match="allowed is"):
            predictor.predict(np.zeros((1, 4), np.float32))


def test_many_ask_while_versions_change() -> None:
    model, parameters, data = model_and_data("softmax")
    predictor = ServingPredictor(model)
    versions = [model.init(np.random.default_rng(0)) + np.float32(number) * parameters for number in range(12)]
    allowed = [model.predict(version, data.x) for version in versions]
    predictor.update(versions[0], ORIGIN)
    faults: list[object] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            found = predictor.predict(data.x)
            if not any(np.allclose(found, one, atol=1e-5) for one in allowed):
                faults.append(found)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in versions:
        predictor.update(version, ORIGIN)
    over.set()
    for thread in threads:
        thread.join()
    assert not faults
