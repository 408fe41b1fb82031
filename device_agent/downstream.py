"""From a manifest to a model in the cache: which version to hold, and when to ask again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.commands import CacheModel, Command, DropModel, Log, Subscribe

if TYPE_CHECKING:
    from device_agent.events import CacheFailed, ModelCached
    from device_agent.gate import Chunk
    from device_agent.parts import Parts
    from device_agent.upstream import Upstream
    from protocol.messages import Manifest, Receipt

REREAD_GAP_S = 5.0
"""Hints that a manifest was missed lead to one more subscription at most this often."""


class Downstream:
    """Follows ``model/current``."""

    def __init__(self, parts: Parts, upstream: Upstream) -> None:
        self._parts = parts
        self._upstream = upstream
        self._caching: Manifest | None = None
        self._free_at: float | None = None
        self.reread_at: float | None = None
        """When to read the manifest again although nothing hints at news: the broker may have dropped one."""
        self.reason = ""
        """Why the newest model could not be kept; empty when it could."""

    def link_up(self, now: float) -> None:
        """Expect the retained manifest."""
        self._parts.fetch.link_up(now)
        self._heard(now)
        self._parts.desk.expect_news(now)

    def link_down(self) -> None:
        """Wait for nothing."""
        self._parts.fetch.link_down()
        self.reread_at = None
        self._parts.desk.settle()

    def manifest(self, manifest: Manifest, now: float) -> list[Command]:
        """Follow the manifest unless it is older than what is known of the same history."""
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
        return commands + self._follow(manifest, now)

    def chunk(self, chunk: Chunk, now: float) -> list[Command]:
        """Take in a chunk; raise ``ProtocolError`` when it is wrong."""
        commands = self._parts.fetch.chunk(chunk.digest, chunk.index, chunk.data, now)
        for command in commands:
            if isinstance(command, CacheModel):
                self._caching = command.manifest
        return commands

    def cached(self, event: ModelCached) -> list[Command]:
        """Hold the model that is in the cache now."""
        manifest, self._caching = self._caching, None
        if manifest is None or (manifest.epoch, manifest.version) != (event.epoch, event.version):
            return []
        self.reason = ""
        target = self._parts.fetch.target
        commands: list[Command] = []
        if target is not None and target.epoch != manifest.epoch:
            return [DropModel()]
        if target is not None and target.version == manifest.version and target.parameters == manifest.parameters:
            manifest = target  # the same model, announced once more meanwhile: with its newest training plan
            commands = self._parts.fetch.cancel()
        self._parts.desk.hold(manifest)
        fields = {"version": manifest.version, "bytes": manifest.blob.total_bytes}
        return [*commands, Log(level="info", message="model ready", fields=fields)]

    def cache_failed(self, event: CacheFailed, now: float) -> list[Command]:
        """Fetch it again later."""
        self._caching = None
        self.reason = f"cannot write the model cache: {event.reason}"
        self._parts.fetch.cache_failed(now)
        return [Log(level="error", message="cannot write the model cache", fields={"reason": event.reason})]

    def hint(self, receipt: Receipt, now: float) -> list[Command]:
        """Read the manifest again when a receipt speaks of a history or version not heard of."""
        known = self._parts.fetch.target or self._parts.desk.held
        if known is not None and known.epoch == receipt.epoch and receipt.version <= known.version:
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
        return commands

    def drop_model(self) -> list[Command]:
        """Hold nothing and fetch nothing."""
        self._caching = None
        self._parts.desk.hold(None)
        return [*self._parts.fetch.cancel(), *self._parts.desk.stop(), DropModel()]

    def start_over(self, now: float) -> list[Command]:
        """Read the current manifest as if for the first time."""
        self._heard(now)
        return [self._reread()]

    def _new_epoch(self, manifest: Manifest) -> list[Command]:
        told = Log(level="warning", message="new epoch: starting over", fields={"epoch": manifest.epoch})
        return [told, *self.drop_model()]

    def _follow(self, manifest: Manifest, now: float) -> list[Command]:
        fetch, held = self._parts.fetch, self._parts.desk.held
        if fetch.target is not None and fetch.target.blob == manifest.blob and fetch.target.version == manifest.version:
            return fetch.announced(manifest, now)
        if held is not None and held.version == manifest.version and held.parameters == manifest.parameters:
            if held != manifest:
                self._parts.desk.hold(manifest)
            return []
        told = Log(
            level="info",
            message="fetching model",
            fields={"version": manifest.version, "bytes": manifest.blob.total_bytes},
        )
        return [told, *fetch.begin(manifest, now)]

    def _heard(self, now: float) -> None:
        self.reread_at = now + self._parts.settings.outbox.resend_max_s

    def _reread(self) -> Command:
        return Subscribe(topics=(self._parts.topics.current_model,))
