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


@pytest.mark.parametrize("name", ["http", "email", "tempfile", "ast", "numpy"])
def test_the_agent_starts_without(name: str) -> None:
    assert run(f"print({name!r} in sys.modules)") == "False"


@pytest.mark.parametrize("name", ["device_agent.adapters.drifting", "models.drift"])
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
