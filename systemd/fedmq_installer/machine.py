"""The machine: its systemd, its Python, its disk; and what has to be right before anything is done."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmq_installer.layout import MIB, InstallError, Layout

OLDEST_SYSTEMD = 247
"""LoadCredential=; Debian 11. What the failure unit says about another unit takes 251."""

CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """With ``root`` elsewhere than ``/`` no service is touched and no user made: only files are put in place."""

    def __init__(self, layout: Layout, python: str) -> None:
        self.layout = layout
        self.python = python
        self.real = layout.root == Path("/")
        self.held: tuple[int, ...] = ()
        """The lock, for long-lived children: it is held until the last of them has ended, even if we are killed."""

    def check(self) -> None:
        """Raise ``InstallError`` where this user or this machine cannot have services of ours."""
        if not self.real:
            return
        if os.geteuid() != 0:
            raise InstallError("this writes to /opt and /etc, and that takes root: run it with sudo")
        if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
            raise InstallError("systemd does not run this machine: start fedmq in another way (docs/operations.md)")
        found = re.search(r"systemd (\d+)", self.systemctl("--version"))
        if found is None or int(found[1]) < OLDEST_SYSTEMD:
            raise InstallError(f"systemd {OLDEST_SYSTEMD} or newer is needed (Debian 12 has 252)")

    def check_python(self) -> None:
        """Raise ``InstallError`` where no environment can be made that the services could use."""
        resolved = str(Path(self.python).resolve())
        if self.real and resolved.startswith(("/home/", "/root/")):
            raise InstallError(
                f"{self.python} is {resolved}: the services see neither /home nor /root. "
                "Use the machine's own: FEDMQ_PYTHON=/usr/bin/python3"
            )
        found = subprocess.run([self.python, "-c", "import ensurepip, venv"], capture_output=True, check=False)
        if found.returncode:
            raise InstallError(f"{self.python} cannot make virtual environments: apt install python3-venv")

    def check_space(self, needed: int) -> None:
        """Raise ``InstallError`` where a version would not fit beside the present one."""
        folder = self.layout.home
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise InstallError(
                f"{free // MIB} MB are free on the disk of {self.layout.home}, and {needed // MIB} MB are needed: "
                "a new version is made beside the old one. Make room, and run this again"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second installer out. The lock is on a folder that is there anyway, and leaves nothing behind."""
        folder = self.layout.at("/opt")
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.held = (fd,)
            yield
        except BlockingIOError as exc:
            raise InstallError("another run of this program is at work: wait for its end") from exc
        finally:
            self.held = ()
            os.close(fd)

    def systemctl(self, *arguments: str, check: bool = False) -> str:
        """Ask systemd, and return what it says; with ``check``, raise ``InstallError`` when it refuses."""
        return self.run("systemctl", *arguments, check=check)

    def run(self, *command: str, check: bool = False) -> str:
        """Run a program of the machine's, unless nothing is to be touched."""
        if not self.real:
            return ""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env={"PATH": CLEAN_PATH, "LC_ALL": "C"}
            )
        except OSError as exc:
            raise InstallError(f"{command[0]} cannot be run: {exc.strerror}") from exc
        if check and done.returncode:
            raise InstallError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout
