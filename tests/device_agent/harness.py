"""A core, driven by hand: bytes in, commands out, with a disk in memory that answers like the shell does."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from device_agent import commands as do
from device_agent import events as ev
from device_agent.core import DeviceCore
from device_agent.policy import Readings
from device_agent.records import DurableState, OutboxRow, RestoredState
from device_agent.sealing import sealed
from device_agent.settings import AgentSettings, DataSettings, DeviceSettings, OutboxSettings
from protocol.chunks import blob_of, digest_of, split
from protocol.link import LinkDown, LinkUp, Published, Received
from protocol.messages import (
    DeviceCommand,
    Manifest,
    ModelUpdate,
    Participation,
    Receipt,
    UpdateChunk,
    UpdateProbe,
    UpMessage,
)
from protocol.packing import decode_up, encode
from protocol.status import DeviceState, decode_status
from protocol.topics import Topics

EPOCH = "e" * 16
INCARNATION = "1" * 16
TOPICS = Topics("fed")
DEVICE = "press-07"
UP = TOPICS.update(DEVICE)
STATE = TOPICS.device_state(DEVICE)

_C = TypeVar("_C")


def settings(**tables: Any) -> AgentSettings:
    tables.setdefault("outbox", OutboxSettings(receipt_timeout_s=20.0, resend_max_s=600.0))
    return AgentSettings(
        device=DeviceSettings(id=DEVICE, federation="fed", state_dir="/nowhere"),
        data=tables.pop("data", DataSettings(path="samples.npz", watch_s=0.0)),
        **tables,
    )


def model_bytes(version: int, size: int = 400) -> bytes:
    return bytes((version + i) % 256 for i in range(size))


def manifest(
    version: int = 0, *, data: bytes | None = None, epoch: str = EPOCH, chunk_bytes: int = 65536, **part: Any
) -> Manifest:
    data = model_bytes(version) if data is None else data
    return Manifest(
        federation="fed",
        epoch=epoch,
        version=version,
        model={"kind": "softmax", "inputs": 4, "outputs": 2},
        layout="a" * 64,
        parameters=digest_of(data),
        blob=blob_of(data, "f32", chunk_bytes),
        training={},
        participation=Participation(codec="f32", **part),
    )


def receipt(sequence: int, status: Any = "accepted", **fields: Any) -> Receipt:
    fields = {"federation": "fed", "epoch": EPOCH, "device_id": DEVICE, "incarnation": INCARNATION} | fields
    return Receipt(sequence=sequence, status=status, **fields)


@dataclass
class Disk:
    """What survives, and how writing goes wrong."""

    durable: DurableState = field(default_factory=DurableState)
    rows: dict[int, OutboxRow] = field(default_factory=dict)
    model: Manifest | None = None
    write_error: str = ""
    patch_error: str = ""
    cache_error: str = ""

    def restored(self) -> RestoredState:
        return RestoredState(
            incarnation=INCARNATION,
            durable=self.durable,
            outbox=tuple(self.rows[number].entry for number in sorted(self.rows)),
            model=self.model,
        )


class Driver:
    """The shell's part, done by the test: time moves only when told."""

    def __init__(
        self,
        config: AgentSettings | None = None,
        disk: Disk | None = None,
        *,
        seed: int = 1,
        pins: tuple[bytes, ...] = (),
    ) -> None:
        self.config = config or settings()
        self.disk = disk or Disk()
        self.now = 1000.0
        self.commands: list[do.Command] = []
        self.readings = Readings()
        self.acknowledge = True
        """Whether publishes with a token are acknowledged at once."""
        self.pins = pins
        rng = random.Random(seed)
        self.core = DeviceCore(self.config, self.disk.restored(), boot="b" * 16, rng=rng, pins=pins)

    def restarted(self, pins: tuple[bytes, ...] | None = None) -> Driver:
        """A new process on the same disk, perhaps with other keys in its file."""
        return Driver(self.config, self.disk, seed=2, pins=self.pins if pins is None else pins)

    def give(self, event: ev.Event) -> list[do.Command]:
        """Hand over an event and everything that it leads to at once; return the new commands."""
        start = len(self.commands)
        waiting = deque([event])
        while waiting:
            for command in self.core.handle(waiting.popleft(), self.now):
                self.commands.append(command)
                waiting.extend(self._answers(command))
        return self.commands[start:]

    def start(self, *, connect: bool = True) -> list[do.Command]:
        commands = self.give(ev.Started())
        return commands + (self.connect() if connect else [])

    def connect(self) -> list[do.Command]:
        return self.give(LinkUp(session_present=False, protocol="5"))

    def cut(self) -> list[do.Command]:
        return self.give(LinkDown(reason="cut"))

    def receive(self, topic: str, payload: bytes, *, retain: bool = False) -> list[do.Command]:
        return self.give(Received(topic=topic, payload=payload, retain=retain))

    def announce(self, what: Manifest, *, live: bool = False) -> list[do.Command]:
        """Deliver the manifest: as the answer to a subscription, or ``live``, as it is published."""
        return self.receive(TOPICS.current_model, encode(what), retain=not live)

    def chunks(self, what: Manifest, data: bytes, only: list[int] | None = None) -> list[do.Command]:
        """Deliver chunks of the blob, as the broker would whatever is subscribed."""
        pieces = split(data, what.blob.chunk_bytes)
        start = len(self.commands)
        for index in range(len(pieces)) if only is None else only:
            self.receive(TOPICS.blob(what.blob.digest, index), pieces[index], retain=True)
        return self.commands[start:]

    def hold(self, version: int = 0, **fields: Any) -> Manifest:
        """Announce a version and deliver it."""
        what = manifest(version, **fields)
        self.announce(what)
        self.chunks(what, model_bytes(version))
        return what

    def answer(self, sequence: int, status: Any = "accepted", **fields: Any) -> list[do.Command]:
        return self.receive(TOPICS.receipt(DEVICE), encode(receipt(sequence, status, **fields)))

    def command(self, action: Any, request_id: str = "0" * 16) -> list[do.Command]:
        return self.receive(
            TOPICS.command(DEVICE),
            encode(DeviceCommand(federation="fed", request_id=request_id, action=action, target=DEVICE, issued=1)),
        )

    def finish_training(self, *, delta: bytes = b"\x01" * 64, **fields: Any) -> list[do.Command]:
        task = self.last(do.Train)
        fields = {"num_examples": 10, "num_steps": 2, "duration_s": 0.5} | fields
        done = ev.TrainingDone(task=task.task, delta=delta, **fields)
        return self.give(sealed(done, task, DEVICE))

    def wait(self, seconds: float) -> list[do.Command]:
        """Let time pass, from deadline to deadline."""
        until, start = self.now + seconds, len(self.commands)
        for _ in range(10_000):
            deadline = self.core.deadline(self.now)
            if deadline is None or deadline > until:
                self.now = until
                return self.commands[start:]
            self.now = max(self.now, deadline)
            self.give(ev.Tick())
        raise AssertionError("the core asks for ticks for ever")

    def all(self, kind: type[_C], commands: list[do.Command] | None = None) -> list[_C]:
        return [command for command in (self.commands if commands is None else commands) if isinstance(command, kind)]

    def last(self, kind: type[_C]) -> _C:
        return self.all(kind)[-1]

    def sent(self, commands: list[do.Command] | None = None) -> list[UpMessage]:
        """What was published on the update topic."""
        return [decode_up(command.payload) for command in self.all(do.Publish, commands) if command.topic == UP]

    def updates(self, commands: list[do.Command] | None = None) -> list[int]:
        return [message.sequence for message in self.sent(commands) if isinstance(message, ModelUpdate)]

    def chunk_indices(self, commands: list[do.Command] | None = None) -> list[int]:
        return [message.index for message in self.sent(commands) if isinstance(message, UpdateChunk)]

    def probes(self, commands: list[do.Command] | None = None) -> list[int]:
        return [message.sequence for message in self.sent(commands) if isinstance(message, UpdateProbe)]

    def states(self, commands: list[do.Command] | None = None) -> list[DeviceState]:
        return [
            decode_status(command.payload, DeviceState)
            for command in self.all(do.Publish, commands)
            if command.topic == STATE
        ]

    def subscribed(self, commands: list[do.Command] | None = None) -> list[str]:
        return [topic for command in self.all(do.Subscribe, commands) for topic in command.topics]

    def _answers(self, command: do.Command) -> list[ev.Event]:
        match command:
            case do.Publish(token=token) if token and self.acknowledge:
                return [Published(token=token)]
            case do.Persist():
                return self._persist(command)
            case do.LoadUpdate(sequence=sequence):
                row = self.disk.rows.get(sequence)
                return [ev.UpdateLoaded(sequence=sequence, payload=row.payload if row else None)]
            case do.CacheModel() | do.PatchModel():
                return [self._cache(command)]
            case do.DropModel():
                self.disk.model = None
            case do.TakeReadings():
                return [ev.ReadingsTaken(readings=self.readings)]
        return []

    def _cache(self, command: do.CacheModel | do.PatchModel) -> ev.Event:
        if self.disk.patch_error and isinstance(command, do.PatchModel):
            return ev.PatchFailed(reason=self.disk.patch_error)
        if self.disk.cache_error:
            return ev.CacheFailed(reason=self.disk.cache_error)
        self.disk.model = command.manifest
        return ev.ModelCached(epoch=command.manifest.epoch, version=command.manifest.version)

    def _persist(self, command: do.Persist) -> list[ev.Event]:
        sequence = command.put.entry.sequence if command.put else None
        if self.disk.write_error:
            return [ev.PersistFailed(reason=self.disk.write_error, sequence=sequence, deletes=command.deletes)]
        self.disk.durable = msgspec.json.decode(msgspec.json.encode(command.state), type=DurableState)
        for number in command.deletes:
            self.disk.rows.pop(number, None)
        if command.put is None or sequence is None:
            return []
        self.disk.rows[sequence] = command.put
        return [ev.Persisted(sequence=sequence)]
