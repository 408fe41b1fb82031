"""Bringing a version to the broker: all chunks first, their PUBACKs, and only then the manifest that names them.

After the manifest, blobs that nothing names any more are cleared.
"""

from __future__ import annotations

from collections import deque

from aggregator.commands import Command, Log, Publish
from aggregator.frozen import Carried
from aggregator.records import WITHDRAWN, Shelf
from protocol.chunks import split
from protocol.messages import BlobRef
from protocol.topics import Topics

WINDOW = 16
"""So many chunks are under way at a time: enough for the link, little memory in the client."""

RETRY_S = 5.0


def chunk_publishes(topics: Topics, blob: BlobRef, data: bytes) -> list[tuple[str, bytes]]:
    """Return topic and payload of every chunk of the blob."""
    return [(topics.blob(blob.digest, i), chunk) for i, chunk in enumerate(split(data, blob.chunk_bytes))]


class Lasting:
    """The chunks that all versions share: what the broker has taken on this connection is not sent to it again."""

    def __init__(self, topics: Topics, carried: Carried | None) -> None:
        self._topics = topics
        self._carried = carried
        self._left: list[int] = []
        self.forget()

    def forget(self) -> None:
        """Take the broker for one that has nothing: it may be another, or have lost its memory."""
        self._left = list(range(self._carried.blob.chunk_count)) if self._carried else []

    @property
    def left(self) -> list[int]:
        """Chunks that the broker has not acknowledged."""
        return list(self._left)

    def chunk(self, index: int) -> tuple[str, bytes]:
        """Return topic and payload; they are not all cut at once, which would double the memory."""
        assert self._carried is not None  # noqa: S101 - without one there is no index
        blob = self._carried.blob
        start = index * blob.chunk_bytes
        return self._topics.blob(blob.digest, index), self._carried.data[start : start + blob.chunk_bytes]

    def acknowledged(self, index: int) -> None:
        """Take note that the broker has it."""
        self._left.remove(index)


class Announcer:
    """Publishes one version at a time; a newer one replaces it. Begins anew on every connection."""

    def __init__(self, topics: Topics, carried: Carried | None = None) -> None:
        self._topics = topics
        self._lasting = Lasting(topics, carried)
        self._first: deque[int] = deque()
        self._of_lasting: dict[str, int] = {}
        """Tokens of lasting chunks under way."""
        self._generation = 0
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._under_way: set[str] = set()
        self._manifest = b""
        self._cleanup: tuple[Shelf, ...] = ()
        self.cleared: tuple[Shelf, ...] = ()
        """Blobs that the broker was seen to clear; whoever reads this forgets them (see ``take_cleared``)."""
        self.announced = False
        """Whether the broker took the manifest of the current version on this connection."""
        self.deadline: float | None = None

    def begin(self, chunks: list[tuple[str, bytes]], manifest: bytes, cleanup: tuple[Shelf, ...]) -> list[Command]:
        """Start over with these chunks and this manifest; afterwards clear the blobs in ``cleanup``."""
        self._generation += 1
        # What versions share stays under way: were it sent anew with each, fast ones would never be announced.
        sent = set(self._of_lasting.values())
        self._first = deque(index for index in self._lasting.left if index not in sent)
        self._under_way = set(self._of_lasting)
        self._waiting = deque(chunks)
        self._manifest = manifest
        self._cleanup = cleanup
        self.cleared = ()
        self.announced = False
        self.deadline = None
        return self._advance()

    def published(self, token: str, error: str, now: float) -> list[Command]:
        """Take in the end of a publish that ``begin`` caused; others are ignored."""
        if token == self._manifest_token:
            return self._manifest_done(error, now)
        if token not in self._under_way:
            return []
        self._under_way.discard(token)
        lasting = self._of_lasting.pop(token, None)
        if error:
            return self._failed(error, now)
        if lasting is not None:
            self._lasting.acknowledged(lasting)
        return self._advance()

    def take_cleared(self) -> tuple[Shelf, ...]:
        """Return the blobs that are gone from the broker since the last call."""
        cleared, self.cleared = self.cleared, ()
        return cleared

    def link_lost(self) -> None:
        """Forget what was under way: the next connection begins anew."""
        self._generation += 1
        self._set_down()
        self._waiting.clear()
        self._lasting.forget()
        self.announced = False
        self.deadline = None

    def _set_down(self) -> None:
        """Wait no longer for what is under way."""
        self._under_way.clear()
        self._of_lasting.clear()

    @property
    def _manifest_token(self) -> str:
        return f"manifest:{self._generation}"

    def _advance(self) -> list[Command]:
        commands: list[Command] = []
        while self._first and len(self._under_way) < WINDOW:
            index = self._first.popleft()
            topic, payload = self._lasting.chunk(index)
            token = f"lasting:{self._generation}:{index}"
            self._under_way.add(token)
            self._of_lasting[token] = index
            commands.append(Publish(topic=topic, payload=payload, retain=True, token=token))
        while self._waiting and len(self._under_way) < WINDOW:
            topic, payload = self._waiting.popleft()
            token = f"chunk:{self._generation}:{len(self._waiting)}"
            self._under_way.add(token)
            commands.append(Publish(topic=topic, payload=payload, retain=True, token=token))
        if self._first or self._waiting or self._under_way:
            return commands
        if self.announced:
            self.cleared, self._cleanup = self._cleanup, ()
            return commands
        token = self._manifest_token
        return [*commands, Publish(topic=self._topics.current_model, payload=self._manifest, retain=True, token=token)]

    def _manifest_done(self, error: str, now: float) -> list[Command]:
        if error:
            return self._failed(error, now)
        self.announced = True
        self._waiting = deque(
            (self._topics.blob(shelf.digest, index), b"")
            for shelf in self._cleanup
            for index in range(shelf.chunk_count)
        )
        return self._advance()

    def _failed(self, error: str, now: float) -> list[Command]:
        self._generation += 1  # whatever else is under way no longer matters
        self._set_down()
        self._first.clear()
        self._waiting.clear()
        if self.announced:
            text = "the broker did not clear old blobs; trying again with the next version"
            return [Log("warning", text, {"reason": error})]
        self.deadline = now + RETRY_S
        return [Log("warning", f"the broker did not take the model; trying again in {RETRY_S:g} s", {"reason": error})]


def restock(shelf: tuple[Shelf, ...], fresh: list[Shelf], keep: int) -> tuple[tuple[Shelf, ...], tuple[Shelf, ...]]:
    """Return the shelf with the ``fresh`` blobs, and those to be cleared because only older versions need them.

    What is to be cleared stays on the shelf until it is known to be gone: a newer version or a crash may come between,
    and nobody else knows its name.
    """
    everything = (*shelf, *fresh)
    keepers = set(sorted({entry.version for entry in everything} - {WITHDRAWN})[-keep:])
    kept = tuple(entry for entry in everything if entry.version in keepers)
    needed = {entry.digest for entry in kept}
    expired = tuple(entry for entry in everything if entry.version not in keepers and entry.digest not in needed)
    return (*expired, *kept), expired
