"""Pulling a model: from a manifest to the chunks of its blob, a few exact subscriptions at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.commands import CacheModel, Command, PatchModel, Subscribe, Unsubscribe
from protocol.backoff import full_jitter
from protocol.chunks import Assembly
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    import random

    from protocol.messages import BlobRef, DeltaRef, Manifest
    from protocol.topics import Topics

WINDOW = 4
"""Chunk topics subscribed at a time: enough to fill a link, few enough for a broker to queue for a whole fleet."""

MAX_STALLS = 3
"""Attempts in vain after which a newer version takes the place of one that was to be finished first."""


class Fetcher:
    """Fetches one model at a time; a newer manifest takes its place.

    It stops when the connection goes and resumes, with the chunks it has, when the manifest is seen again. When nothing
    comes for a while it asks for ``model/current`` again rather than for the chunks: that message travels behind
    chunks that are merely slow, so it never makes a slow link carry a chunk twice.

    A model comes whole, or as a delta from the version that is held. A delta that turned out useless is not tried a
    second time; whoever finds that out says ``take_whole``.
    """

    def __init__(self, topics: Topics, rng: random.Random, *, first_wait_s: float, max_wait_s: float) -> None:
        self.target: Manifest | None = None
        self.deadline: float | None = None
        self._topics = topics
        self._rng = rng
        self._first_wait_s = first_wait_s
        self._max_wait_s = max_wait_s
        self._delta: DeltaRef | None = None
        self._blob: BlobRef | None = None
        self._assembly: Assembly | None = None
        self._window: list[int] = []
        self._resume_when_announced = False
        self._stalls = 0
        self._spoiled = 0
        self._asked = False
        """Whether the manifest was asked for on this connection because subscribed chunks did not come."""
        self._useless_for = ""
        """Parameters of the version whose delta proved useless."""

    @property
    def delta(self) -> DeltaRef | None:
        """The delta that is fetched or was handed over; None when the model comes whole, or none comes."""
        return self._delta

    @property
    def delta_missing(self) -> bool:
        """Whether a delta's chunks do not come, though the connection carries other things."""
        return self._delta is not None and self._asked

    @property
    def stalled(self) -> bool:
        """Whether the last attempt got nowhere, so that nobody should wait for this model."""
        return self._stalls > 0 or self._spoiled > 0

    @property
    def hopeless(self) -> bool:
        """Whether so many attempts in a row got nowhere that what is fetched must be gone, whatever the broker says."""
        return self._stalls > MAX_STALLS

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
        return commands + self._resume(now)

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
        commands = self._close_window()
        self.target = self._delta = self._blob = self._assembly = self.deadline = None
        self._stalls = self._spoiled = 0
        self._resume_when_announced = self._asked = False
        return commands

    def announced(self, manifest: Manifest, now: float) -> list[Command]:
        """Take in the target's manifest once more; go on if that was waited for."""
        self.target = manifest
        return self._resume(now) if self._resume_when_announced else []

    def link_up(self, now: float) -> None:
        """Expect the manifest, which every connection subscribes to first."""
        if self._assembly is not None and not self._assembly.complete:
            self._resume_when_announced = True
            self._wait(now)

    def link_down(self) -> None:
        """Forget the subscriptions: sessions are clean."""
        self._window = []
        self._asked = False
        if self._assembly is not None and not self._assembly.complete:
            self.deadline = None

    def chunk(self, digest: str, index: int, payload: bytes, now: float) -> list[Command]:
        """Take in a chunk; raise ``ProtocolError`` if it cannot be one of this blob or spoils its digest."""
        assembly = self._assembly
        if self.target is None or assembly is None or digest != assembly.blob.digest or assembly.complete:
            return []
        if not payload:
            # The aggregator cleared it: a newer version must be there.
            self.deadline = now
            return []
        if not assembly.add(index, payload):
            return []
        self._stalls = 0
        self._resume_when_announced = self._asked = False
        if assembly.first_missing(1):
            return self._move_window(index, now)
        completed = self._completed(assembly, now)
        return [*self._close_window(), *completed]

    def cache_failed(self, now: float) -> None:
        """Start again later: the model could not be written to disk."""
        self._spoil(now)

    def due(self, now: float) -> list[Command]:
        """Do what its time has come for: ask for the manifest again."""
        if self.deadline is None or now < self.deadline or self.target is None:
            return []
        self._stalls += 1
        self._resume_when_announced = True
        self._asked = bool(self._window)
        self._wait(now)
        return [Subscribe(topics=(self._topics.current_model,))]

    def _completed(self, assembly: Assembly, now: float) -> list[Command]:
        manifest = self.target
        if manifest is None:
            return []
        try:
            data = assembly.result()
        except ProtocolError:
            self._spoil(now)
            raise
        self.deadline = None
        # The bytes are the command's from here on; a second copy for the time of the write would double the memory.
        self._assembly = None
        if self._delta is not None:
            return [PatchModel(manifest=manifest, delta=self._delta, data=data)]
        return [CacheModel(manifest=manifest, data=data)]

    def _spoil(self, now: float) -> None:
        if self._blob is None:
            return
        self._spoiled += 1
        self._assembly = Assembly(self._blob)
        self._wait(now)

    def _resume(self, now: float) -> list[Command]:
        if self.target is None or self._assembly is None:
            return []
        self._resume_when_announced = False
        self._window = self._assembly.first_missing(WINDOW)
        self._wait(now)
        return [Subscribe(topics=self._names(self._window))]

    def _move_window(self, index: int, now: float) -> list[Command]:
        self._wait(now)
        if index not in self._window or self._assembly is None:
            return []
        self._window.remove(index)
        commands: list[Command] = [Unsubscribe(topics=self._names([index]))]
        # Of the first so many at most WINDOW are in the window already, so there is always one more where any is left.
        candidates = self._assembly.first_missing(2 * WINDOW)
        following = [index for index in candidates if index not in self._window][: WINDOW - len(self._window)]
        if following:
            self._window += following
            commands.append(Subscribe(topics=self._names(following)))
        return commands

    def _close_window(self) -> list[Command]:
        window, self._window = self._window, []
        return [Unsubscribe(topics=self._names(window))] if window else []

    def _names(self, indices: list[int]) -> tuple[str, ...]:
        digest = self._blob.digest if self._blob else ""
        return tuple(self._topics.blob(digest, index) for index in indices)

    def _wait(self, now: float) -> None:
        failures = max(self._stalls, self._spoiled)
        extra = full_jitter(self._rng, failures, self._first_wait_s, self._max_wait_s) if failures else 0.0
        self.deadline = now + self._first_wait_s + extra
