"""Child processes that never outlive us, whichever way we end."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

QUIET_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Many small processes on few cores: each with a pool of BLAS threads they would only hinder one another."""

LOG_TAIL_LINES = 8


class ChildDiedError(RuntimeError):
    """A child ended by itself; the message has the end of its log."""


class Child:
    """A command that can be started, killed and started again; its output goes to a log file, appended.

    Start it in the main thread: Linux sends the signal that ties it to us when the *thread* that started it ends.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self.starts = 0
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id while running."""
        return self._process.pid if self._process is not None and self.running else None

    def start(self) -> None:
        """Start the command, unless it is running."""
        if self.running:
            return
        self.starts += 1
        self._asked = False
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs with our own arguments
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **QUIET_THREADS},
                # A session of its own: Ctrl-C in the terminal is ours to handle; we then stop everybody in order.
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - two system calls, no lock is taken
            )

    def kill(self) -> None:
        """SIGKILL, at once, and reap."""
        self._asked = True
        self._signal(signal.SIGKILL)
        self.wait(10.0)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM); do not wait."""
        self._asked = True
        self._signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> bool:
        """Return whether it has ended within so many seconds."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return False
        return True

    def check(self) -> None:
        """Raise ``ChildDiedError`` when it has ended and nobody asked or killed it."""
        if self._process is not None and not self._asked and self._process.poll() is not None:
            code = self._process.returncode
            raise ChildDiedError(f"{self.name} ended with code {code}; its last words:\n{log_tail(self.log)}")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)


def stop_all(children: Iterable[Child], grace_s: float) -> list[str]:
    """End them all, politely first; return the names of those that had to be killed after ``grace_s`` seconds."""
    children = list(children)
    for child in children:
        child.terminate()
    deadline = time.monotonic() + grace_s
    stubborn = [child for child in children if not child.wait(deadline - time.monotonic())]
    for child in stubborn:
        child.kill()
    return [child.name for child in stubborn]


def log_tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """Return the last lines of a log file, indented."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (nothing)"


def _die_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the signal was arranged
                os._exit(1)

    return prepare
