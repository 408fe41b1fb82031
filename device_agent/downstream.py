"""From a manifest to a model in the cache: which version to hold, and when to ask again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.commands import (
    CacheModel,
    Command,
    DropCheckpoint,
    DropModel,
    KeepAnnouncement,
    Log,
    PatchModel,
    Subscribe,
    TakeCandidate,
    Unsubscribe,
)
from device_agent.settings import MAX_MODEL_CHUNKS
from device_agent.trying import same_model
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from device_agent.events import CacheFailed, CandidateLost, ModelCached, PatchFailed
    from device_agent.gate import Chunk
    from device_agent.parts import Parts
    from device_agent.upstream import Upstream
    from protocol.messages import DeltaRef, Manifest, Receipt

REREAD_GAP_S = 5.0
"""Hints that a manifest was missed lead to one more subscription at most this often."""


def useful_delta(manifest: Manifest, held: Manifest | None) -> DeltaRef | None:
    """Return the smallest delta that leads from what is held to this model in fewer bytes than the whole, if any.

    Only to a float32 blob: its digest is the parameters' own, so the sum is that blob, bit for bit, and cached as such.
    """
    if held is None or held.epoch != manifest.epoch or manifest.blob.encoding != "f32":
        return None
    found = [
        delta
        for delta in manifest.deltas
        if delta.base_version == held.version
        and delta.blob.total_bytes < manifest.blob.total_bytes
        and delta.blob.chunk_count <= MAX_MODEL_CHUNKS
    ]
    return min(found, key=lambda delta: delta.blob.total_bytes, default=None)


class Downstream:
    """Follows ``model/current``.

    A fetch is given up for a newer version once; from then on, until one is not overtaken, each is finished first, with
    ``model/current`` unsubscribed. On a line that needs longer for a model than the federation for a version, a device
    that always jumped to the newest would never hold any, and the manifests alone could fill the line.
    """

    def __init__(self, parts: Parts, upstream: Upstream) -> None:
        self._parts = parts
        self._upstream = upstream
        self._caching: tuple[Manifest, DeltaRef | None] | None = None
        self._free_at: float | None = None
        self._given_up = 0
        self._deaf = False
        self.reread_at: float | None = None
        """When to read the manifest again although nothing hints at news: the broker may have dropped one."""
        self.reason = ""
        """Why the newest model could not be kept; empty when it could."""

    def link_up(self, now: float) -> None:
        """Expect the retained manifest."""
        self._parts.fetch.link_up(now)
        self._parts.frozen.link_up(now)
        self._heard(now)
        self._parts.desk.expect_news(now)

    def link_down(self) -> None:
        """Wait for nothing."""
        self._parts.fetch.link_down()
        self._parts.frozen.link_down()
        self._deaf = False
        self.reread_at = None
        self._parts.desk.settle()

    def manifest(self, manifest: Manifest, now: float, *, retained: bool) -> list[Command]:
        """Follow the manifest unless it is older than what is known of the same history.

        ``retained``: the broker answers a subscription with it, as against passing on what has just been published.
        """
        parts = self._parts
        self._heard(now)
        parts.desk.settle()
        known = parts.fetch.target or parts.desk.held
        commands: list[Command] = []
        if known is not None and known.epoch != manifest.epoch:
            commands += self._new_epoch(manifest)
        elif known is not None and manifest.version < known.version:
            return [Log(level="debug", message="older manifest ignored", fields={"version": manifest.version})]
        commands += self._upstream.void_other_epochs(manifest.epoch)
        commands += parts.frozen.follow(manifest, now)
        return commands + self._follow(manifest, now, retained=retained)

    def chunk(self, chunk: Chunk, now: float) -> list[Command]:
        """Take in a chunk; raise ``ProtocolError`` when it is wrong and the whole model's."""
        if frozen := self._parts.frozen.chunk(chunk.digest, chunk.index, chunk.data, now):
            return frozen
        try:
            commands = self._parts.fetch.chunk(chunk.digest, chunk.index, chunk.data, now)
        except ProtocolError as exc:
            if self._parts.fetch.delta is None:
                raise
            return self._whole_instead(str(exc), now)
        for command in commands:
            if isinstance(command, CacheModel | PatchModel):
                self._caching = (command.manifest, self._parts.fetch.delta)
        return commands

    def cached(self, event: ModelCached) -> list[Command]:
        """Hold the model that is in the cache now."""
        if self._caching is None:
            return []
        (manifest, delta), self._caching = self._caching, None
        if (manifest.epoch, manifest.version) != (event.epoch, event.version):
            return []
        self.reason = ""
        if not self._deaf:
            self._given_up = 0
        target, kept = self._parts.fetch.target, manifest
        commands: list[Command] = []
        if target is not None and target.epoch != manifest.epoch:
            return [DropModel()]
        if target is not None and target.version == manifest.version and target.parameters == manifest.parameters:
            manifest = target  # the same model, announced once more meanwhile: with its newest training plan
            commands = self._parts.fetch.cancel()
        self._parts.desk.hold(manifest)
        self._parts.ledger.count("models_received")
        if delta is not None:
            self._parts.ledger.count("models_from_delta")
        return [
            *commands,
            *self._keep(manifest, kept),
            *self._listen_again(),
            Log(level="info", message="model ready", fields=_told(manifest, delta)),
        ]

    def cache_failed(self, event: CacheFailed, now: float) -> list[Command]:
        """Fetch it again later."""
        self._caching = None
        self.reason = f"cannot write the model cache: {event.reason}"
        self._parts.fetch.cache_failed(now)
        return [Log(level="error", message="cannot write the model cache", fields={"reason": event.reason})]

    def patch_failed(self, event: PatchFailed, now: float) -> list[Command]:
        """Fetch the whole model: its delta does not lead there."""
        self._caching = None
        return self._whole_instead(event.reason, now)

    def hint(self, receipt: Receipt, now: float) -> list[Command]:
        """Read the manifest again when a receipt speaks of a history or version not heard of."""
        known = self._parts.fetch.target or self._parts.desk.held
        if known is not None and known.epoch == receipt.epoch and (receipt.version <= known.version or self._deaf):
            return []
        if self._free_at is not None and now < self._free_at:
            return []
        self._free_at = now + REREAD_GAP_S
        return [self._reread()]

    def due(self, now: float) -> list[Command]:
        """Read the manifest again when nothing was heard for long."""
        commands = self._parts.fetch.due(now)
        if self.reread_at is not None and now >= self.reread_at:
            self._heard(now)
            commands.append(self._reread())
        if commands and self._deaf:
            if not self._parts.fetch.hopeless:
                # The broker answers the subscription, and is silent again.
                return [*commands, Unsubscribe(topics=(self._parts.topics.current_model,))]
            self._deaf = False
        return commands

    def drop_model(self) -> list[Command]:
        """Hold nothing and fetch nothing."""
        self._caching = None
        self._given_up = 0
        self._parts.desk.hold(None)
        return [
            *self._parts.fetch.cancel(),
            *self._parts.desk.stop(),
            DropModel(),
            DropCheckpoint(),
            *self._listen_again(),
        ]

    def start_over(self, now: float) -> list[Command]:
        """Read the current manifest as if for the first time."""
        self._heard(now)
        return [self._reread()]

    def _new_epoch(self, manifest: Manifest) -> list[Command]:
        told = Log(level="warning", message="new epoch: starting over", fields={"epoch": manifest.epoch})
        return [told, *self.drop_model()]

    def _follow(self, manifest: Manifest, now: float, *, retained: bool) -> list[Command]:
        fetch, held = self._parts.fetch, self._parts.desk.held
        if fetch.target is not None and fetch.target.blob == manifest.blob and fetch.target.version == manifest.version:
            if fetch.delta_missing:
                fetch.target = manifest
                return self._whole_instead("its chunks do not come", now)
            return fetch.announced(manifest, now)
        if held is not None and held.version == manifest.version and held.parameters == manifest.parameters:
            if held != manifest:
                self._parts.desk.hold(manifest)
            return self._keep(manifest, held)
        if same_model(self._parts.desk.candidate, manifest):
            self._caching = (manifest, None)
            told = Log(level="info", message="taking the candidate", fields={"version": manifest.version})
            return [told, *fetch.cancel(), TakeCandidate(manifest=manifest)]
        # An answer to the question that a stalled fetch asks comes behind all chunks that are merely slow.
        out_of_reach = fetch.hopeless or (fetch.stalled and retained)
        if fetch.target is not None and not out_of_reach:
            if self._given_up:
                return [*self._stop_listening(), *(fetch.announced(fetch.target, now) if retained else [])]
            self._given_up += 1
        return self._begin(manifest, now)

    def candidate_lost(self, event: CandidateLost, now: float) -> list[Command]:
        """Fetch a version of which the disk did not hold what it should."""
        if self._caching is None:
            return []
        (manifest, _), self._caching = self._caching, None
        self._parts.desk.candidate = None
        told = Log(level="warning", message="the candidate cannot be taken", fields={"reason": event.reason})
        return [told, *self._begin(manifest, now)]

    def _begin(self, manifest: Manifest, now: float) -> list[Command]:
        fetch = self._parts.fetch
        part, given_up = self._parts.fetch_candidate.give_up(manifest.blob)
        # Adding takes NumPy: 12 MB that a device which has not trained does without, by fetching the whole.
        delta = useful_delta(manifest, self._parts.desk.held) if self._parts.desk.equipped else None
        commands = [*given_up, *fetch.begin(manifest, now, delta, part)]
        return [Log(level="info", message="fetching model", fields=_told(manifest, fetch.delta)), *commands]

    def _keep(self, manifest: Manifest, kept: Manifest) -> list[Command]:
        """Keep an announcement that says something new to those who predict; the rest is read anew after a start."""
        predicts = bool(self._parts.settings.predictions.topic)
        return [KeepAnnouncement(manifest=manifest)] if predicts and manifest.anomaly != kept.anomaly else []

    def _stop_listening(self) -> list[Command]:
        if self._deaf:
            return []
        self._deaf = True
        told = Log(level="info", message="finishing a model first: newer ones come faster than this line carries them")
        return [told, Unsubscribe(topics=(self._parts.topics.current_model,))]

    def _listen_again(self) -> list[Command]:
        if not self._deaf:
            return []
        self._deaf = False
        return [self._reread()]

    def _whole_instead(self, reason: str, now: float) -> list[Command]:
        target = self._parts.fetch.target
        if target is None:
            return []
        self._parts.ledger.refuse("unusable delta")
        fields = {"version": target.version, "reason": reason}
        told = Log(level="warning", message="delta cannot be used: fetching the whole model", fields=fields)
        return [told, *self._parts.fetch.take_whole(now)]

    def _heard(self, now: float) -> None:
        self.reread_at = now + self._parts.settings.outbox.resend_max_s

    def _reread(self) -> Command:
        return Subscribe(topics=(self._parts.topics.current_model,))


def _told(manifest: Manifest, delta: DeltaRef | None) -> dict[str, object]:
    if delta is None:
        return {"version": manifest.version, "bytes": manifest.blob.total_bytes}
    return {"version": manifest.version, "bytes": delta.blob.total_bytes, "from": delta.base_version}
