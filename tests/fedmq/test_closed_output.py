"""``... | head -1``: whoever stops reading gets no complaint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fedmq

ROOT = Path(fedmq.__file__).parent.parent

AGENT = """
[device]
id = "a"
federation = "f"
state_dir = "state"
[data]
path = "samples.npz"
"""
AGGREGATOR = """
[aggregator]
federation = "f"
state_dir = "state"
[model]
kind = "softmax"
inputs = 2
outputs = 2
"""


def without_a_reader(folder: Path, *command: str, unbuffered: bool) -> tuple[int, str]:
    """Run the command; its output goes to a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({"PYTHONUNBUFFERED": "1"} if unbuffered else {})
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
            check=False,
        )
    finally:
        os.close(writing)
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", [False, True], ids=["buffered", "at once"])
@pytest.mark.parametrize(
    "command",
    [
        "device_agent run --check --config agent.toml",
        "device_agent status --config agent.toml",
        "device_agent --help",
        "aggregator run --check --config aggregator.toml",
        "aggregator status --config aggregator.toml",
        "aggregator --help",
        "fedmq --help",
        "fedmq provision --help",
        "fedmq init --to made",
    ],
)
def test_a_command_whose_reader_has_gone_ends_without_a_word(tmp_path: Path, command: str, unbuffered: bool) -> None:
    (tmp_path / "agent.toml").write_text(AGENT)
    (tmp_path / "aggregator.toml").write_text(AGGREGATOR)
    code, said = without_a_reader(tmp_path, *command.split(), unbuffered=unbuffered)
    assert "Traceback" not in said
    assert "Broken" not in said
    assert "Exception ignored" not in said
    assert code != 120, "the interpreter complained at its end"
    if "device_agent run" in command:
        assert (code, said) == (141, "")
