"""The backbone's or the model's file in the state directory: named by its digest, in chunks, whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from device_agent.events import BackboneFound

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from protocol.messages import BlobRef

FOLDER = "backbone"
_TRIED = ".tried"
SPARE_BYTES = 8 * 1024 * 1024
"""Room that is left on the disk beside it."""

TRIAL_S = 300.0
"""Unless ``[backbone] trial_s`` says otherwise: so long a file of others may take for its first steps."""

_BLOCK = 1024 * 1024
_RUNTIMES = ("ai_edge_litert", "tflite_runtime")
NO_RUNTIME = (
    "this federation sends its devices a .tflite file, and no TFLite runtime is installed to run it: "
    "pip install 'fedmq[tflite]', and start the agent again"
)


def backbone_path(state_dir: Path, digest: str) -> Path:
    """Return where the file with this SHA-256 lies when it is there."""
    return state_dir / FOLDER / f"{digest}.tflite"


def try_once(path: Path, by: str, attempt: Callable[[], None]) -> None:
    """Make the attempt on this file, unless it came to its end before with the same ``by``: that is noted beside it."""
    mark = path.with_suffix(_TRIED)
    if mark.exists() and mark.read_bytes() == by.encode():
        return
    attempt()
    with contextlib.suppress(OSError):  # on a full disk it is made again
        mark.write_bytes(by.encode())


class BackboneFiles:
    """The folder ``backbone``: at most one file, or the beginning of one. One thread uses it."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / FOLDER
        self._fault = ""
        """Why a chunk could not be kept. What comes behind it has no place, until somebody seeks again."""

    def seek(self, blob: BlobRef) -> BackboneFound:
        """Remove all others, and return what is there of this one, or why it cannot be used here."""
        whole, part = self._paths(blob)
        self._fault = ""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for path in self._folder.iterdir():
                if path not in (whole, part, whole.with_suffix(_TRIED)):
                    path.unlink(missing_ok=True)
            if not any(map(find_spec, _RUNTIMES)):
                return BackboneFound(digest=blob.digest, reason=NO_RUNTIME)
            if whole.exists() and whole.stat().st_size == blob.total_bytes:
                return BackboneFound(digest=blob.digest, chunks=blob.chunk_count, complete=True)
            whole.unlink(missing_ok=True)
            have = part.stat().st_size if part.exists() else 0
            chunks = min(have // blob.chunk_bytes, blob.chunk_count - 1)
            if have:
                # What a kill left of a chunk is not the whole of it.
                os.truncate(part, chunks * blob.chunk_bytes)
            missing, room = blob.total_bytes - chunks * blob.chunk_bytes, os.statvfs(self._folder)
            free = room.f_bavail * room.f_frsize
        except OSError as exc:
            return BackboneFound(digest=blob.digest, reason=f"the .tflite file cannot be kept: {exc.strerror or exc}")
        if free < missing + SPARE_BYTES:
            text = f"the .tflite file takes {missing:,} bytes more on the disk, and {free:,} are free"
            return BackboneFound(digest=blob.digest, reason=text)
        return BackboneFound(digest=blob.digest, chunks=chunks)

    def keep(self, blob: BlobRef, index: int, data: bytes) -> BackboneFound:
        """Append a chunk; with the last one, check the digest, and give the file its name."""
        whole, part = self._paths(blob)
        if self._fault:
            return BackboneFound(digest=blob.digest, reason=self._fault)
        try:
            with part.open("ab") as file:
                if file.tell() != index * blob.chunk_bytes:
                    return self._spoiled(blob, f"chunk {index} does not follow {file.tell()} bytes")
                file.write(data)
                if index + 1 < blob.chunk_count:
                    return BackboneFound(digest=blob.digest, chunks=index + 1)
                file.flush()
                os.fsync(file.fileno())
            if _digest_of(part) != blob.digest:
                return self._spoiled(blob, "its chunks do not have the digest that was announced")
            part.replace(whole)
        except OSError as exc:
            self._fault = f"the .tflite file cannot be kept: {exc.strerror or exc}"
            return BackboneFound(digest=blob.digest, reason=self._fault)
        return BackboneFound(digest=blob.digest, chunks=blob.chunk_count, complete=True)

    def drop(self) -> None:
        """Remove whatever is there."""
        import shutil  # noqa: PLC0415 - with what it imports itself half a megabyte, for what nearly no agent does

        shutil.rmtree(self._folder, ignore_errors=True)

    def _spoiled(self, blob: BlobRef, reason: str) -> BackboneFound:
        with contextlib.suppress(OSError):
            self._paths(blob)[1].unlink(missing_ok=True)
        return BackboneFound(digest=blob.digest, reason=reason, spoiled=True)

    def _paths(self, blob: BlobRef) -> tuple[Path, Path]:
        whole = backbone_path(self._state_dir, blob.digest)
        return whole, whole.with_suffix(".part")


def _digest_of(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
