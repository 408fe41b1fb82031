"""The aggregator's process: the real core, a store in memory that keeps what was committed, and SIGKILL at any line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from aggregator import commands as do
from aggregator.configuration import AggregatorSettings
from aggregator.core import AggregatorCore, first_version
from aggregator.events import Event, MetricsDue, ScheduleDue, StoreFailed, Tick
from aggregator.keyring import NO_KEYS, Keyring
from aggregator.numbering import next_number
from aggregator.records import Aggregation, Answer, JournalEntry, Restored, SurveyRecord, VersionRecord
from models import build
from models.answering import metrics_to_data
from models.comparison import Comparison
from models.statistics import FeatureStatistics
from protocol.link import LinkEvent, LinkUp
from tests.simulation.broker import Broker, Link
from tests.simulation.world import Alarm, World

NO_DATA: dict[str, float] = {}

S = TypeVar("S", bound=Struct)


def _written(record: S) -> S:
    """Return the record as it would come back from a disk: nothing in it is shared with the living one."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=type(record))


def _parted(commands: list[do.Command]) -> tuple[list[do.StoreCommand], list[do.Command]]:
    """Return what goes into the transaction, and what follows the commit."""
    stored: list[do.StoreCommand] = []
    rest: list[do.Command] = []
    for command in commands:
        if isinstance(command, do.StoreCommand):
            stored.append(command)
        else:
            rest.append(command)
    return stored, rest


def _data_of(total: do.Total) -> dict[str, Any]:
    return total.to_data() if isinstance(total, FeatureStatistics | Comparison) else metrics_to_data(total)


class Store:
    """What a disk would hold: the last committed state, whole."""

    def __init__(self, settings: AggregatorSettings) -> None:
        version, server, shelf = first_version(settings, build(settings.model), created=0.0)
        self.restored = Restored(
            epoch="e" * 16, store_id="5" * 16, version=version, server=server, shelf=shelf, generation=1, issued=1
        )
        self.versions: list[VersionRecord] = [version]
        self.aggregations: list[Aggregation] = []
        self.journalled = 0
        self.answers: list[Answer] = []

    def apply(self, commands: list[do.StoreCommand]) -> None:
        for command in commands:
            match command:
                case do.Journal(entry):
                    self._journal(entry)
                case do.SaveAggregation():
                    self._save(command)
                case do.SaveVerdict():
                    self._decided(command)
                case do.SaveSurvey():
                    self._ask(command)
                case do.SaveAnswer():
                    self._answered(command)
                case do.SaveIssued(issued):
                    self.restored = replace(self.restored, issued=issued)
                case do.SaveFleet():
                    self._save_fleet(command)

    def _journal(self, entry: JournalEntry) -> None:
        line = entry.contribution
        sequences = {**self.restored.sequences, (line.device_id, line.incarnation): line.sequence}
        self.restored = replace(self.restored, journal=(*self.restored.journal, entry), sequences=sequences)
        self.journalled += 1

    def _ask(self, command: do.SaveSurvey) -> None:
        record = SurveyRecord(
            survey=command.survey, opened=0.0, total=_data_of(command.total), answered=(), with_examples=0
        )
        if command.closed is not None:
            kept = tuple(r for r in self.restored.surveys if r.survey.id != command.survey.id)
            self.restored = replace(self.restored, surveys=kept)
            return
        self.restored = replace(self.restored, surveys=(*self.restored.surveys, record))

    def _answered(self, command: do.SaveAnswer) -> None:
        answer = command.answer
        (record,) = [each for each in self.restored.surveys if each.survey.id == answer.survey]
        others = [each for each in self.restored.surveys if each.survey.id != answer.survey]
        assert answer.device_id not in record.answered, "a device counted twice"
        answered = (*record.answered, answer.device_id)
        record = replace(
            record,
            answered=answered,
            total=_data_of(command.total),
            with_examples=len(answered),
            compared=(*record.compared, (answer.examples, answer.figures)),
        )
        sequences = {**self.restored.sequences, (answer.device_id, answer.incarnation): answer.sequence}
        self.restored = replace(self.restored, surveys=(*others, record), sequences=sequences)
        self.answers.append(answer)

    def _save(self, command: do.SaveAggregation) -> None:
        self.aggregations.append(command.aggregation)
        self.restored = replace(self.restored, journal=(), shelf=command.shelf, withdrawn=command.withdrawn)
        if command.candidate:
            assert self.restored.candidate is None, "two candidates at a time"
            self.restored = replace(self.restored, candidate=command.candidate)
        if command.version and command.server:
            self.versions.append(command.version)
            self.restored = replace(self.restored, version=command.version, server=command.server, attempts=0)
        elif not command.candidate:
            self.restored = replace(self.restored, attempts=self.restored.attempts + 1)

    def _decided(self, command: do.SaveVerdict) -> None:
        (tried,) = [index for index, each in enumerate(self.aggregations) if each.outcome == "candidate"]
        number = command.version.version if command.version else None
        ended = replace(self.aggregations[tried], outcome=command.outcome, reason=command.reason, version=number)
        self.aggregations[tried] = ended
        self.restored = replace(self.restored, candidate=None, shelf=command.shelf)
        if command.version and command.server:
            self.versions.append(command.version)
            self.restored = replace(self.restored, version=command.version, server=command.server, attempts=0)
        else:
            self.restored = replace(self.restored, attempts=self.restored.attempts + 1)

    def _save_fleet(self, command: do.SaveFleet) -> None:
        devices = {record.device_id: record for record in self.restored.devices}
        devices.update({record.device_id: _written(record) for record in command.devices})
        self.restored = replace(self.restored, devices=tuple(devices.values()), counters=_written(command.counters))

    def identities(self) -> list[tuple[str, str, int]]:
        """Every accepted update, in whatever it ended or still waits."""
        lines = [line for aggregation in self.aggregations for line in aggregation.lineage]
        lines += [entry.contribution for entry in self.restored.journal]
        return [(line.device_id, line.incarnation, line.sequence) for line in lines]


class AggregatorProcess:
    """Starts, is killed, starts again on the same store."""

    def __init__(self, world: World, broker: Broker, settings: AggregatorSettings, keys: Keyring = NO_KEYS) -> None:
        self.keys = keys
        self.world, self.broker, self.settings = world, broker, settings
        self.model = build(settings.model)
        self.store = Store(settings)
        self.starts = 0
        self.crashes = 0
        self.alive = False
        self.exits: list[str] = []
        self._alarm = Alarm(world, lambda: self.core.deadline(), lambda: self.take(Tick()))  # noqa: PLW0108 - the core changes
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.alive = True
        instance = f"{self.world.rng.getrandbits(64):016x}"
        before = self.store.restored
        issued = next_number(before.issued, self.world.now)
        self.store.restored = replace(before, instances=(*before.instances, instance), issued=issued)
        self.core = self._core(instance)
        name = f"aggregator-{self.store.restored.store_id}"
        self.link = Link(self.world, self.broker, name, self._guarded)
        self.link.start(self.core.will, persistent=True)
        self._repeat(MetricsDue(), 5.0)
        if self.settings.schedule.interval_s:
            self._repeat(ScheduleDue(), self.settings.schedule.interval_s)

    def _core(self, instance: str) -> AggregatorCore:
        return AggregatorCore(
            self.settings, self.model, self.store.restored, instance, lambda _vector: NO_DATA, keys=self.keys
        )

    def _repeat(self, event: Event, interval_s: float) -> None:
        start = self.starts

        def due() -> None:
            if self.alive and start == self.starts:
                self.take(event)
                self.world.after(interval_s, due)

        self.world.after(interval_s, due)

    def _guarded(self, event: LinkEvent) -> None:
        if self.alive:
            self.take(event)

    def take(self, event: Event) -> None:
        """Run one batch of one event, and perhaps die at any point of it."""
        now, wall = self.world.now, self.world.now
        commands = [*self.core.handle(event, now, wall), *self.core.checkpoint()]
        stored, rest = _parted(commands)
        if self.world.chance(self.world.weather.crash_aggregator):
            self._die_within(stored, rest)
            return
        if stored and self.world.chance(self.world.weather.store_fails):
            self._store_failed(event)
            return
        self.store.apply(stored)
        self._perform(rest)
        if self.alive:
            self._alarm.set()

    def _die_within(self, stored: list[do.StoreCommand], rest: list[do.Command]) -> None:
        if self.world.chance(0.5):  # after the commit, before some of what follows it
            self.store.apply(stored)
            self._perform(rest[: self.world.rng.randint(0, len(rest))])
        self.kill()

    def _store_failed(self, event: Event) -> None:
        self.core = self._core(self.core.instance)
        self.core.resume_active()
        if self.link.up:
            self.take(LinkUp(session_present=True, protocol="3.1.1"))
        if self.alive:
            self.take(StoreFailed(reason="no space left on device", lost=(event,)))

    def _perform(self, commands: list[do.Command]) -> None:
        for command in commands:
            match command:
                case do.Publish():
                    self.link.publish(command.topic, command.payload, retain=command.retain, token=command.token)
                case do.Subscribe():
                    self.link.subscribe(command.topics)
                case do.Acknowledge():
                    self.link.acknowledge(command.received)
                case do.Exit():
                    self.exits.append(command.reason)
                    self.alive = False
                    self._alarm.cancel()
                    self.link.stop()

    def kill(self) -> None:
        """SIGKILL, and a start some time later."""
        self.crashes += 1
        self.alive = False
        self._alarm.cancel()
        self.link.kill()
        self.world.after(self.world.rng.uniform(0.1, 3.0), self.start)

    def sum_of_buffer(self) -> NDArray[np.float64]:
        return self.core.ledger.buffer.sum.total
