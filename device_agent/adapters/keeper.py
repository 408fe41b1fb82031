"""Keeps the unfinished training on disk, and gives it back. Without NumPy until there is something to give."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent.adapters.checkpoint_file import CheckpointFile
from device_agent.adapters.vector_file import VectorFileError
from device_agent.keeping import Kept, Origin, WriteBudget, why_not

if TYPE_CHECKING:
    from device_agent.settings import AgentSettings
    from models import Checkpoint

RESCUE_S = 8.0
"""A card that is slow to write is waited for so long at the end of the process: less than systemd waits for us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Where a training stood between two steps."""

    origin: Origin
    planned: int
    elapsed_s: float
    checkpoint: Checkpoint


class Keeper:
    """Owns the file. The trainer's thread works with it; at the end of the process also the worker, under a lock."""

    def __init__(self, settings: AgentSettings) -> None:
        self._file = CheckpointFile(Path(settings.device.state_dir))
        self._file.tidy()
        self._budget = WriteBudget(settings.training.checkpoint_daily_bytes)
        self._lock = threading.Lock()
        self._latest: Snapshot | None = None
        self._on_disk: tuple[Origin, int] | None = None

    def find(self, wanted: Origin) -> tuple[tuple[Kept, Checkpoint] | None, str]:
        """Return what is kept of this training; or None, and why not if something else lay there."""
        with self._lock:
            try:
                found = self._file.read()
                if found is None:
                    return None, ""
                kept, vectors = found
                if reason := why_not(kept.origin, wanted):
                    self._drop()
                    return None, reason
                checkpoint = _restored(kept, vectors)
            except VectorFileError as exc:
                return None, self._refused(str(exc))
            self._on_disk = wanted, kept.num_steps
            return (kept, checkpoint), ""

    def upto(self, epoch: str, version: int) -> int | None:
        """Return which row of the sample store was the newest when the unfinished training of this version began.

        Read the samples up to it, and not those that came since: only with the same ones can it go on. None: there is
        no such training, or its samples came from a file.
        """
        kept = self._file.look()
        if kept is None or (kept.origin.epoch, kept.origin.version) != (epoch, version):
            return None
        return kept.origin.upto

    def refuse(self, reason: str) -> str:
        """Put aside what ``find`` gave and nobody could use; return why."""
        with self._lock:
            return self._refused(reason)

    def offer(self, snapshot: Snapshot | None) -> None:
        """Remember where the training stands, for ``rescue``; None: there is nothing to rescue any more."""
        self._latest = snapshot

    def keep(self, snapshot: Snapshot, *, urgent: bool) -> str:
        """Write it down; return why that could not be, or nothing. ``urgent``: an interruption, not an interval."""
        with self._lock:
            return self._keep(snapshot, urgent=urgent)

    def rescue(self) -> None:
        """Write down what was offered last, in the worker's thread, when the trainer's is in a step that goes on."""
        if not self._lock.acquire(timeout=RESCUE_S):
            return
        try:
            if (snapshot := self._latest) is not None:
                self._keep(snapshot, urgent=True)
        finally:
            self._lock.release()

    def drop(self) -> None:
        """Forget what is on disk: it became an update, or is not wanted."""
        with self._lock:
            self._drop()

    def _keep(self, snapshot: Snapshot, *, urgent: bool) -> str:
        steps = snapshot.checkpoint.num_steps
        if not steps or self._on_disk == (snapshot.origin, steps):
            return ""  # nothing done, or nothing since
        if not self._budget.take(snapshot.checkpoint.nbytes, time.monotonic(), urgent=urgent):
            return "as much was written today as checkpoint_daily_bytes allows"
        arrays = snapshot.checkpoint.arrays
        kept = Kept(
            origin=snapshot.origin,
            num_steps=steps,
            planned=snapshot.planned,
            elapsed_s=snapshot.elapsed_s,
            arrays={name: array.size for name, array in arrays.items()},
            state=snapshot.checkpoint.to_data(),
        )
        try:
            self._file.write(kept, [array.data for array in arrays.values()])
        except VectorFileError as exc:
            return str(exc)
        self._on_disk = snapshot.origin, steps
        return ""

    def _drop(self) -> None:
        self._file.drop()
        self._on_disk = None

    def _refused(self, reason: str) -> str:
        self._file.put_aside()
        self._on_disk = None
        return f"what was kept of it cannot be used: {reason}"


def _restored(kept: Kept, vectors: dict[str, bytes]) -> Checkpoint:
    import numpy as np  # noqa: PLC0415 - the trainer's thread has it; the module is loaded without

    from models import Checkpoint, CheckpointError  # noqa: PLC0415 - see above

    arrays = {name: np.frombuffer(data, np.float32) for name, data in vectors.items()}
    try:
        return Checkpoint.from_data(kept.state, arrays)
    except CheckpointError as exc:
        raise VectorFileError(str(exc)) from exc
