"""The file with what is kept to tell drift, for two threads. Without NumPy."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from device_agent.adapters.vector_file import VectorFile, VectorFileError
from device_agent.drift import MAX_FILE_BYTES, DriftHead

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAGIC = b"fedmq-d1"
"""The digit changes with the form of the file."""


class DriftFile:
    """The file ``drift`` in the state directory. The trainer's thread uses it; the worker's may erase it."""

    def __init__(self, state_dir: Path) -> None:
        self._file = VectorFile(state_dir / "drift", MAGIC, DriftHead, MAX_FILE_BYTES)
        self._file.tidy()
        self._lock = threading.Lock()
        self.turn = 0
        """Changes when everything was forgotten: what was known before must not come back."""

    def read(self) -> tuple[DriftHead, dict[str, bytes]] | None:
        """Return what there is; a file that cannot be used is put aside, and is none."""
        try:
            return self._file.read()
        except VectorFileError:
            self._file.put_aside()
            return None

    def write(self, turn: int, head: DriftHead, vectors: Sequence[memoryview]) -> bool:
        """Replace the file, unless all was forgotten since ``turn``; return False when the disk would not."""
        with self._lock:
            if turn != self.turn:
                return True
            try:
                self._file.write(head, vectors)
            except VectorFileError:
                return False
        return True

    def forget(self) -> None:
        """Erase the file, and whatever was put aside of it."""
        with self._lock:
            self.turn += 1
            self._file.erase()
