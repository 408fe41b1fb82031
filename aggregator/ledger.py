"""The model's side of the aggregator: current version, open buffer, what was accepted, and how a version is made.

Restoring replays the journal in its order, so that buffer and sum have the same bits as before the restart.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from aggregator.admission import Gate, Refused
from aggregator.buffer import Buffer, Contribution
from aggregator.clipping import NormMedian
from aggregator.commands import SaveAggregation, SaveFindings, SaveVerdict
from aggregator.configuration import AggregatorSettings
from aggregator.downlink import Rendition, render, vector_of
from aggregator.frozen import Carried
from aggregator.keyring import NO_KEYS, Keyring
from aggregator.publishing import restock
from aggregator.recording import comparison_name, filled, record_of, shelf_of
from aggregator.records import (
    MAX_INCARNATIONS,
    WITHDRAWN,
    Aggregation,
    CandidateRecord,
    JournalEntry,
    Outcome,
    Restored,
    ServerState,
    Shelf,
    VersionRecord,
)
from aggregator.server_optimizer import server_optimizer
from aggregator.staleness import staleness_weight
from aggregator.stepping import Evaluator, Step, initial_state, objection, step
from models import Model, Personal
from models.answering import standardize_of
from models.statistics import FeatureStatistics
from protocol import tensors
from protocol.messages import ModelUpdate, SealedUpdate

BEHIND = 2
"""Updates of earlier versions that a device may still have to send while a candidate is tried."""


class Ledger:
    """All that decides about updates and versions. Every method that changes it returns what has to be stored."""

    def __init__(
        self,
        settings: AggregatorSettings,
        model: Model,
        restored: Restored,
        evaluate: Evaluator,
        *,
        keys: Keyring = NO_KEYS,
        carried: Carried | None = None,
    ) -> None:
        self._settings = settings
        self.carried = carried
        """What every version needs beside itself."""
        self._model = model
        self._evaluate = evaluate
        self._opener = keys.opener
        self._split = Personal.from_data(settings.personal).split(model)
        """Updates, and so the buffer, hold what devices share of the model: all of it, as a rule."""
        self._optimizer = server_optimizer(settings.aggregation)
        self._staleness_weight = staleness_weight(settings.aggregation)
        self.epoch = restored.epoch
        self.version = restored.version
        self.server = restored.server
        self.findings = restored.findings
        """What is announced with the versions, whichever is current."""
        self.candidate = restored.candidate
        """What is tried before it becomes the next version; only one at a time."""
        self.attempts = restored.attempts
        """So many candidates were withdrawn since the current version was made."""
        published = tuple(entry for entry in restored.shelf if entry.version <= restored.version.version)
        self.shelf, self.expired = restock(published, [], settings.downlink.keep_versions)
        """Blobs on the broker that no kept version needs."""
        self.withdrawn = restored.withdrawn
        self.sequences = dict(restored.sequences)
        self._incarnations: dict[str, deque[str]] = {}
        for device_id, incarnation in self.sequences:
            self._incarnations.setdefault(device_id, deque()).append(incarnation)
        self.metrics = restored.version.metrics or evaluate(vector_of(restored.version.parameters))
        """Of the current version, on the evaluation data."""
        heard_last = sorted(restored.devices, key=lambda device: device.last_seen)
        self._norms = NormMedian((d.device_id, d.last_norm) for d in heard_last if d.last_norm is not None)
        self.buffer = self._replayed(restored.journal)
        self._gate = self._made_gate()

    def _replayed(self, journal: tuple[JournalEntry, ...]) -> Buffer:
        buffer = self._new_buffer()
        for entry in journal:
            buffer.add(entry.contribution, tensors.decode(entry.codec, entry.delta, self._split.shared.size))
        return buffer

    def _new_buffer(self) -> Buffer:
        return Buffer(self._split.shared.size)

    def _made_gate(self) -> Gate:
        return Gate(
            federation=self._settings.aggregator.federation,
            epoch=self.epoch,
            layout=self._split.shared.digest,
            size=self._split.shared.size,
            version=self.version.version,
            max_staleness=self._settings.aggregation.max_staleness,
            withdrawn=self.withdrawn,
            limits=self._settings.admission,
            opener=self._opener,
            trains=self.trains,
        )

    @property
    def trains(self) -> bool:
        """Whether the current version is to be trained: not before statistics have given it its constants."""
        return self.version.version > 0 or not self._settings.statistics.before_training

    @property
    def gate(self) -> Gate:
        """What updates are measured against now."""
        return self._gate

    def is_duplicate(self, device_id: str, incarnation: str, sequence: int) -> bool:
        """Return whether the update was accepted before (a device sends in order, one at a time)."""
        return sequence <= self.sequences.get((device_id, incarnation), 0)

    def admit(self, received: ModelUpdate | SealedUpdate, update_bytes: int, retry_after_s: float) -> JournalEntry:
        """Fold an update in and return its journal entry, or raise ``Refused`` and change nothing."""
        if self.is_duplicate(received.device_id, received.incarnation, received.sequence):
            raise Refused("duplicate", "", "accepted before")
        if isinstance(received, SealedUpdate):
            # What the clear fields give away comes first: opening is what costs, and a flood must not get that far.
            self._gate.check_place(received)
            self._check_turn(received.device_id, retry_after_s)
        update = self._gate.opened(received)
        delta, norm = self._gate.admit(update)
        self._check_turn(update.device_id, retry_after_s)
        # While a candidate is tried, what comes in goes into the version after it: most probably that will be out then.
        newest = self.candidate.version.version if self.candidate else self.version.version
        staleness = newest - update.base_version
        contribution = Contribution(
            device_id=update.device_id,
            incarnation=update.incarnation,
            sequence=update.sequence,
            base_version=update.base_version,
            staleness=staleness,
            num_examples=update.num_examples,
            num_steps=update.num_steps,
            weight=update.num_examples * self._staleness_weight(staleness),
            update_bytes=update_bytes,
            metrics=update.metrics,
            clip=self._norms.factor(norm, self._settings.admission.clip_factor),
        )
        self._norms.note(update.device_id, norm)
        self.buffer.add(contribution, delta)
        self.note_sequence(update.device_id, update.incarnation, update.sequence)
        return JournalEntry(contribution=contribution, codec=update.codec, delta=update.delta, norm=norm)

    def _check_turn(self, device_id: str, retry_after_s: float) -> None:
        limit = self._settings.participation.contributions_per_version
        if self.candidate is not None:
            # A device's comparison waits behind its updates: as many as it may make now are taken, and a few of before.
            limit = limit * (1 + self.attempts) + BEHIND
        if self.buffer.of_device(device_id) >= limit:
            text = f"version {self.version.version + 1} has its {limit} of this device"
            raise Refused("retry", "one-per-version", text, retry_after_s)

    def note_sequence(self, device_id: str, incarnation: str, sequence: int) -> None:
        """Take note that this update or report was accepted."""
        if (device_id, incarnation) not in self.sequences:
            known = self._incarnations.setdefault(device_id, deque())
            known.append(incarnation)
            if len(known) > MAX_INCARNATIONS:
                del self.sequences[device_id, known.popleft()]
        self.sequences[device_id, incarnation] = sequence

    @property
    def goal_reached(self) -> bool:
        """Whether the buffer is full enough to close without the clock."""
        goal = self._settings.schedule.goal
        return 0 < goal <= len(self.buffer) and self.quorate

    @property
    def quorate(self) -> bool:
        """Whether the buffer holds enough for any version at all, and none is being tried."""
        return self.candidate is None and len(self.buffer) >= self._settings.schedule.quorum

    def close(self, wall: float) -> SaveAggregation:
        """Make the next version of the buffer (or a candidate for it, with canaries), or withhold it.

        Whichever it is, the buffer is empty afterwards.
        """
        found = step(self.buffer, self.server, self._optimizer, self._settings.aggregation, self._split.spread)
        number = self.version.version + 1
        # Not finite means that there is nothing to render or to evaluate; the gate says so.
        finite = bool(np.isfinite(found.server.master).all())
        made = self._rendered(found.server, number) if finite else None
        metrics = self._evaluate(made.vector) if made else {}
        reason = objection(found, metrics, self.metrics, self._settings.evaluation)
        if made is None or reason:
            return self._withhold(reason, wall, metrics)
        record = record_of(number, "aggregate", made, wall)
        if self._settings.canary.fraction:
            return self._try_out(record, found, metrics, wall)
        return self._publish(record, found.server, metrics, wall, step_norm=found.norm)

    def _try_out(self, record: VersionRecord, found: Step, metrics: dict[str, float], wall: float) -> SaveAggregation:
        record = filled(record, self.buffer, metrics, found.norm)
        aggregation = self._aggregation("candidate", "", wall, metrics, None)
        self.candidate = CandidateRecord(
            survey=comparison_name(self.epoch, self.buffer), version=record, server=found.server
        )
        self._empty()
        return SaveAggregation(
            aggregation=aggregation, candidate=self.candidate, shelf=self._on_broker(), withdrawn=self.withdrawn
        )

    def _on_broker(self) -> tuple[Shelf, ...]:
        tried = shelf_of(self.candidate.version.version, self.candidate.version) if self.candidate else []
        return (*self.shelf, *tried)

    def promote(self, figures: dict[str, float], reason: str) -> SaveVerdict:
        """Make the candidate the current version; what is in the buffer stays there."""
        tried = self._tried()
        self.version, self.server, self.metrics = tried.version, tried.server, tried.version.metrics
        self.attempts = 0
        fresh = shelf_of(tried.version.version, tried.version, self.carried)
        self.shelf, self.expired = restock(self.shelf, fresh, self._settings.downlink.keep_versions)
        self.candidate = None
        self._gate = self._made_gate()
        return SaveVerdict(
            outcome="published",
            reason=reason,
            metrics={**tried.version.metrics, **figures},
            version=tried.version,
            server=tried.server,
            shelf=self.shelf,
        )

    def withdraw(self, figures: dict[str, float], reason: str) -> SaveVerdict:
        """Give the candidate up: the current version stays, and with it the state from which the next step starts."""
        tried = self._tried()
        self.candidate = None
        self.attempts += 1
        needed = {entry.digest for entry in self.shelf}
        gone = [entry for entry in shelf_of(WITHDRAWN, tried.version) if entry.digest not in needed]
        self.shelf, self.expired = restock(self.shelf, gone, self._settings.downlink.keep_versions)
        metrics = {**tried.version.metrics, **figures}
        return SaveVerdict(outcome="withdrawn", reason=reason, metrics=metrics, shelf=self.shelf)

    def _tried(self) -> CandidateRecord:
        if self.candidate is None:
            raise RuntimeError("there is no candidate")
        return self.candidate

    def roll_back(self, target: int, parameters: bytes, wall: float) -> SaveAggregation:
        """Make a new version with the target's parameters, set the open buffer aside, withdraw what lies between."""
        master = vector_of(parameters).astype(np.float32)
        number = self.version.version + 1
        made = render(master, self._settings.downlink, np.random.default_rng([self._settings.aggregator.seed, number]))
        self.withdrawn = (*self.withdrawn, (target + 1, self.version.version))
        record = record_of(number, "rollback", made, wall)
        server = initial_state(master, self._optimizer)
        return self._publish(record, server, self._evaluate(made.vector), wall, step_norm=0.0, rolled_back_to=target)

    def standardize(self, statistics: FeatureStatistics, wall: float) -> SaveAggregation:
        """Make the first version to be trained: the untrained one, with the constants that these statistics give."""
        master = self.server.master.copy()
        constants = standardize_of(self._model)
        if constants is not None:
            views = self._model.layout.views(master)
            views[f"{constants.name}.mean"][...] = statistics.mean
            views[f"{constants.name}.scale"][...] = 1.0 / statistics.scale()
        number = self.version.version + 1
        # Whole, without a delta: a coarse step would blur the constants.
        made = render(master, self._settings.downlink, np.random.default_rng([self._settings.aggregator.seed, number]))
        self.withdrawn = (*self.withdrawn, (0, self.version.version))
        record = record_of(number, "statistics", made, wall)
        server = initial_state(master, self._optimizer)
        return self._publish(record, server, self._evaluate(made.vector), wall, step_norm=0.0)

    def find(self, **found: Any) -> SaveFindings:  # noqa: ANN401 - fields of ``Findings``
        """Take note of what a survey found."""
        self.findings = msgspec.structs.replace(self.findings, **found)
        return SaveFindings(self.findings)

    def cleared(self, gone: tuple[Shelf, ...]) -> None:
        """Forget blobs that are no longer on the broker. The store learns of it with the next version: early enough."""
        self.shelf = tuple(entry for entry in self.shelf if entry not in gone)
        self.expired = tuple(entry for entry in self.expired if entry not in gone)

    def _rendered(self, server: ServerState, number: int) -> Rendition:
        held = (self.version.version, vector_of(self.version.parameters))
        rng = np.random.default_rng([self._settings.aggregator.seed, number])
        return render(server.master, self._settings.downlink, rng, held)

    def _publish(
        self,
        record: VersionRecord,
        server: ServerState,
        metrics: dict[str, float],
        wall: float,
        *,
        step_norm: float,
        rolled_back_to: int | None = None,
    ) -> SaveAggregation:
        # A rollback's version holds nothing of the buffer; those updates count as set aside.
        folded = self.buffer if rolled_back_to is None else self._new_buffer()
        record = replace(filled(record, folded, metrics, step_norm), rolled_back_to=rolled_back_to)
        outcome: Outcome = "published" if rolled_back_to is None else "set-aside"
        aggregation = self._aggregation(outcome, "", wall, metrics, record.version)
        fresh = shelf_of(record.version, record, self.carried)
        self.shelf, self.expired = restock(self.shelf, fresh, self._settings.downlink.keep_versions)
        self.version, self.server, self.metrics = record, server, metrics
        self.attempts = 0
        self._empty()
        return SaveAggregation(
            aggregation=aggregation, version=record, server=server, shelf=self._on_broker(), withdrawn=self.withdrawn
        )

    def _withhold(self, reason: str, wall: float, metrics: dict[str, float]) -> SaveAggregation:
        aggregation = self._aggregation("withheld", reason, wall, metrics, None)
        self.attempts += 1
        self._empty()
        return SaveAggregation(aggregation=aggregation, shelf=self._on_broker(), withdrawn=self.withdrawn)

    def _aggregation(
        self, outcome: Outcome, reason: str, wall: float, metrics: dict[str, float], version: int | None
    ) -> Aggregation:
        return Aggregation(
            outcome=outcome,
            base_version=self.version.version,
            version=version,
            reason=reason,
            created=wall,
            lineage=tuple(self.buffer.contributions),
            metrics=metrics,
        )

    def _empty(self) -> None:
        self.buffer = self._new_buffer()
        self._gate = self._made_gate()
