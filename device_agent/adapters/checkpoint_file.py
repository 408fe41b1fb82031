"""The file with the training that is not finished. Without NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.adapters.vector_file import VectorFile
from device_agent.keeping import MAX_CHECKPOINT_BYTES, Kept

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"fedmq-t1"
"""The digit changes with the form of the file, and with the arithmetic of trainings: either makes old ones useless."""


class CheckpointFile(VectorFile[Kept]):
    """The file ``training`` in the state directory."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir / "training", MAGIC, Kept, MAX_CHECKPOINT_BYTES)
