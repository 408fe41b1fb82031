"""A broker that is broken or hostile: chunks that are empty, cut, or another's, as often as they are asked for."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from device_agent import commands as do
from device_agent import events as ev
from device_agent.pulling import WINDOW
from protocol.chunks import blob_of, split
from protocol.messages import BackboneRef, Manifest
from protocol.packing import encode
from tests.device_agent.harness import TOPICS, Driver, manifest, model_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR_S = 3600.0
MOST_ATTEMPTS = 40
"""In an hour: waits are drawn from what doubles up to ten minutes. Without, it would be thousands."""

DATA, FROZEN = model_bytes(3, 1000), model_bytes(9, 1900)
PLAIN = manifest(3, data=DATA, chunk_bytes=100)
BEHIND = replace(PLAIN, backbone=BackboneRef(blob=blob_of(FROZEN, "tflite", 100), inputs=8, outputs=4))

Wicked = tuple[str, "Callable[[int, bytes], bytes]", str]
WAYS: list[Wicked] = [
    ("all empty", lambda _index, _chunk: b"", "empty"),
    ("one empty", lambda index, chunk: b"" if index == 1 else chunk, "empty"),
    ("one cut", lambda index, chunk: chunk[:-1] if index == 1 else chunk, "99 bytes where 100 belong"),
    ("all else", lambda _index, chunk: bytes(len(chunk)), "digest"),
]


class Broker(Driver):
    """Answers each subscription at once, by its lights; and is the disk of the backbone."""

    def __init__(self, what: Manifest, data: bytes, wicked: Callable[[int, bytes], bytes]) -> None:
        super().__init__()
        self.what, self.wicked = what, wicked
        self.honest = False
        self.attempts = 0
        """How often the chunk was asked for that is always wrong."""
        self.asked = 0
        """How often the manifest was."""
        wanted = what.backbone.blob if what.backbone else what.blob
        self.target = TOPICS.blob(wanted.digest, 1)
        self.blobs = {what.blob.digest: split(DATA, 100)} | {wanted.digest: split(data, 100)}
        self.wanted, self.kept = wanted, b""
        self.waiting: deque[tuple[str, bytes]] = deque()
        self._seen = 0
        self.start()

    def live(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(20_000):
            self._answer()
            if self.waiting:
                topic, payload = self.waiting.popleft()
                self.receive(topic, payload, retain=True)
                continue
            deadline = self.core.deadline(self.now)
            if deadline is None or deadline > until:
                self.now = until
                return
            self.now = max(self.now, deadline)
            self.give(ev.Tick())
        raise AssertionError(f"it never comes to rest: {self.attempts} attempts")

    def _answer(self) -> None:
        new, self._seen = self.commands[self._seen :], len(self.commands)
        for topic in self.subscribed(new):
            if topic == TOPICS.current_model:
                self.asked += 1
                self.waiting.append((topic, encode(self.what)))
            for digest, chunks in self.blobs.items():
                for index, chunk in enumerate(chunks):
                    if topic == TOPICS.blob(digest, index):
                        honest = self.honest or digest != self.wanted.digest
                        self.waiting.append((topic, chunk if honest else self.wicked(index, chunk)))
            self.attempts += topic == self.target

    def _answers(self, command: do.Command) -> list[ev.Event]:
        digest, count = self.wanted.digest, self.wanted.chunk_count
        match command:
            case do.SeekBackbone():
                return [ev.BackboneFound(digest=digest, chunks=len(self.kept) // 100)]
            case do.KeepChunk(index=index, data=data):
                self.kept += data
                if index + 1 < count:
                    return []
                if self.kept == FROZEN:
                    return [ev.BackboneFound(digest=digest, chunks=count, complete=True)]
                self.kept = b""
                return [ev.BackboneFound(digest=digest, chunks=0, spoiled=True, reason="its digest is another one")]
            case do.DropBackbone():
                self.kept = b""
        return super()._answers(command)


@pytest.mark.parametrize("way", WAYS, ids=[way[0] for way in WAYS])
@pytest.mark.parametrize(("what", "data"), [(PLAIN, DATA), (BEHIND, FROZEN)], ids=["model", "backbone"])
def test_bad_chunks_are_asked_for_ever_less_often_and_said(what: Manifest, data: bytes, way: Wicked) -> None:
    broker = Broker(what, data, way[1])
    broker.live(HOUR_S)

    assert 3 <= broker.attempts <= MOST_ATTEMPTS
    assert broker.asked <= 2 * MOST_ATTEMPTS
    assert not broker.all(do.Train)
    assert way[2] in broker.states()[-1].reason

    broker.honest = True
    broker.live(HOUR_S)
    assert broker.all(do.Train)
    assert broker.states()[-1].reason == ""


@pytest.mark.parametrize(("what", "data"), [(PLAIN, DATA), (BEHIND, FROZEN)], ids=["model", "backbone"])
def test_announcements_do_not_hurry_what_has_to_wait(what: Manifest, data: bytes) -> None:
    """A federation that makes a version a second must not make its devices ask for bad chunks every second."""
    broker = Broker(what, data, lambda _index, chunk: bytes(len(chunk)))
    for _ in range(int(HOUR_S)):
        broker.live(1.0)
        broker.receive(TOPICS.current_model, encode(what))
    assert broker.attempts <= MOST_ATTEMPTS


def test_the_first_empty_chunk_is_news_and_asks_at_once() -> None:
    broker = Broker(PLAIN, DATA, lambda _index, _chunk: b"")
    broker.live(0.0)
    assert broker.asked == 2
    assert broker.attempts == 2


def test_no_more_than_a_window_is_open_while_chunks_are_bad() -> None:
    broker = Broker(PLAIN, DATA, lambda index, chunk: b"" if index % 3 == 1 else chunk)
    broker.live(HOUR_S)
    opened: set[str] = set()
    for command in broker.commands:
        if isinstance(command, do.Subscribe):
            opened |= {topic for topic in command.topics if "/blob/" in topic}
        if isinstance(command, do.Unsubscribe):
            opened -= set(command.topics)
        assert len(opened) <= WINDOW
