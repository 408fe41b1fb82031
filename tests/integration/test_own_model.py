"""The section of docs/models.md for newcomers, carried out as it stands there: own data, own model, own predictions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from fedmq.embedded_broker import free_port

ROOT = Path(__file__).parents[2]
HEADING = "## Your own data and model in ten minutes"
PATIENCE_S = 240.0
FILES = ("make.py", "split.py", "aggregator.toml", "device-1.toml", "predict.py")
WAIT = "until [ -f versions/version-00000005.tflite ] && [ -f versions/current.tflite ]; do sleep 0.2; done\n"
"""Stands where a reader looks at the monitor for a while, before asking how far it is."""

END = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
"""Whatever went wrong: each job is a group of processes of its own, and those end with the shell."""


def blocks() -> list[tuple[str, str]]:
    """Return (language, text) of all that is to be copied, without the installation."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    section = text.split(HEADING, 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^```(\w+)\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    assert "./scripts/setup" in found[0][1]
    return found[1:]


def script(port: int) -> str:
    """Return one shell script that does what a reader does."""
    names = iter(FILES)
    lines = ["set -em\n", END]
    for language, text in blocks():
        if language == "sh":
            if "fedmq-aggregator status" in text:
                lines.append(WAIT)
            lines.append(text.replace("fedmq broker", f"fedmq broker --port {port}"))
        else:
            there = text.replace("1883", str(port))
            lines.append(f"cat > {next(names)} <<'END OF FILE'\n{there}END OF FILE\n")
    assert next(names, None) is None
    return "".join(lines)


def test_a_newcomer_can_copy_every_line(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (tmp_path / "out").open("w", encoding="utf-8") as out:
        environment = {**os.environ, "PATH": path}
        command = ["bash", "-c", script(free_port())]
        shell = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=out)
        try:
            code = shell.wait(PATIENCE_S)
        finally:
            shell.terminate()
            shell.wait(PATIENCE_S)

    said = (tmp_path / "out").read_text(encoding="utf-8")
    logs = "".join(f"== {job.name}\n{job.read_text(encoding='utf-8')[-2000:]}" for job in tmp_path.glob("*.log"))
    assert code == 0, said + logs
    assert re.search(r"^class [012] with \d+%; it is [012]$", said, re.MULTILINE), said
    assert "rows right that nobody has trained on" in said
    assert (tmp_path / "small.tflite").stat().st_size > 0
