"""Versions side by side: each an environment of its own in ``/opt/fedmq/versions``, one of them the current one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from fedmq_installer.files import link, remove, remove_if_empty, sweep
from fedmq_installer.layout import INCOMPLETE, InstallError
from fedmq_installer.machine import CLEAN_PATH, Machine
from fedmq_installer.source import Source, copy_systemd

COMPLETE = "complete"
"""The last file of a version. Without it, a version is the rest of a run that was killed."""

TOLD_LINES = 12


class Versions:
    """Reads and changes what is in ``/opt/fedmq``."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._layout = machine.layout

    def current(self) -> str | None:
        """Return the version that the services start from."""
        return self._led_to(self._layout.current)

    def previous(self) -> str | None:
        """Return the one before."""
        return self._led_to(self._layout.previous)

    def is_complete(self, version: str) -> bool:
        """Return whether this version can be used."""
        return (self._layout.versions / version / COMPLETE).is_file()

    def units_of(self, version: str) -> Path:
        """Return the folder with the units of that version."""
        return self._layout.versions / version / "systemd"

    def build(self, source: Source, extra: str) -> str:
        """Make the version if it is not there, and return its name. Nothing that runs is touched."""
        version = source.version_id(extra, self._machine.python)
        if not self.is_complete(version):
            folder = self._layout.versions / version
            remove(folder)
            try:
                self._make(folder, source, extra)
            except BaseException:
                remove(folder)
                remove_if_empty(self._layout.versions)
                remove_if_empty(self._layout.home)
                raise
        return version

    def switch(self, version: str) -> None:
        """Make it the current one, in one step."""
        link(self._layout.current, f"versions/{version}")

    def keep(self, before: str | None) -> None:
        """Remember the version before, and remove all others."""
        if before is not None and before != self.current():
            link(self._layout.previous, f"versions/{before}")
        kept = {self.current(), self.previous()}
        for folder in self._layout.versions.iterdir():
            if folder.name not in kept:
                remove(folder)
        sweep(self._layout.home)

    def _led_to(self, path: Path) -> str | None:
        if not path.is_symlink():
            return None
        name = path.readlink().name
        return name if self.is_complete(name) else None

    def _make(self, folder: Path, source: Source, extra: str) -> None:
        # pip's temporary files beside it, not in /tmp, which is small memory on some boards.
        workshop = folder / f"{INCOMPLETE}workshop"
        workshop.mkdir(mode=0o755, parents=True)
        venv = [self._machine.python, "-m", "venv", *source.environment(), str(folder)]
        self._run(venv, workshop, "the environment could not be made")
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--no-cache-dir", "--no-input"]
        options = ["--disable-pip-version-check", "--no-warn-script-location", *source.options()]
        self._run([*pip, *options, source.requirement(extra, workshop)], workshop, _advice(source))
        copy_systemd(folder / "systemd")
        remove(workshop)
        os.sync()
        (folder / COMPLETE).write_text(f"{folder.name}\n")
        os.sync()

    def _run(self, command: list[str], workshop: Path, advice: str) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        env |= {"PATH": CLEAN_PATH, "TMPDIR": str(workshop), "HOME": str(workshop), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            command,
            env=env,
            cwd=workshop,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            pass_fds=self._machine.held,
        )
        if done.returncode:
            last = "\n  ".join(done.stdout.strip().splitlines()[-TOLD_LINES:])
            raise InstallError(f"{advice}\n  {last}")


def _advice(source: Source) -> str:
    if source.wheels is None:
        return (
            "pip could not install fedmq; nothing has changed. Without a network: make a folder of wheels elsewhere, "
            "and name it with --wheels (docs/operations.md#wheels). What pip said:"
        )
    return f"pip could not install fedmq from the wheels in {source.wheels}; nothing has changed. What pip said:"
