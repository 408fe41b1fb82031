"""What of models lies on the disk: the version that is held, a candidate beside it, the file that goes with them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, BinaryIO

from device_agent import commands as do
from device_agent import events as ev
from device_agent.adapters import candidates
from device_agent.adapters.backbone_files import BackboneFiles
from device_agent.adapters.model_cache import CacheError, ModelCache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from protocol.messages import Manifest

log = logging.getLogger("fedmq.agent")


class Shelf:
    """Carries out the core's commands about it; each returns its answer, if it has one. For the worker's thread."""

    def __init__(self, state_dir: Path) -> None:
        """Open nothing yet; what a kill left half written goes with ``find``."""
        self._model = ModelCache(state_dir)
        self._candidate = ModelCache(state_dir, "candidate")
        self._backbone = BackboneFiles(state_dir)
        self.actions: dict[type[Any], Callable[[Any], ev.Event | None]] = {
            do.CacheModel: self._keep_model,
            do.PatchModel: self._patch_model,
            do.DropModel: lambda _command: self._model.drop(),
            do.SeekBackbone: lambda command: self._backbone.seek(command.blob),
            do.KeepChunk: lambda command: self._backbone.keep(command.blob, command.index, command.data),
            do.DropBackbone: lambda _command: self._backbone.drop(),
            do.CacheCandidate: lambda command: candidates.keep(self._candidate, command),
            do.DropCandidate: lambda _command: self._candidate.drop(),
            do.TakeCandidate: lambda command: candidates.take(self._model, self._candidate, command),
        }

    def find(self) -> tuple[Manifest | None, Manifest | None]:
        """Return the manifests of the model and of the candidate that are there, whole."""
        return self._model.find(), self._candidate.find()

    def open(self) -> BinaryIO:
        """Return the model's file, open for reading; raise ``CacheError`` when there is none."""
        return self._model.open()

    def open_for(self, task: do.Train | do.Evaluate | do.Answer) -> tuple[BinaryIO, BinaryIO | None] | ev.TaskFailed:
        """Return the files that a task reads, open: the model's, and the candidate's for one that compares."""
        candidate: BinaryIO | None = None
        try:
            if isinstance(task, do.Answer) and task.candidate is not None:
                candidate = self._candidate.open()
        except CacheError as exc:
            return ev.TaskFailed(task=task.task, reason=str(exc), fault="candidate")
        try:
            return self._model.open(), candidate
        except CacheError as exc:
            if candidate is not None:
                candidate.close()
            return ev.TaskFailed(task=task.task, reason=str(exc), fault="cache")

    def announce(self, manifest: Manifest) -> None:
        """Keep a later announcement of the model, or say why not."""
        try:
            self._model.announce(manifest)
        except CacheError as exc:
            log.warning("cannot keep a new threshold; the one before stays: %s", exc)

    def _keep_model(self, command: do.CacheModel) -> ev.Event:
        try:
            self._model.replace(command.manifest, command.data)
        except CacheError as exc:
            return ev.CacheFailed(reason=str(exc))
        return ev.ModelCached(epoch=command.manifest.epoch, version=command.manifest.version)

    def _patch_model(self, command: do.PatchModel) -> ev.Event:
        try:
            # Imports NumPy, which the trainer has loaded by now: an idle device never comes here.
            from device_agent.adapters.patching import patch  # noqa: PLC0415 - see above
        except ImportError as exc:
            return ev.PatchFailed(reason=str(exc))
        return patch(self._model, command)
