"""Files are looked at where they lie, and a runtime maps them itself: no copy of a large one in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models import TfliteError, TrainingPlan, build
from models.tflite.adapters.files import mapped
from models.tflite.backbone import Backbone, BackboneSpec
from models.tflite.contract import TrainableSpec
from models.tflite.runtime import load_runtime
from models.tflite.trainable import TrainableModel
from models.tflite.truncating import truncated
from tests.support.trainable import softmax_file


def places(path: Path) -> int:
    """How often this process has mapped the file."""
    return Path("/proc/self/maps").read_text().count(str(path))


def large(path: Path) -> Path:
    model = build({"kind": "mlp", "inputs": 8, "hidden": [40_000, 8], "outputs": 2})
    path.write_bytes(truncated(model, model.init(np.random.default_rng(0))))
    return path


def test_a_backbone_lies_in_memory_once_and_that_is_the_file(tmp_path: Path) -> None:
    path, x = large(tmp_path / "backbone.tflite"), np.ones((1, 8), np.float32)
    runtime, data = load_runtime(), path.read_bytes()
    expected = Backbone(runtime, data, BackboneSpec.of(data)).embed(x)
    with mapped(path) as found:
        assert places(path) == 1
        spec = BackboneSpec.of(found)
    backbone = Backbone(runtime, path, spec)
    assert places(path) == 1, "the runtime's mapping, and ours no more"
    path.unlink()
    np.testing.assert_array_equal(backbone.embed(x), expected)


def test_a_file_that_learns_is_opened_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "my.tflite"
    path.write_bytes(softmax_file(6, 4, rate=0.5))
    with mapped(path) as data:
        spec = TrainableSpec.of(data, {"kind": "tflite"})
        model = TrainableModel(data, spec, load_runtime(), path)
    stepper = model.stepper(model.init(np.random.default_rng(0)), TrainingPlan())
    assert np.isfinite(stepper.step(np.ones((3, 6), np.float32), np.array([0, 1, 2]), np.random.default_rng(0), ()))
    assert places(path) == 1
    path.unlink()
    with pytest.raises(TfliteError, match="cannot be loaded"):
        model.session()


@pytest.mark.parametrize("data", [b"", b"no such file at all"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(TfliteError, match=r"has 0 bytes|no \.tflite file"), mapped(path) as found:
        BackboneSpec.of(found)
