"""Pulling a model: from a manifest to its blob, whole or as a step from the one that is held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.commands import CacheModel, Command, PatchModel
from device_agent.pulling import WINDOW, Pull
from protocol.chunks import Assembly
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    import random

    from protocol.messages import BlobRef, DeltaRef, Manifest
    from protocol.topics import Topics

MAX_STALLS = 3
"""Attempts in vain after which a newer version takes the place of one that was to be finished first."""


class Fetcher:
    """Fetches one model at a time; a newer manifest takes its place.

    It stops when the connection goes, and goes on with the chunks that it has: see ``Pull``.

    A model comes whole, or as a delta from the version that is held. A delta that turned out useless is not tried a
    second time; whoever finds that out says ``take_whole``.
    """

    def __init__(self, topics: Topics, rng: random.Random, *, first_wait_s: float, max_wait_s: float) -> None:
        self.target: Manifest | None = None
        self._pull = Pull(topics, rng, first_wait_s=first_wait_s, max_wait_s=max_wait_s)
        self._delta: DeltaRef | None = None
        self._blob: BlobRef | None = None
        self._assembly: Assembly | None = None
        self._useless_for = ""
        """Parameters of the version whose delta proved useless."""

    @property
    def deadline(self) -> float | None:
        """When ``due`` has something to do, while there is a connection."""
        return self._pull.deadline

    @property
    def reason(self) -> str:
        """What is wrong with what the broker sends; empty: nothing, or nothing is fetched."""
        return self._pull.trouble

    @property
    def delta(self) -> DeltaRef | None:
        """The delta that is fetched or was handed over; None when the model comes whole, or none comes."""
        return self._delta

    @property
    def delta_missing(self) -> bool:
        """Whether a delta's chunks do not come, though the connection carries other things."""
        return self._delta is not None and self._pull.asked

    @property
    def stalled(self) -> bool:
        """Whether the last attempt got nowhere, so that nobody should wait for this model."""
        return self._pull.stalled

    @property
    def hopeless(self) -> bool:
        """Whether so many attempts in a row got nowhere that what is fetched must be gone, whatever the broker says."""
        return self._pull.failures > MAX_STALLS

    def begin(
        self, manifest: Manifest, now: float, delta: DeltaRef | None = None, part: Assembly | None = None
    ) -> list[Command]:
        """Fetch this model from now on, whatever was fetched before: by its delta unless that proved useless.

        With ``part``, what somebody has of the whole blob already: the rest of it.
        """
        commands = self.cancel()
        self.target = manifest
        self._delta = delta if manifest.parameters != self._useless_for and part is None else None
        self._blob = self._delta.blob if self._delta else manifest.blob
        self._assembly = part or Assembly(self._blob)
        return commands + self._pull.begin(self._blob, self._assembly.first_missing(WINDOW), now)

    def give_up(self, blob: BlobRef) -> tuple[Assembly | None, list[Command]]:
        """Stop fetching this blob, if it is fetched; return what there is of it, for somebody else's ``begin``."""
        assembly = self._assembly
        if assembly is None or self._delta is not None or assembly.blob != blob or assembly.complete:
            return None, []
        return assembly, self.cancel()

    def take_whole(self, now: float) -> list[Command]:
        """Fetch the whole model after all, and remember for as long as it is the newest that its delta is useless."""
        if self.target is None:
            return []
        self._useless_for = self.target.parameters
        return self.begin(self.target, now)

    def cancel(self) -> list[Command]:
        """Fetch nothing."""
        self.target = self._delta = self._blob = self._assembly = None
        return self._pull.forget()

    def announced(self, manifest: Manifest, now: float) -> list[Command]:
        """Take in the target's manifest once more; go on if that was waited for."""
        self.target = manifest
        return self._pull.announced(self._assembly.first_missing(WINDOW), now) if self._assembly is not None else []

    def link_up(self, now: float) -> None:
        """Expect the manifest, which every connection subscribes to first."""
        self._pull.link_up(now, wanting=self._wanting)

    def link_down(self) -> None:
        """Forget the subscriptions: sessions are clean."""
        self._pull.link_down(wanting=self._wanting)

    def chunk(self, digest: str, index: int, payload: bytes, now: float) -> list[Command]:
        """Take in a chunk; raise ``ProtocolError`` if it cannot be one of this blob or spoils its digest."""
        assembly = self._assembly
        if self.target is None or assembly is None or digest != assembly.blob.digest or assembly.complete:
            return []
        if not payload:
            return self._pull.emptied(index, "model", now)
        try:
            if not assembly.add(index, payload):
                return []
        except ProtocolError as exc:
            self._pull.trouble = f"the broker's model: {exc}"
            raise
        # Of the first so many at most WINDOW are in the window already, so there is always one more where any is left.
        if wanted := assembly.first_missing(2 * WINDOW):
            return self._pull.took(index, wanted, now)
        completed = self._completed(assembly, now)
        return [*self._pull.end(), *completed]

    def cache_failed(self, now: float) -> None:
        """Start again later: the model could not be written to disk."""
        self._spoil(now)

    def due(self, now: float) -> list[Command]:
        """Do what its time has come for: ask for the manifest again."""
        return self._pull.due(now) if self.target is not None else []

    @property
    def _wanting(self) -> bool:
        return self._assembly is not None and not self._assembly.complete

    def _completed(self, assembly: Assembly, now: float) -> list[Command]:
        manifest = self.target
        if manifest is None:
            return []
        try:
            data = assembly.result()
        except ProtocolError as exc:
            self._spoil(now, f"the broker's model: {exc}")
            raise
        # The bytes are the command's from here on; a second copy for the time of the write would double the memory.
        self._assembly = None
        if self._delta is not None:
            return [PatchModel(manifest=manifest, delta=self._delta, data=data)]
        return [CacheModel(manifest=manifest, data=data)]

    def _spoil(self, now: float, trouble: str = "") -> None:
        if self._blob is not None:
            self._assembly = Assembly(self._blob)
            self._pull.spoil(now, trouble)
