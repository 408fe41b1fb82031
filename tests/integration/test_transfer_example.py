"""The example of transfer learning, as a reader would start it, with fewer devices and versions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "examples" / "transfer" / "transfer.py"
LINE = re.compile(
    r"^(?P<name>\w.*?)  +(?P<accuracies>[\d. ]+?)  +(?P<parameters>[\d,]+) +(?P<update>[\d,]+) B +[\d.]+ ms$",
    re.MULTILINE,
)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROGRAM), *words], capture_output=True, text=True, check=False)


def test_a_backbone_helps_a_head_to_learn_what_it_was_not_trained_on() -> None:
    done = run("--devices", "3", "--versions", "3", "--each", "2")

    assert done.returncode == 0, done.stderr
    lines = {found["name"]: found for found in LINE.finditer(done.stdout)}
    assert list(lines) == ["head on the backbone", "same head on raw windows", "the CNN from nothing"], done.stdout
    backbone, plain, network = lines.values()
    # A version is made of one update of each device, and trainings have seeds: no pace changes these figures.
    assert float(backbone["accuracies"].split()[-1]) > float(plain["accuracies"].split()[-1]) + 0.1, done.stdout
    parameters = [int(found["parameters"].replace(",", "")) for found in (backbone, plain, network)]
    assert parameters == [195, 1803, 13587]
    sent = [int(found["update"].replace(",", "")) for found in (backbone, plain, network)]
    assert sent == sorted(sent)
    # Two windows of three exercises, at least three trainings.
    assert "Each device ran the backbone 6 times, for 6 windows" in done.stdout


def test_what_cannot_be_is_said() -> None:
    for words, said in ((("--known", "1"), "2 to 5 of the exercises 0 to 6"), (("--each", "0"), "1 to 10")):
        done = run(*words)
        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr
