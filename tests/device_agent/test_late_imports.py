"""What a running agent does not load until somebody needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import sys
sys.modules["typing_extensions"] = None  # of a developer's environment; imports inspect for itself
from device_agent.adapters.late_imports import postponed
import device_agent.__main__
with postponed():
    import device_agent.service
"""


def run(program: str) -> str:
    command = [sys.executable, "-c", BEGIN + program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("name", ["http", "email", "tempfile", "ast", "numpy", "shutil", "bz2", "lzma"])
def test_the_agent_starts_without(name: str) -> None:
    arguments = "['run', '--config', '/nonexistent.toml', '--check']"
    assert run(f"device_agent.__main__.main({arguments}); print({name!r} in sys.modules)") == "False"


@pytest.mark.parametrize(
    "name",
    [
        "csv",
        "device_agent.adapters.drifting",
        "device_agent.adapters.surveying",
        "models.drift",
        "models.layers.convolution",
        "models.layers.normalization",
        "models.layers.recurrent",
        "zipfile",
    ],
)
def test_the_trainer_starts_without(name: str) -> None:
    assert run(f"import device_agent.adapters.workbench; print({name!r} in sys.modules)") == "False"


@pytest.mark.parametrize(
    ("use", "answer"),
    [
        ("import urllib.request; print(urllib.request.Request('http://h/p').host)", "h"),
        ("import inspect; print(inspect.signature(lambda a: 0))", "(a)"),
        ("from inspect import signature; print(signature(lambda a: 0))", "(a)"),
        ("import paho.mqtt.client as c; print(c.urllib.request.Request('http://h/p').host)", "h"),
        ("from protocol.settings import expectation; print(expectation(bool))", "true or false"),
        ("import numpy; print(numpy.arange(3).sum())", "3"),
    ],
)
def test_what_is_used_after_all_is_whole(use: str, answer: str) -> None:
    assert run(use) == answer


def test_the_finder_is_gone_afterwards() -> None:
    assert run("print([type(f).__module__ for f in sys.meta_path if 'late' in type(f).__module__])") == "[]"
