"""A device's process: the real core, a disk in memory, a trainer that takes its time, and SIGKILL at any line."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import replace

import numpy as np

from aggregator.keyring import NO_KEYS, Keyring
from device_agent import commands as do
from device_agent import events as ev
from device_agent.adapters.patching import PatchError, patched
from device_agent.core import DeviceCore
from device_agent.policy import Readings
from device_agent.records import OutboxRow, RestoredState
from device_agent.sealing import sealed, sealed_answer
from device_agent.settings import AgentSettings
from models.answering import metrics_to_data
from models.metrics import ClassificationMetrics
from protocol import tensors
from protocol.chunks import digest_of
from protocol.link import LinkEvent
from protocol.messages import Manifest, ModelUpdate, SealedUpdate
from protocol.packing import decode_update
from protocol.surveys import pack_content
from tests.simulation.broker import Broker, Link
from tests.simulation.world import Alarm, World


class Disk:
    """What survives the process, and what of it a power cut."""

    def __init__(self, incarnation: str) -> None:
        self.state = RestoredState(incarnation=incarnation)
        self.rows: dict[int, OutboxRow] = {}
        self.model: tuple[Manifest, bytes] | None = None
        self.model_before: tuple[Manifest, bytes] | None = None
        self.candidate: tuple[Manifest, bytes] | None = None
        self.training: tuple[tuple[str, int, int], float] | None = None
        """A training that was set aside: epoch, version and number of the contribution; seconds that it takes yet."""
        self.sync()

    def sync(self) -> None:
        self._synced = (self.state, dict(self.rows))

    def lose_power(self, *, renaming_too: bool) -> None:
        """Keep what was synced; of the model's file system maybe not even the last renaming."""
        self.state, rows = self._synced
        self.rows = dict(rows)
        if renaming_too:
            self.model = self.model_before
            self.training = None
            self.candidate = None

    def restore(self) -> RestoredState:
        entries = tuple(self.rows[sequence].entry for sequence in sorted(self.rows))
        model, candidate = (found[0] if found else None for found in (self.model, self.candidate))
        return replace(self.state, outbox=entries, model=model, candidate=candidate)


class DeviceProcess:
    """Starts, is killed, starts again on the same disk."""

    def __init__(
        self,
        world: World,
        broker: Broker,
        settings: AgentSettings,
        size: int,
        training_s: float,
        *,
        keys: Keyring = NO_KEYS,
    ) -> None:
        self.keys = keys
        self.world, self.broker, self.settings = world, broker, settings
        self.size, self.training_s = size, training_s
        self.disk = Disk(f"{world.rng.getrandbits(64):016x}")
        self.created: dict[tuple[str, str, int], ModelUpdate] = {}
        """Every update that was ever committed to the outbox, by identity."""
        self.reports: set[tuple[str, str, int]] = set()
        """Every report that was ever committed to the outbox."""
        self.measured = ClassificationMetrics(
            count=size + len(settings.device.id), correct=max(20, int(40 / training_s) % size), loss_sum=training_s
        )
        """What it answers an evaluation with."""
        self.held: dict[int, str] = {}
        """Digest of the parameters of every version that was ever cached."""
        self.sick = 0.0
        """How often a training ends far away: with an update that no aggregator takes."""
        self.starts = self.crashes = 0
        self.resumed = self.taken = 0
        self.alive = False
        self._told_to_stop = self._keeps = False
        self._alarm = Alarm(world, lambda: self.core.deadline(world.now), lambda: self.take(ev.Tick()))
        self.world.after(world.rng.uniform(0.0, 5.0), self.start)

    @property
    def name(self) -> str:
        return self.settings.device.id

    def start(self) -> None:
        self.starts += 1
        self.alive = True
        boot = f"{self.world.rng.getrandbits(64):016x}"
        chance = random.Random(self.world.rng.getrandbits(32))
        pins = tuple(self.keys.signing_keys[:1])
        self.core = DeviceCore(self.settings, self.disk.restore(), boot=boot, rng=chance, pins=pins)
        self.link: Link | None = None
        self.take(ev.Started())

    def _guarded(self, event: LinkEvent) -> None:
        if self.alive:
            self.take(event)

    def take(self, event: ev.Event) -> None:
        commands = self.core.handle(event, self.world.now)
        for command in commands:
            if self.world.chance(self.world.weather.crash_device / max(1, len(commands))):
                self.kill()
            if not self.alive:
                return
            self._do(command)
        if self.alive:
            self._alarm.set()

    def _do(self, command: do.Command) -> None:  # noqa: C901, PLR0912 - a table of commands
        match command:
            case do.Connect():
                self.link = Link(self.world, self.broker, self.name, self._guarded)
                self.link.start(self.core.will, persistent=False)
            case do.Disconnect() if self.link:
                self.link.stop()
            case do.Subscribe() if self.link:
                self.link.subscribe(command.topics)
            case do.Unsubscribe() if self.link:
                self.link.unsubscribe(command.topics)
            case do.Publish() if self.link:
                self.link.publish(command.topic, command.payload, retain=command.retain, token=command.token)
            case do.Persist():
                self._persist(command)
            case do.LoadUpdate():
                row = self.disk.rows.get(command.sequence)
                self.take(ev.UpdateLoaded(sequence=command.sequence, payload=row.payload if row else None))
            case do.CacheModel():
                self._cache(command.manifest, command.data)
            case do.PatchModel():
                self._patch(command)
            case do.DropModel():
                self.disk.model = self.disk.model_before = None
            case do.CacheCandidate():
                self.disk.candidate = (command.manifest, command.data)
                self.take(ev.CandidateCached(parameters=command.manifest.parameters))
            case do.DropCandidate():
                self.disk.candidate = None
            case do.TakeCandidate():
                self._take_candidate(command)
            case do.TakeReadings():
                hot = self.world.chance(self.world.weather.heat)
                self.take(ev.ReadingsTaken(readings=Readings(cpu_c=90.0 if hot else 60.0)))
            case do.StopTask():
                self._told_to_stop = True
                self._keeps = command.keep
            case do.DropCheckpoint():
                self.disk.training = None
            case do.DropPersonal():
                pass
            case do.Train():
                self._train(command)
            case do.Answer():
                self._answer(command)
            case do.Exit():
                self.alive = False
                self._alarm.cancel()

    def _patch(self, command: do.PatchModel) -> None:
        assert self.disk.model is not None, "a step from nothing"
        try:
            data = patched(command, *self.disk.model).tobytes()
        except PatchError as exc:
            self.take(ev.PatchFailed(reason=str(exc)))
            return
        self._cache(command.manifest, data)

    def _cache(self, manifest: Manifest, data: bytes) -> None:
        self.disk.model, self.disk.model_before = (manifest, data), self.disk.model
        self.held[manifest.version] = digest_of(data)
        self.take(ev.ModelCached(epoch=manifest.epoch, version=manifest.version))

    def _take_candidate(self, command: do.TakeCandidate) -> None:
        found, self.disk.candidate = self.disk.candidate, None
        if found is None or found[0].blob != command.manifest.blob:
            self.take(ev.CandidateLost(reason="gone"))
            return
        self.taken += 1
        self._cache(command.manifest, found[1])

    def _persist(self, command: do.Persist) -> None:
        self.disk.state = replace(self.disk.state, durable=command.state)
        for sequence in command.deletes:
            self.disk.rows.pop(sequence, None)
        if command.put is None:
            if not command.recoverable:
                self.disk.sync()
            return
        sequence = command.put.entry.sequence
        identity = (self.name, self.disk.state.incarnation, sequence)
        assert identity not in self.created.keys() | self.reports, "a sequence number was used twice"
        if command.put.entry.survey:
            self.reports.add(identity)
        else:
            self.created[identity] = self._as_made(command.put.payload)
        self.disk.rows[sequence] = command.put
        assert not command.recoverable, "an update must not get lost"
        self.disk.sync()
        if self.world.chance(self.world.weather.crash_device):
            self.kill()
            return
        self.take(ev.Persisted(sequence=sequence))

    def _as_made(self, payload: bytes) -> ModelUpdate:
        update = decode_update(payload)
        if self.keys.opener:
            assert isinstance(update, SealedUpdate)
            return self.keys.opener.open(update)
        assert isinstance(update, ModelUpdate)
        return update

    def _answer(self, command: do.Answer) -> None:
        start = self.starts
        figures = {"examples": self.measured.count, "metrics": metrics_to_data(self.measured)}
        if command.candidate is not None:
            assert self.disk.candidate is not None, "a comparison without a candidate"
            assert self.disk.candidate[0].parameters == command.candidate.parameters
            assert command.manifest.version == command.candidate.version - 1
            figures["candidate"] = metrics_to_data(self.judge(command.candidate.parameters))
        content = pack_content(figures)
        done = ev.SurveyAnswered(task=command.task, survey=command.survey, content=content)

        def finish() -> None:
            if self.alive and start == self.starts:
                self.take(sealed_answer(done, command, self.name))

        self.world.after(self.training_s / 4, finish)

    def judge(self, parameters: str) -> ClassificationMetrics:
        """What it finds of a candidate: nearly every other one is bad, for everybody."""
        bad = int(parameters[:8], 16) % 2
        return dataclasses.replace(self.measured, correct=0) if bad else self.measured

    def _train(self, command: do.Train) -> None:
        start = self.starts
        self._told_to_stop = self._keeps = False
        origin = (command.manifest.epoch, command.manifest.version, command.contribution)
        left_s = self.training_s * self.world.rng.uniform(0.5, 1.5)
        if self.disk.training is not None and self.disk.training[0] == origin:
            left_s = self.disk.training[1]
            self.resumed += 1
            self.take(ev.TrainingResumed(task=command.task, num_steps=1, planned=2))
        delta = np.random.default_rng(self.world.rng.getrandbits(32)).normal(0.0, 0.1, self.size).astype(np.float32)
        if self.sick and self.world.chance(self.sick):
            delta *= np.float32(1e6)
        done = ev.TrainingDone(
            task=command.task,
            num_examples=self.world.rng.randint(1, 100),
            num_steps=1,
            delta=tensors.encode("f32", delta, np.random.default_rng(0)),
            duration_s=self.training_s,
        )

        def finish() -> None:
            if not self.alive or start != self.starts:
                return
            # Whether another step comes after the word is a matter of luck.
            if not self._told_to_stop or self.world.chance(0.3):
                self.take(sealed(done, command, self.name))
                return
            if self._keeps:
                self.disk.training = origin, left_s / 2
            self.take(ev.TaskStopped(task=command.task, kept_share=0.5 if self._keeps else None))

        self.world.after(left_s, finish)

    def kill(self) -> None:
        """SIGKILL or a power cut, and a start some time later."""
        self.crashes += 1
        if self.world.chance(0.5):
            self.disk.lose_power(renaming_too=self.world.chance(0.5))
        self.alive = False
        self._alarm.cancel()
        if self.link:
            self.link.kill()
        self.world.after(self.world.rng.uniform(0.1, 5.0), self.start)
