"""What the boards are given, and what is done on them by hand: installing, provisioning, enrolling."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from tests.boot.board import Board

ROOT = Path(__file__).parent.parent.parent
CLONE = "/run/host/fedmq"
WHEELS = "/run/host/wheels"
INSTALL = f"{CLONE}/systemd/install"

LATER = "/run/host/releases"

SIGNALS = "        for number in (signal.SIGTERM, signal.SIGINT):\n"
RELEASES: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "good": ("0.2.0", {}),
    "crashing": ("0.3.0", {"device_agent/service.py": (SIGNALS, '        raise SystemExit("a broken release")\n')}),
    "silent": (
        "0.4.0",
        {"protocol/adapters/notify.py": ('return self._address.startswith(("/", "@"))', "return False")},
    ),
    "flapping": (
        "0.5.0",
        {
            "device_agent/service.py": (
                SIGNALS,
                f"        import os, threading\n        threading.Timer(2.0, os._exit, (9,)).start()\n{SIGNALS}",
            )
        },
    ),
}
"""Later releases, with what was changed in them: one that ends at once, one that never says READY, and one that says so
and ends soon after."""

SAMPLES = """
import numpy as np
rng = np.random.default_rng(0)
y = rng.integers(0, 3, 400)
np.savez("/srv/samples.npz", x=rng.normal(size=(3, 8))[y] + rng.normal(size=(400, 8)), y=y)
"""

MODEL = """
[model]
kind = "mlp"
inputs = 8
hidden = [16]
outputs = 3

[schedule]
goal = 1
interval_s = 1.0

[participation]
contributions_per_version = 1
"""


def make_wheels(folder: Path) -> Path:
    """Make, or complete, a folder of wheels for this machine, with a wheel of this clone in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("fedmq-*.whl"):
        old.unlink()
    pip = [sys.executable, "-m", "pip"]
    needs = [f"{ROOT}[aggregator]"]
    subprocess.run([*pip, "wheel", "--quiet", "--find-links", folder, "--wheel-dir", folder, *needs], check=True)
    return folder


def changed_wheels(folder: Path, wheels: Path, version: str, edits: dict[str, tuple[str, str]]) -> Path:
    """Make a folder of wheels in which fedmq is of another version, with texts of its modules replaced."""
    folder.mkdir()
    for wheel in wheels.glob("*.whl"):
        if not wheel.name.startswith("fedmq-"):
            shutil.copy(wheel, folder)
    tree = folder / "tree"
    packages = ("aggregator", "broker_config", "device_agent", "fedmq", "models", "protocol")
    for name in packages:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    for name, (old, new) in {"pyproject.toml": ('version = "0.1.0"', f'version = "{version}"'), **edits}.items():
        text = (tree / name).read_text()
        assert old in text, f"{name} has no {old!r}"
        (tree / name).write_text(text.replace(old, new, 1))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(tree)]
    subprocess.run(pip, check=True)
    shutil.rmtree(tree)
    return folder


def follow_the_operations(board: Board) -> None:
    """Install, provision and enroll on one board, in the order of docs/operations.md."""
    for role in ("broker", "agent", "aggregator"):
        wheels = [] if role == "broker" else ["--wheels", WHEELS]
        board.run(INSTALL, role, *wheels)
    board.run("fedmq", "provision", "init", "plant", "--broker", "localhost", "--keystore", "/root/keystore")
    for arguments in (["device", "press-001"], ["monitor", "office"], ["install"]):
        board.run("fedmq", "provision", *arguments, "--keystore", "/root/keystore")
    configuration = board.run("cat", "/etc/fedmq/aggregator/aggregator.toml")
    board.write("/etc/fedmq/aggregator/aggregator.toml", with_model(configuration))
    board.run("systemctl", "daemon-reload")
    board.run("systemctl", "restart", "mosquitto")
    board.run("systemctl", "enable", "--now", "fedmq-aggregator")
    board.run("/opt/fedmq/venv/bin/python", "-c", SAMPLES)
    bundle = "/root/keystore/bundles/press-001.fedmq"
    board.run("fedmq-agent", "enroll", bundle, "--data", "/srv/samples.npz", "--owner", "fedmq-agent")
    board.run("sed", "-i", "s/^min_interval_s.*/min_interval_s = 0.5/", "/etc/fedmq/agent.toml")  # tests do not rest
    board.run("systemctl", "enable", "--now", "fedmq-agent")
    board.wait(lambda: versions(board) >= 2, "two versions of the model")


def with_model(configuration: str) -> str:
    """Return what ``provision`` wrote with a small model in place of the one that it suggests."""
    return without_tables(configuration, {"model", "schedule", "participation"}) + MODEL


def without_tables(configuration: str, names: Collection[str]) -> str:
    """Return the file without these tables; TOML has no table twice."""
    kept, skip = [], False
    for line in configuration.splitlines():
        if line.startswith("["):
            skip = line[1:].split("]")[0] in names
        if not skip:
            kept.append(line)
    return "\n".join(kept) + "\n"


def versions(board: Board) -> int:
    """Return the number of the newest version."""
    config = "/etc/fedmq/aggregator/aggregator.toml"
    told = board.start("fedmq-aggregator", "versions", "--config", config, "--json", "--last", "1")
    return max((int(line["version"]) for line in json.loads(told.stdout)), default=0) if told.returncode == 0 else 0


def device_state(board: Board, device: str = "press-001") -> dict[str, object]:
    """Return the retained state of the device, as a monitor sees it over TLS."""
    script = """
import json, pathlib
files = json.loads(pathlib.Path("/root/keystore/monitors/office.fedmq").read_text())["files"]
for name in ("certificate", "key", "ca"):
    pathlib.Path(f"/run/monitor-{name}").write_text(files[name])
"""
    if not board.exists("/run/monitor-key"):
        board.run("python3", "-c", script)
    tls = ["--cafile", "/run/monitor-ca", "--cert", "/run/monitor-certificate", "--key", "/run/monitor-key"]
    topic = f"fedmq/v1/plant/device/{device}/state"
    told = board.start("mosquitto_sub", "-h", "localhost", "-p", "8883", *tls, "-t", topic, "-C", "1", "-W", "5")
    return json.loads(told.stdout) if told.stdout.startswith("{") else {}
