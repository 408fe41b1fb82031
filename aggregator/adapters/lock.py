"""One process a state directory: a lock that the kernel gives back when its owner dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

LOCK_NAME = "lock"


class StoreInUse(Exception):  # noqa: N818 - a state of affairs, told to the operator
    """Another process works on this state directory; the text names it."""


class StateLock:
    """Held from construction to ``release``. Raises ``StoreInUse``, or ``OSError`` when the file cannot be made."""

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK_NAME
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            owner = _owner(self._fd)
            os.close(self._fd)
            raise StoreInUse(f"{directory} is in use by another aggregator ({owner}); stop it first") from exc
        # The number is only there for that text; a full disk must not keep the aggregator from starting.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process in. The file stays: removing it would let two in at once."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
        os.close(self._fd)


def _owner(fd: int) -> str:
    text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    return f"pid {text}" if text.isdecimal() else "its pid is not known"
