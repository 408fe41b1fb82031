"""The frozen network on its way to the disk, in any weather: chunks lost, doubled, out of order; a disk that fills."""

from __future__ import annotations

import random
import resource
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from device_agent import commands as do
from device_agent import events as ev
from device_agent.adapters.backbone_files import BackboneFiles, backbone_path
from device_agent.frozen import Frozen
from device_agent.pulling import WINDOW
from protocol.chunks import blob_of, split
from protocol.messages import BackboneRef, Manifest
from tests.device_agent.harness import TOPICS, manifest, settings

DATA = random.Random(0).randbytes(1950)
BLOB = blob_of(DATA, "tflite", 100)
CHUNKS = split(DATA, 100)
BEHIND = replace(manifest(1), backbone=BackboneRef(blob=BLOB, inputs=8, outputs=4))
QUIET_S = 10_000.0
"""Longer than any wait."""


@contextmanager
def files_of_at_most(size: int | None) -> Iterator[None]:
    """A disk that is full: writes beyond this size fail, after as much as there is room for was written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class World:
    """A broker with retained chunks, a link and a disk, as the shell joins them to the core."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.room: int | None = None
        self.subscribed: set[int] = set()
        self.waiting: list[tuple[int, bytes]] = []
        self.asked = False
        """Whether the manifest is on its way."""
        self.delivered = 0
        self.now = 0.0
        self.events: list[ev.BackboneFound] = []
        self.start()

    def start(self) -> None:
        """A new process: it knows the manifest from its cache."""
        self.files = BackboneFiles(self.folder)
        self.frozen = Frozen(TOPICS, settings(), random.Random(1))
        self.linked = False
        self.cut()
        self.obey(self.frozen.follow(BEHIND, self.now))

    def cut(self) -> None:
        self.linked = self.asked = False
        self.subscribed.clear()
        self.waiting.clear()
        self.frozen.link_down()

    def link(self) -> None:
        self.linked = self.asked = True
        self.frozen.link_up(self.now)

    def hear(self, announced: Manifest = BEHIND) -> None:
        self.asked = False
        self.obey(self.frozen.follow(announced, self.now))

    def deliver(self, place: int = 0) -> None:
        index, payload = self.waiting.pop(place)
        if index in self.subscribed:
            self.delivered += 1
            self.obey(self.frozen.chunk(BLOB.digest, index, payload, self.now))

    def pass_time(self, seconds: float = QUIET_S) -> None:
        self.now += seconds
        if self.linked:
            self.obey(self.frozen.due(self.now))

    def obey(self, commands: list[do.Command]) -> None:
        """Carry commands out; answers come behind the batch that they belong to, and before anything else."""
        answers: deque[ev.BackboneFound] = deque()
        self._carry_out(commands, answers)
        while answers:
            self.events.append(answers[0])
            self._carry_out(self.frozen.found(answers.popleft(), self.now), answers)
        assert len(self.subscribed) <= WINDOW

    def _carry_out(self, commands: list[do.Command], answers: deque[ev.BackboneFound]) -> None:
        for command in commands:
            match command:
                case do.Subscribe(topics=topics):
                    self._subscribe(topics)
                case do.Unsubscribe(topics=topics):
                    self.subscribed -= {index for index in range(len(CHUNKS)) if self._topic(index) in topics}
                case do.SeekBackbone():
                    answers.append(self.files.seek(command.blob))
                case do.KeepChunk():
                    with files_of_at_most(self.room):
                        answers.append(self.files.keep(command.blob, command.index, command.data))
                case do.DropBackbone():
                    self.files.drop()

    def _subscribe(self, topics: tuple[str, ...]) -> None:
        assert self.linked, "subscribed without a connection"
        self.asked |= TOPICS.current_model in topics
        for index, payload in enumerate(CHUNKS):
            if self._topic(index) in topics:
                self.subscribed.add(index)
                self.waiting.append((index, payload))

    @staticmethod
    def _topic(index: int) -> str:
        return TOPICS.blob(BLOB.digest, index)

    # -- what may happen

    def anything(self) -> None:
        choice = self.chance.random()
        if choice < 0.02:
            self.start()
        elif not self.linked or choice < 0.05:
            self.cut()
            self.link()
        elif self.asked and choice < 0.4:
            self.hear()
        elif choice < 0.45:
            self.hear(replace(BEHIND, version=self.chance.randrange(2, 99)))
        elif choice < 0.5:
            self.room = self.chance.choice([None, self.chance.randrange(2000)])
        elif choice < 0.55:
            self.pass_time(self.chance.uniform(0.0, 100.0))
        elif self.waiting:
            place = self.chance.randrange(min(3, len(self.waiting)))
            if choice < 0.65:
                del self.waiting[place]
            elif choice < 0.7:
                self.waiting.insert(place, self.waiting[place])
            else:
                self.deliver(place)

    def at_rest(self) -> None:
        """Everything works from now on."""
        self.room = None
        if not self.linked:
            self.link()
        self.hear(replace(BEHIND, version=100))
        for _ in range(10 * len(CHUNKS)):
            if self.asked:
                self.hear()
            elif self.waiting:
                self.deliver()
            else:
                self.pass_time()

    @property
    def file(self) -> Path:
        return backbone_path(self.folder, BLOB.digest)


@pytest.mark.parametrize("seed", range(40))
def test_in_any_weather_the_file_comes_whole_or_not_at_all(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path, seed)
    for _ in range(300):
        world.anything()
        assert world.frozen.serves(BEHIND) == world.file.exists()
        assert not world.file.exists() or world.file.read_bytes() == DATA
    world.at_rest()
    assert world.frozen.serves(BEHIND)
    assert world.file.read_bytes() == DATA
    assert world.frozen.reason == ""
    assert not world.subscribed


def test_out_of_order_chunks_on_a_full_disk_do_not_cost_what_was_there(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.link()
    world.hear()
    for _ in range(6):
        world.deliver()
    world.room = 650
    for index in (9, 8, 7, 6):  # with the last one, all go to the disk at once
        world.deliver(world.waiting.index((index, CHUNKS[index])))
    assert "cannot be kept" in world.frozen.reason
    before = world.delivered

    world.pass_time(100.0)  # after ten minutes the disk is asked again
    assert not world.subscribed, "nothing is fetched that there is no room for"
    assert not world.frozen.fetching
    world.at_rest()
    assert world.file.read_bytes() == DATA
    assert world.delivered - before == len(CHUNKS) - 6, "only what was missing"
