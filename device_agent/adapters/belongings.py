"""The file with what is this device's alone, for two threads. Without NumPy."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from device_agent.adapters.vector_file import VectorFile, VectorFileError
from device_agent.owned import MAX_OWNED_BYTES, Owned

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAGIC = b"fedmq-o1"
"""The digit changes with the form of the file."""


class OwnedFile(VectorFile[Owned]):
    """The file ``personal`` in the state directory."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir / "personal", MAGIC, Owned, MAX_OWNED_BYTES)


class Belongings:
    """Owns the file. The trainer's thread reads and writes it; the worker's may erase it at any moment."""

    def __init__(self, state_dir: Path) -> None:
        self._file = OwnedFile(state_dir)
        self._file.tidy()
        self._lock = threading.Lock()
        self.turn = 0
        """Changes when everything was forgotten: what was learned before must not come back."""

    def read(self) -> tuple[Owned, dict[str, bytes]] | None:
        """Return what there is, None for nothing; raise ``VectorFileError`` for a file that cannot be used."""
        return self._file.read()

    def put_aside(self) -> None:
        """Get a file out of the way that cannot be used."""
        self._file.put_aside()

    def write(self, turn: int, head: Owned, vectors: Sequence[memoryview]) -> str:
        """Replace the file, unless all was forgotten since ``turn``; return why it could not be written, or nothing."""
        with self._lock:
            if turn != self.turn:
                return ""
            try:
                self._file.write(head, vectors)
            except VectorFileError as exc:
                return str(exc)
        return ""

    def forget(self) -> None:
        """Erase the file, and whatever was put aside of it."""
        with self._lock:
            self.turn += 1
            self._file.erase()
