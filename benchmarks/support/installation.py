"""The agent as it is installed on a device: an environment of its own with what the bare distribution needs, no more.

The environment of a developer holds packages that NumPy and msgspec import when they find them (``typing_extensions``,
say), and may be told not to write compiled files: both would be measured as the agent's memory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from benchmarks.support.processes import Program

_ROOT = Path(__file__).resolve().parent.parent.parent
_DEVICE_PACKAGES = ("models", "protocol", "device_agent")


class DeviceInstallation:
    """A fresh environment under ``directory`` with fedmq's packages for a device and their dependencies, compiled."""

    def __init__(self, directory: Path) -> None:
        environment = directory / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        self.python = environment / "bin" / "python"
        needs = [line for line in metadata.requires("fedmq") or [] if "extra ==" not in line]
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", *needs],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self._site = next((environment / "lib").glob("python*/site-packages"))
        for package in _DEVICE_PACKAGES:
            shutil.copytree(_ROOT / package, self._site / package, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run([str(self.python), "-m", "compileall", "-q", str(self._site)], check=True)

    def agent(self, file: Path) -> Program:
        """Start one agent process."""
        # -P: the installed packages, not those of the folder that the benchmark is run in.
        arguments = [str(self.python), "-P", "-m", "device_agent", "run", "--config", str(file)]
        return Program(arguments, file.with_suffix(".log"), self._environment())

    def bare_client(self, port: int, topic: str, log: Path, *modules: str) -> Program:
        """Start a bare paho client that imports the modules first; see ``bare_device``."""
        arguments = [str(self.python), "-m", "benchmarks.support.bare_device", str(port), topic, *modules]
        return Program(arguments, log, {**self._environment(), "PYTHONPATH": str(_ROOT)})

    def size_bytes(self, *folders: str) -> int:
        """Return what these folders of the environment's packages take on the disk; of all packages without any."""
        return sum(_size(self._site / folder) for folder in folders or ("",))

    def distributions(self) -> int:
        """Return how many distributions are installed; fedmq's own packages are not one here."""
        return len(list(metadata.distributions(path=[str(self._site)])))

    def _environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _size(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
