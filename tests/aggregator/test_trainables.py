"""A federation whose model is the operator's own ``.tflite`` file: checked at the start, and carried to devices."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.__main__ import main
from aggregator.adapters.exporting import Wish, export
from aggregator.adapters.exports import ExportLog
from aggregator.adapters.opening import open_store
from aggregator.adapters.preparing import Prepared, prepare
from aggregator.adapters.registry import NotKept, open_registry
from aggregator.adapters.trainables import keep_file, warnings_of
from aggregator.manifests import History, manifest_of
from models.tflite import runtime as runtimes
from models.tflite.runtime import RuntimeUnavailable
from protocol.packing import decode_manifest, encode
from protocol.settings import ConfigurationError
from tests.support.aggregators import write_config
from tests.support.trainable import softmax_file

FILE = softmax_file(4, 3)


def config_of(folder: Path, data: bytes = FILE, *, model: str = "", training: str = "", more: str = "") -> Path:
    (folder / "my.tflite").write_bytes(data)
    config = write_config(folder, more=more)
    text = config.read_text().replace(
        'kind = "softmax"\ninputs = 4\noutputs = 3', f'kind = "tflite"\npath = "my.tflite"\n{model}'
    )
    config.write_text(text.replace("learning_rate = 0.1", training))
    return config


def refusal(*given: Any, **changes: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        prepare(config_of(*given, **changes))
    return str(caught.value)


def opened(prepared: Prepared) -> None:
    open_store(prepared.state_dir, prepared.founding, prepared.settings.registry).close()
    keep_file(prepared.state_dir, prepared.learner)


def test_version_0_is_what_the_file_holds_and_the_manifest_names_the_file(tmp_path: Path) -> None:
    prepared = prepare(config_of(tmp_path))
    version, _, shelf = prepared.founding.begin()
    vector = np.frombuffer(version.parameters, np.float32)
    np.testing.assert_array_equal(vector, prepared.model.init(np.random.default_rng(0)))
    assert np.abs(vector).max() > 0
    digest = hashlib.sha256(FILE).hexdigest()
    assert digest in {entry.digest for entry in shelf}
    history = History(epoch="e" * 16, generation=0, issued=0)
    manifest = decode_manifest(encode(manifest_of(prepared.settings, prepared.model, history, version)))
    assert manifest.model == {"kind": "tflite", "task": "classification", "digest": digest, "size": len(FILE)}
    assert manifest.backbone is None
    carried = prepared.carried
    assert carried is not None
    assert (carried.blob.digest, carried.data, carried.ref) == (digest, FILE, None)


def test_files_that_cannot_be_federated_are_refused_with_the_reason(tmp_path: Path) -> None:
    flex = refusal(tmp_path, softmax_file(4, 3, needs="FlexReluGrad"))
    assert "my.tflite cannot be federated: it needs operators of TensorFlow itself (FlexReluGrad)" in flex
    assert "no .tflite file" in refusal(tmp_path, b"x" * 100)
    assert "change nothing of what get gives" in refusal(tmp_path, softmax_file(4, 3, stale=True))
    other = refusal(tmp_path, model='signatures = { get = "parameters" }')
    assert "it has no signature parameters (it has 'get', 'infer', 'set', 'train')" in other
    (tmp_path / "my.tflite").unlink()
    with pytest.raises(ConfigurationError, match=r"my\.tflite cannot be read: No such file"):
        prepare(tmp_path / "aggregator.toml")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"training": "learning_rate = 0.1"}, r"\[training\]: training: the .tflite file decides on learning_rate"),
        ({"training": 'optimizer = "sgd"\nproximal = 0.1'}, "decides on optimizer, proximal"),
        ({"model": "inputs = 4"}, "unknown key 'inputs'"),
        ({"model": 'task = "reconstruction"'}, "infer makes 3 values of 4"),
        ({"more": '[backbone]\npath = "b.tflite"'}, "what is frozen can be part of the model's file"),
        ({"more": "[statistics]\nbefore_training = true"}, r"\[statistics\] before_training and class_weights"),
        ({"more": '[statistics]\nclass_weights = "balanced"'}, r"\[statistics\] before_training and class_weights"),
        ({"more": '[registry]\nexport_tflite = "out"'}, "registry.export_tflite"),
        (
            {"more": '[personal]\nprivate = ["bias"]\nprivate_epochs = 1'},
            "private_epochs cannot be with a .tflite file",
        ),
    ],
)
def test_what_does_not_apply_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        prepare(config_of(tmp_path, **changes))


def test_a_missing_path_and_a_missing_runtime_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    text = config.read_text()
    config.write_text(text.replace('path = "my.tflite"\n', ""))
    with pytest.raises(ConfigurationError, match=r"model\.path is missing"):
        prepare(config)
    config.write_text(text)

    def none() -> None:
        raise RuntimeUnavailable("ai-edge-litert is not installed: pip install 'fedmq[tflite]'")

    monkeypatch.setattr(runtimes, "load_runtime", none)
    with pytest.raises(ConfigurationError, match=r"needs a TFLite runtime, here and on devices.*pip install"):
        prepare(config)


def test_private_parameters_and_evaluation_work(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "e.npz", x=rng.standard_normal((20, 4), np.float32), y=rng.integers(0, 3, 20))
    more = f'[personal]\nprivate = ["bias"]\n[evaluation]\npath = "{tmp_path / "e.npz"}"'
    prepared = prepare(config_of(tmp_path, more=more))
    assert [name for name, _ in prepared.split.shared.entries] == ["weight"]
    found = prepared.evaluate(prepared.model.init(rng))
    assert set(found) == {"accuracy", "loss"}


def test_variables_that_begin_anew_are_named_by_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(tmp_path, softmax_file(4, 3, counts=True))
    with pytest.raises(SystemExit) as caught:
        main(["run", "--check", "--config", str(config)])
    assert not caught.value.code
    said = capsys.readouterr()
    assert "train of the .tflite file changes count, and set does not" in said.err
    assert "fine; a model of 15 parameters" in said.out
    assert warnings_of(prepare(config_of(tmp_path)).model) == []


def test_check_refuses_flex_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(tmp_path, softmax_file(4, 3, needs="FlexReluGrad"))
    with pytest.raises(SystemExit) as caught:
        main(["run", "--check", "--config", str(config)])
    assert caught.value.code == 2
    assert "operators of TensorFlow itself (FlexReluGrad)" in capsys.readouterr().err


def test_versions_are_exported_as_npz_only(tmp_path: Path) -> None:
    prepared = prepare(config_of(tmp_path))
    opened(prepared)
    with open_registry(prepared.state_dir) as registry:
        log = ExportLog(prepared.state_dir)
        export(registry, log, Wish(version=0, to=tmp_path / "v.npz"))
        with np.load(tmp_path / "v.npz") as arrays:
            views = prepared.model.layout.views(arrays["parameters"])
            for name in ("weight", "bias"):
                np.testing.assert_array_equal(arrays[name], views[name])
        for int8 in (False, True):
            with pytest.raises(Exception, match=r"is a \.tflite file already: export a version as \.npz"):
                export(registry, log, Wish(version=0, to=tmp_path / "v.tflite", int8=int8))
        (prepared.state_dir / "learner.tflite").unlink()
        with pytest.raises(NotKept, match=r"learner\.tflite: No such file"):
            registry.model()


def test_another_file_of_the_same_shape_goes_on_with_what_was_learned(tmp_path: Path) -> None:
    opened(prepare(config_of(tmp_path)))
    prepared = prepare(config_of(tmp_path, softmax_file(4, 3, seed=1, rate=0.1)))
    opened(prepared)
    with open_registry(prepared.state_dir) as registry:
        assert registry.spec() == prepared.model.spec
        np.testing.assert_array_equal(
            np.frombuffer(registry.parameters(0), np.float32),
            prepare(config_of(tmp_path)).model.init(np.random.default_rng(0)),
        )
