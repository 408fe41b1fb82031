"""A runtime is found, or it is said what is in its way: with packages that are broken as real ones are."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from models.tflite.runtime import RuntimeUnavailable, load_runtime


def install(folder: Path, package: str, module: str, code: str) -> None:
    """Put a package where Python finds it, as pip would."""
    name, _, submodule = module.partition(".")
    (folder / name).mkdir()
    (folder / name / "__init__.py").touch()
    (folder / name / f"{submodule}.py").write_text(code)
    info = folder / f"{name}-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.9\n")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith(("tflite_runtime", "ai_edge_litert"))]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def why_not(package: str) -> str:
    with pytest.raises(RuntimeUnavailable) as caught:
        load_runtime([package])
    return str(caught.value)


def test_the_installed_one_is_found() -> None:
    found = load_runtime()
    assert found.name == "ai-edge-litert"
    assert found.version[0].isdigit()


def test_none_is_installed() -> None:
    assert "pip install 'fedmq[tflite]'" in why_not("tflite-runtime")
    assert "no such runtime" in why_not("torch")


def test_the_old_one_does_not_go_with_a_new_numpy(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(packages, "tflite-runtime", "tflite_runtime.interpreter", "raise SystemExit('never imported')")
    monkeypatch.setattr(np, "__version__", "2.1.0")
    said = why_not("tflite-runtime")
    assert "NumPy 1.x" in said
    assert "2.1.0" in said
    assert "pip install 'numpy<2'" in said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('wrong ELF class: ELFCLASS32')", "wrong ELF class"),
        ("Interpreter = None", "does not work"),
        ("def Interpreter(**_): raise SystemError('returned a result with an exception set')", "exception set"),
    ],
)
def test_a_broken_one_says_how(packages: Path, code: str, said: str) -> None:
    install(packages, "ai-edge-litert", "ai_edge_litert.interpreter", code)
    found = why_not("ai-edge-litert")
    assert said in found
    assert "9.9" in found
    assert "pip install" in found
