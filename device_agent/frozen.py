"""The file that a manifest names beside the parameters: whether it is here, and how it comes, straight to the disk.

It is the frozen network before the model, or the model itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from device_agent.commands import Command, DropBackbone, KeepChunk, Log, SeekBackbone
from device_agent.pulling import WINDOW, Pull
from device_agent.settings import MAX_MODEL_CHUNKS
from protocol.errors import ProtocolError
from protocol.messages import BlobRef

if TYPE_CHECKING:
    import random

    from device_agent.events import BackboneFound
    from device_agent.settings import AgentSettings
    from protocol.messages import Manifest
    from protocol.topics import Topics

FILE_KIND = "tflite"
"""Kind of models that are files, and encoding of files' blobs."""


def is_file(manifest: Manifest) -> bool:
    """Return whether the model is a ``.tflite`` file that learns, and no network of fedmq's."""
    return manifest.model.get("kind") == FILE_KIND


def file_of(manifest: Manifest) -> BlobRef | None:
    """Return the file that is needed beside the parameters: the backbone's, or the model's own, cut as its blob is."""
    if manifest.backbone is not None or not is_file(manifest):
        return manifest.backbone.blob if manifest.backbone else None
    named = {"digest": manifest.model.get("digest"), "total_bytes": manifest.model.get("size")}
    try:
        return msgspec.convert(named | {"chunk_bytes": manifest.blob.chunk_bytes, "encoding": FILE_KIND}, BlobRef)
    except msgspec.ValidationError:
        return None  # nothing can be built of such a spec, and that is told


class Frozen:
    """Follows the file that manifests name. One at a time, the same for all versions of an epoch.

    Chunks are appended to a file in their order, so a kill costs the few that were under way, which wait in memory for
    those before them. How they are asked for: see ``Pull``.
    """

    def __init__(self, topics: Topics, settings: AgentSettings, rng: random.Random) -> None:
        outbox = settings.outbox
        self._pull = Pull(topics, rng, first_wait_s=outbox.receipt_timeout_s, max_wait_s=outbox.resend_max_s)
        self._max_bytes, self._look_again_s = settings.backbone.max_bytes, outbox.resend_max_s
        self._blob: BlobRef | None = None
        self._what = ""
        self._ready = self._fetching = False
        self._next = 0
        """The first chunk that is not in the file."""
        self._early: dict[int, bytes] = {}
        self._trouble = ""
        self._look_at: float | None = None
        """When to look at a disk again that had no place."""

    @property
    def deadline(self) -> float | None:
        """When ``due`` has something to do, while there is a connection."""
        return self._pull.deadline if self._fetching else self._look_at

    @property
    def fetching(self) -> bool:
        """Whether it is on its way, or would be were there a connection."""
        return self._fetching

    @property
    def stalled(self) -> bool:
        """Whether the last attempt got nowhere, so that nobody should stay awake for it."""
        return self._pull.stalled

    @property
    def reason(self) -> str:
        """Why nothing can be trained without it; empty when it is here, or none is wanted."""
        if self._trouble or self._blob is None or self._ready:
            return self._trouble
        if not self._fetching:
            return ""
        return self._pull.trouble or f"fetching the {self._what}, {self._blob.total_bytes:,} bytes"

    def serves(self, manifest: Manifest | None) -> bool:
        """Return whether this version has the file that it needs."""
        if manifest is None or (wanted := file_of(manifest)) is None:
            return True
        return self._ready and self._blob is not None and self._blob.digest == wanted.digest

    def link_up(self, now: float) -> None:
        """Expect the manifest, which every connection subscribes to first."""
        self._pull.link_up(now, wanting=self._fetching)

    def link_down(self) -> None:
        """Forget the subscriptions: sessions are clean."""
        self._pull.link_down(wanting=True)
        self._early.clear()
        self._look_at = None

    def follow(self, manifest: Manifest, now: float) -> list[Command]:
        """Have what the manifest needs: look for it, go on with it, or forget what nobody needs any more."""
        wanted = file_of(manifest)
        if wanted is None:
            return self._forget()
        if wanted == self._blob and (self._ready or self._fetching):
            return self._pull.announced(self._wanted(wanted), now) if self._fetching else []
        commands = self._set_down()
        if wanted != self._blob:
            self._ready = False
        self._blob, self._what = wanted, "backbone" if manifest.backbone else "model's file"
        if wanted.total_bytes > self._max_bytes or wanted.chunk_count > MAX_MODEL_CHUNKS:
            return commands + self._refused(
                f"the {self._what} has {wanted.total_bytes:,} bytes in {wanted.chunk_count} chunks; this device takes "
                f"{self._max_bytes:,} (max_bytes in [backbone])"
            )
        return [*commands, SeekBackbone(blob=wanted)]

    def found(self, event: BackboneFound, now: float) -> list[Command]:
        """Take in what is on the disk: all of it, a beginning, or the reason why it cannot be there."""
        if self._blob is None or event.digest != self._blob.digest:
            return []
        if event.complete:
            commands, was = self._set_down(), self._ready
            self._ready, self._trouble = True, ""
            commands += self._pull.forget()
            told = Log(level="info", message=f"{self._what} ready", fields={"bytes": self._blob.total_bytes})
            return commands if was else [*commands, told]
        self._ready = False
        if event.spoiled:
            return self._begin_again(event.reason, now)
        if event.reason:
            # A disk may have room again some day, and nobody would tell.
            return self._refused(event.reason, now + self._look_again_s)
        return [] if self._fetching else self._begin(self._blob, event.chunks, now)

    def _begin(self, blob: BlobRef, have: int, now: float) -> list[Command]:
        self._trouble = ""
        self._fetching, self._next = True, have
        fields: dict[str, object] = {"bytes": blob.total_bytes, "have": have, "of": blob.chunk_count}
        told = Log(level="info", message=f"fetching {self._what}", fields=fields)
        return [told, *self._pull.begin(blob, self._wanted(blob), now)]

    def _begin_again(self, reason: str, now: float) -> list[Command]:
        told = Log(level="warning", message=f"{self._what} spoiled: fetching it again", fields={"reason": reason})
        commands = [told, *self._set_down()]
        self._fetching = True
        self._pull.spoil(now, f"the {self._what} came wrong: {reason}")
        return commands

    def chunk(self, digest: str, index: int, payload: bytes, now: float) -> list[Command]:
        """Take in a chunk; raise ``ProtocolError`` if it cannot be one of it."""
        blob = self._blob
        if blob is None or not self._fetching or digest != blob.digest:
            return []
        if not payload:
            return self._pull.emptied(index, self._what, now)
        if not 0 <= index < blob.chunk_count:
            raise ProtocolError(f"chunk {index} of a backbone of {blob.chunk_count}")
        expected = min(blob.chunk_bytes, blob.total_bytes - index * blob.chunk_bytes)
        if len(payload) != expected:
            fault = f"chunk {index} of the {self._what} has {len(payload)} bytes where {expected} belong"
            self._pull.trouble = fault
            raise ProtocolError(fault)
        if not self._pull.expects(index):
            return []
        self._early[index] = payload
        written = self._written(blob)
        return [*written, *self._pull.took(index, self._wanted(blob), now, further=bool(written))]

    def due(self, now: float) -> list[Command]:
        """Ask for the manifest again when nothing comes, and the disk when it had no place."""
        if self._fetching:
            return self._pull.due(now)
        if self._look_at is None or now < self._look_at:
            return []
        self._look_at = None
        return [SeekBackbone(blob=self._blob)] if self._blob is not None and not self._ready else []

    def spoiled(self, manifest: Manifest, now: float) -> list[Command]:
        """Fetch it again: what is on the disk is not what it was."""
        self._ready = False
        self._blob = None
        return [DropBackbone(), *self.follow(manifest, now)]

    def _written(self, blob: BlobRef) -> list[Command]:
        commands: list[Command] = []
        while self._next in self._early:
            commands.append(KeepChunk(blob=blob, index=self._next, data=self._early.pop(self._next)))
            self._next += 1
        return commands

    def _wanted(self, blob: BlobRef) -> list[int]:
        """Return which of the next chunks are missing: as many as may wait in memory for the first of them."""
        window = range(self._next, min(self._next + WINDOW, blob.chunk_count))
        return [index for index in window if index not in self._early]

    def _refused(self, reason: str, again_at: float | None = None) -> list[Command]:
        commands = self._set_down()
        self._look_at = again_at
        if reason == self._trouble:
            return commands
        self._trouble = reason
        return [*commands, Log(level="error", message=f"the {self._what} cannot be used", fields={"reason": reason})]

    def _forget(self) -> list[Command]:
        if self._blob is None:
            return []
        commands = self._set_down()
        self._blob, self._ready, self._trouble = None, False, ""
        return [*commands, *self._pull.forget(), DropBackbone()]

    def _set_down(self) -> list[Command]:
        self._early.clear()
        self._fetching = False
        self._next = 0
        self._look_at = None
        return self._pull.end()
