"""An agent as a board runs it: a real process with a device's packages and no others, looked at from outside."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.datasets import load_digits

_ROOT = Path(__file__).resolve().parent.parent.parent
_OWN = ("models", "protocol", "device_agent")
_NEEDED = ("cryptography", "msgpack", "msgspec", "numpy", "paho")
_BESIDE = ("numpy.libs",)
"""Shared libraries that a wheel puts next to its package."""

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Board:
    """``fedmq-agent run`` in its own environment.

    What a developer's environment holds besides would be imported too, by NumPy and msgspec, and be measured as the
    agent's memory.
    """

    def __init__(self, directory: Path, tables: Mapping[str, Mapping[str, Any]], **environment: str) -> None:
        self._directory = directory
        self._packages = _packages(directory / "packages")
        self._configuration = directory / "device-0.toml"
        x, y = load_digits(return_X_y=True)
        np.savez(directory / "device-0.npz", x=(x[360:500] / 16.0).astype(np.float32), y=y[360:500].astype(np.int64))
        given: dict[str, Mapping[str, Any]] = {
            "device": {"id": "device-0", "federation": "test", "state_dir": str(directory / "device-0-state")},
            "data": {"path": str(directory / "device-0.npz")},
            **tables,
        }
        lines = []
        for table, keys in given.items():
            # JSON's numbers, strings, booleans and lists are TOML's too.
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        self._configuration.write_text("\n".join(lines) + "\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        for name in _THREADS:
            kept.pop(name, None)
        self._environment = {**kept, "PYTHONPATH": str(self._packages), **environment}

    def __enter__(self) -> Self:
        # -S: without the folders of packages that this interpreter comes with.
        bare = [sys.executable, "-S"]
        # What is compiled at the start is memory too, and an installation is compiled.
        everything = (
            "import device_agent.service, device_agent.adapters.workbench, protocol.adapters.tls, protocol.hpke"
        )
        subprocess.run([*bare, "-c", everything], env=self._environment, check=True)
        command = [*bare, "-m", "device_agent", "run", "--config", str(self._configuration)]
        with (self._directory / "device-0.log").open("wb") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        return (self._directory / "device-0.log").read_text()

    @property
    def mb(self) -> float:
        """Resident memory, in MB of 10^6 bytes."""
        return self._status("VmRSS") / 1e6

    @property
    def peak_mb(self) -> float:
        return self._status("VmHWM") / 1e6

    @property
    def threads(self) -> int:
        return len(list(self._proc.joinpath("task").iterdir()))

    def has_loaded(self, name: str) -> bool:
        """Whether a library with this in its path is in the process."""
        return name in self._proc.joinpath("maps").read_text()

    def wake_ups(self) -> int:
        """How often one of its threads has gone to sleep so far, and so has been awake."""
        found = 0
        for status in self._proc.glob("task/*/status"):
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            found += int(lines["voluntary_ctxt_switches"])
        return found

    def written_bytes(self) -> int:
        """What it has handed to files so far. (And to the flag that wakes its network thread: 8 bytes each time.)"""
        lines = dict(line.split(": ") for line in self._proc.joinpath("io").read_text().splitlines())
        return int(lines["wchar"])

    @property
    def _proc(self) -> Path:
        return Path(f"/proc/{self._process.pid}")

    def _status(self, name: str) -> int:
        assert self._process.poll() is None, self.log
        lines = dict(line.split(":", 1) for line in self._proc.joinpath("status").read_text().splitlines())
        return int(lines[name].split()[0]) * 1024


def _packages(folder: Path) -> Path:
    folder.mkdir()
    for name in _OWN:
        (folder / name).symlink_to(_ROOT / name)
    for name in _NEEDED:
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.submodule_search_locations
        place = Path(next(iter(found.submodule_search_locations)))
        (folder / name).symlink_to(place)
        for beside in _BESIDE:
            if (place.parent / beside).exists() and not (folder / beside).exists():
                (folder / beside).symlink_to(place.parent / beside)
    return folder
