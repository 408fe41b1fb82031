"""An aggregator's core on a table: bytes in, commands out, with a store in memory and a broker that says yes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray

from aggregator.commands import (
    Command,
    Journal,
    Publish,
    SaveAggregation,
    SaveAnswer,
    SaveFindings,
    SaveFleet,
    SaveIssued,
    SaveSurvey,
    SaveVerdict,
    Total,
)
from aggregator.configuration import AdmissionTable, AggregatorSettings, AggregatorTable
from aggregator.core import AggregatorCore, first_version
from aggregator.events import Event, Tick
from aggregator.frozen import Backbone
from aggregator.keyring import NO_KEYS, Keyring
from aggregator.records import Restored, SurveyRecord
from aggregator.stepping import Evaluator
from models import Model, build
from models.answering import metrics_to_data
from models.comparison import Comparison
from models.statistics import FeatureStatistics
from protocol import tensors
from protocol.chunks import blob_of, split
from protocol.link import LinkUp, Published, Received
from protocol.messages import ModelUpdate, Participation, Receipt, UpdateChunk, UpdateProbe, UpMessage, WholeMessage
from protocol.packing import decode_receipt, encode

SPEC: dict[str, Any] = {"kind": "softmax", "inputs": 4, "outputs": 3}
SIZE = 15
FEDERATION = "bench"
EPOCH = "e" * 16
STORE = "5" * 16
INSTANCE = "1" * 16
INCARNATION = "c" * 16

C = TypeVar("C")


def only(commands: list[Command], kind: type[C]) -> list[C]:
    return [command for command in commands if isinstance(command, kind)]


def settings_with(**tables: Any) -> AggregatorSettings:
    tables.setdefault("participation", Participation(codec="f32", contributions_per_version=1000))
    tables.setdefault("model", dict(SPEC))
    # Most tests are about other things than a device that sends a lot.
    tables.setdefault("admission", AdmissionTable(messages_per_s=0.0, bytes_per_s=0.0, quarantine_after=0))
    training = {"epochs": 1, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.1}
    table = AggregatorTable(federation=FEDERATION, state_dir="unused")
    return AggregatorSettings(aggregator=table, training=training, **tables)


def data_of(total: Total) -> dict[str, Any]:
    return total.to_data() if isinstance(total, FeatureStatistics | Comparison) else metrics_to_data(total)


def nothing_to_say(_parameters: NDArray[np.float32]) -> dict[str, float]:
    return {}


def fresh(settings: AggregatorSettings, model: Model, store: str = STORE, backbone: Backbone | None = None) -> Restored:
    version, server, shelf = first_version(settings, model, created=0.0, carried=backbone)
    return Restored(epoch=EPOCH, store_id=store, version=version, server=server, shelf=shelf)


class Bench:
    """A core that was alone and is connected; ``feed`` also plays the store and, unless told otherwise, the broker."""

    def __init__(
        self,
        settings: AggregatorSettings | None = None,
        evaluate: Evaluator = nothing_to_say,
        restored: Restored | None = None,
        broker: dict[str, bytes] | None = None,
        keys: Keyring = NO_KEYS,
        *,
        backbone: Backbone | None = None,
    ) -> None:
        self.settings = settings or settings_with()
        self.model = build(self.settings.model)
        self.evaluate = evaluate
        self.now = 100.0
        self.restored = restored or fresh(self.settings, self.model, backbone=backbone)
        self.keys = keys
        self.backbone = backbone
        self.core = AggregatorCore(
            self.settings, self.model, self.restored, INSTANCE, evaluate, keys=keys, carried=backbone
        )
        self.core.resume_active()
        self.broker = {} if broker is None else broker
        """Retained messages."""
        self.sequence = 0
        self.feed(LinkUp(session_present=False, protocol="3.1.1"))

    @property
    def topics(self) -> Any:
        return self.core.topics

    def feed(self, event: Event) -> list[Command]:
        commands = self.handle(event)
        for publish in only(commands, Publish):
            if publish.token:
                self.feed(Published(token=publish.token))
        return commands

    def handle(self, event: Event) -> list[Command]:
        """Feed, but leave publishes unanswered."""
        commands = [*self.core.handle(event, self.now, wall=self.now), *self.core.checkpoint()]
        self._store(commands)
        for publish in only(commands, Publish):
            if publish.retain and publish.payload:
                self.broker[publish.topic] = publish.payload
            elif publish.retain:
                self.broker.pop(publish.topic, None)
        return commands

    def _store(self, commands: list[Command]) -> None:  # noqa: C901, PLR0912 - a table of commands
        for command in commands:
            match command:
                case Journal(entry):
                    line = entry.contribution
                    sequences = {**self.restored.sequences, (line.device_id, line.incarnation): line.sequence}
                    journal = (*self.restored.journal, entry)
                    self.restored = replace(self.restored, journal=journal, sequences=sequences)
                case SaveAggregation():
                    version = command.version or self.restored.version
                    server = command.server or self.restored.server
                    self.restored = replace(self.restored, journal=(), version=version, server=server)
                    self.restored = replace(self.restored, shelf=command.shelf, withdrawn=command.withdrawn)
                    if command.candidate:
                        self.restored = replace(self.restored, candidate=command.candidate)
                    if command.version:
                        self.restored = replace(self.restored, attempts=0)
                    elif not command.candidate:
                        self.restored = replace(self.restored, attempts=self.restored.attempts + 1)
                case SaveVerdict():
                    assert self.restored.candidate, "a verdict on nothing"
                    self.restored = replace(self.restored, candidate=None, shelf=command.shelf)
                    if command.version and command.server:
                        self.restored = replace(
                            self.restored, version=command.version, server=command.server, attempts=0
                        )
                    else:
                        self.restored = replace(self.restored, attempts=self.restored.attempts + 1)
                case SaveSurvey() if command.closed is not None:
                    kept = tuple(r for r in self.restored.surveys if r.survey != command.survey)
                    self.restored = replace(self.restored, surveys=kept)
                case SaveSurvey():
                    record = SurveyRecord(
                        survey=command.survey, opened=0.0, total=data_of(command.total), answered=(), with_examples=0
                    )
                    self.restored = replace(self.restored, surveys=(*self.restored.surveys, record))
                case SaveAnswer(answer=answer, total=total):
                    accepted = {(answer.device_id, answer.incarnation): answer.sequence}
                    surveys = tuple(
                        replace(
                            r,
                            total=data_of(total),
                            answered=(*r.answered, answer.device_id),
                            with_examples=r.with_examples + (answer.examples > 0),
                            compared=(*r.compared, (answer.examples, answer.figures)),
                        )
                        if r.survey.id == answer.survey
                        else r
                        for r in self.restored.surveys
                    )
                    sequences = {**self.restored.sequences, **accepted}
                    self.restored = replace(self.restored, surveys=surveys, sequences=sequences)
                case SaveFindings(findings):
                    self.restored = replace(self.restored, findings=findings)
                case SaveIssued(issued):
                    self.restored = replace(self.restored, issued=issued)
                case SaveFleet():
                    changed = copy.deepcopy(command)
                    devices = {record.device_id: record for record in (*self.restored.devices, *changed.devices)}
                    self.restored = replace(self.restored, devices=tuple(devices.values()), counters=changed.counters)

    def restart(self, settings: AggregatorSettings | None = None) -> Bench:
        again = Bench(
            settings or self.settings, self.evaluate, self.restored, self.broker, self.keys, backbone=self.backbone
        )
        again.sequence, again.now = self.sequence, self.now
        return again

    def tick(self, seconds: float) -> list[Command]:
        self.now += seconds
        return self.feed(Tick())

    # -- devices --------------------------------------------------------------------------------------------------

    def update(self, device: str = "dev", **fields: Any) -> ModelUpdate:
        """Return a good update, save for what ``fields`` say."""
        self.sequence += 1
        delta = fields.pop("delta", np.ones(SIZE, np.float32))
        codec = fields.pop("codec", "f32")
        if not isinstance(delta, bytes):
            delta = tensors.encode(codec, np.asarray(delta, np.float32), np.random.default_rng(0))
        body: dict[str, Any] = {
            "federation": FEDERATION,
            "epoch": EPOCH,
            "device_id": device,
            "incarnation": INCARNATION,
            "sequence": self.sequence,
            "base_version": self.core.ledger.version.version,
            "num_examples": 10,
            "num_steps": 2,
            "codec": codec,
            "layout": self.model.layout.digest,
            "delta": delta,
        }
        return ModelUpdate(**{**body, **fields})

    def raw(self, **fields: Any) -> bytes:
        """Return a good update as bytes, with any fields replaced by anything; None leaves one out."""
        body = msgpack.unpackb(encode(self.update())) | fields
        return bytes(msgpack.packb({name: value for name, value in body.items() if value is not None}))

    def message(self, payload: bytes, device: str = "dev") -> Received:
        return Received(topic=self.topics.update(device), payload=payload, mid=1, connection=1)

    def send(self, message: UpMessage | bytes, device: str = "dev") -> list[Command]:
        payload = message if isinstance(message, bytes) else encode(message)
        return self.feed(self.message(payload, device))

    def answer(self, message: UpMessage | bytes, device: str = "dev") -> Receipt:
        """Send, and return the one receipt."""
        found = self.receipts(self.send(message, device))
        assert len(found) == 1, found
        return found[0]

    def receipts(self, commands: list[Command]) -> list[Receipt]:
        prefix = self.topics.root + "/receipt/"
        return [decode_receipt(p.payload) for p in only(commands, Publish) if p.topic.startswith(prefix)]

    def chunks(self, update: WholeMessage, chunk_bytes: int = 64, **fields: Any) -> list[UpdateChunk]:
        whole = encode(update)
        blob = blob_of(whole, "update", chunk_bytes)
        common: dict[str, Any] = {
            "federation": update.federation,
            "device_id": update.device_id,
            "incarnation": update.incarnation,
            "sequence": update.sequence,
            "blob": blob,
        } | fields
        return [UpdateChunk(**common, index=i, data=data) for i, data in enumerate(split(whole, chunk_bytes))]

    def probe(self, update: ModelUpdate) -> UpdateProbe:
        return UpdateProbe(
            federation=FEDERATION,
            device_id=update.device_id,
            incarnation=update.incarnation,
            sequence=update.sequence,
        )

    # -- what is to be seen -------------------------------------------------------------------------------------------

    def bits(self) -> tuple[bytes, bytes, float, int]:
        """Everything of model and buffer that a refused message must leave alone."""
        ledger = self.core.ledger
        total = ledger.buffer.sum
        return ledger.version.parameters, total.total.tobytes(), total.weight, len(ledger.buffer)

    @property
    def version(self) -> int:
        return self.core.ledger.version.version

    @property
    def refusals(self) -> dict[str, int]:
        return self.core.fleet.counters.refusals

    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.broker[self.topics.aggregator_metrics])
        return found
