"""From a finished training to its receipt: everything that must not get lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from device_agent import turns
from device_agent.commands import Command, DropCheckpoint, Log, Persist
from device_agent.composing import last_training, report_row, update_row
from device_agent.records import OutboxEntry, OutboxRow

if TYPE_CHECKING:
    from device_agent.events import Persisted, PersistFailed, SurveyAnswered, TrainingDone, UpdateLoaded
    from device_agent.ledger import CounterName
    from device_agent.parts import Parts
    from device_agent.records import EntryKind, Trained
    from protocol.messages import Manifest, Receipt

FINAL: dict[EntryKind, dict[str, CounterName]] = {
    "updates": {
        "accepted": "updates_accepted",
        "duplicate": "updates_duplicate",
        "stale": "updates_stale",
        "rejected": "updates_rejected",
    },
    "reports": {
        "accepted": "reports_accepted",
        "duplicate": "reports_duplicate",
        "stale": "reports_stale",
        "rejected": "reports_rejected",
    },
}
DROPPED: dict[EntryKind, CounterName] = {"updates": "updates_dropped", "reports": "reports_dropped"}


class Upstream:
    """Makes updates durable, and settles them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._pending: tuple[OutboxRow, list[OutboxEntry]] | None = None

    @property
    def writing(self) -> bool:
        """Whether an update is between its training and the disk: the marker that it was made is not there yet."""
        return self._pending is not None

    def trained(self, done: TrainingDone, manifest: Manifest, now: float) -> list[Command]:
        """Write the update down before anything else is done with it."""
        ledger, report = self._parts.ledger, self._parts.report
        ledger.count("trainings")
        sequence = ledger.state.next_sequence
        if manifest.sealing is not None and done.sealed_as != sequence:
            # Never in the clear, and under no other name: better to train once more.
            return self._unsealed(now)
        row = update_row(done, manifest, self._parts.device_id, self._parts.incarnation, sequence)
        last = last_training(done, row.entry.size, self._parts.desk.rows)
        self._parts.desk.rest(now + self._parts.settings.training.min_interval_s)
        self._parts.announce.news(now)
        displaced = report.displaced_by(row.entry.size)
        if displaced is None:
            ledger.change(trained=ledger.marker_after(manifest))
            ledger.remember(last)
            ledger.count("updates_created")
            reason = f"update of {row.entry.size} bytes is larger than the whole outbox"
            self._parts.desk.reason = reason
            return [DropCheckpoint(), *self._dropped([row.entry], reason, ())]
        if displaced:
            ledger.refuse("outbox full", len(displaced))
        self._pending = (row, displaced)
        return [ledger.put(row, tuple(displaced), manifest, last)]

    def answered(self, done: SurveyAnswered, manifest: Manifest, now: float) -> list[Command]:
        """Write a report down before anything else is done with it."""
        ledger, report = self._parts.ledger, self._parts.report
        sequence = ledger.state.next_sequence
        if manifest.sealing is not None and done.sealed_as != sequence:
            return self._unsealed(now)
        row = report_row(done, manifest, self._parts.device_id, self._parts.incarnation, sequence)
        displaced = report.displaced_by(row.entry.size)
        self._parts.announce.news(now)
        if displaced is None:
            ledger.answer(done.survey.id)
            ledger.refuse("report too large")
            reason = f"report of {row.entry.size} bytes is larger than the whole outbox"
            return [ledger.save(), Log(level="error", message="survey not answered", fields={"reason": reason})]
        if displaced:
            ledger.refuse("outbox full", len(displaced))
        self._pending = (row, displaced)
        return [ledger.put_report(row, tuple(displaced))]

    def _unsealed(self, now: float) -> list[Command]:
        reason = "what came of the task was not sealed, though the federation wants that"
        self._parts.desk.failed(reason, now)
        return [Log(level="error", message="task failed", fields={"reason": reason})]

    def persisted(self, event: Persisted) -> list[Command]:
        """Take the update into the queue: from here on it cannot get lost."""
        if self._pending is None or self._pending[0].entry.sequence != event.sequence:
            return []
        row, displaced = self._pending
        self._pending = None
        self._parts.ledger.settled()
        self._parts.desk.succeeded()
        for entry in displaced:
            self._parts.report.remove(entry.sequence)
        self._parts.report.add(row.entry)
        told = _ready(row.entry)
        if displaced:
            lost = ",".join(str(entry.sequence) for entry in displaced)
            told.append(Log(level="warning", message="outbox full, dropped the stalest", fields={"sequences": lost}))
        return told

    def persist_failed(self, event: PersistFailed, now: float) -> list[Command]:
        """Go on without: a result that cannot be written is given up, and made again later."""
        self._parts.ledger.failed(event, now)
        if event.sequence is not None:
            self._pending = None
            self._parts.desk.failed(f"cannot write the outbox: {event.reason}", now)
        return [Log(level="error", message="cannot write the outbox", fields={"reason": event.reason})]

    def loaded(self, event: UpdateLoaded, now: float) -> list[Command]:
        """Send the bytes that were read, or give up an update that cannot be read any more."""
        if event.payload is not None:
            return self._parts.report.loaded(event.sequence, event.payload, now)
        entry = self._parts.report.entry(event.sequence)
        if entry is None:
            return []
        why = "unreadable in the outbox"
        if (held := self._held_of(entry)) is not None:
            self._mark(turns.given_back(self._parts.ledger.trained_on(held), held, why), now)
        return self._drop([entry], why)

    def receipt(self, receipt: Receipt, now: float) -> list[Command]:
        """Settle the update that the receipt is for; one for anything else changes nothing."""
        entry = self._parts.report.entry(receipt.sequence)
        if entry is None or receipt.incarnation != self._parts.incarnation or receipt.epoch != entry.epoch:
            return []
        fields: dict[str, object] = {"sequence": receipt.sequence, "status": receipt.status, "version": receipt.version}
        if receipt.reason:
            fields["reason"] = receipt.reason
        told = Log(level="info", message="receipt", fields=fields)
        if receipt.status == "retry":
            self._parts.report.retry(receipt, now)
            return [told]
        self._parts.report.remove(receipt.sequence)
        self._parts.ledger.count(FINAL[entry.kind][receipt.status])
        if receipt.status in ("stale", "rejected"):
            self._parts.ledger.refuse(receipt.reason or receipt.status)
        self._judged(entry, receipt, now)
        if receipt.next_after_s > 0:
            self._parts.desk.rest(now + receipt.next_after_s)
        self._parts.announce.news(now)
        # Taken back, the update would be sent again, and answered with "duplicate": no reason to wait for the disk.
        # One that was refused would be as well, once a later one is accepted, and count as if it had been taken.
        recoverable = receipt.status in ("accepted", "duplicate")
        return [self._parts.ledger.save(deletes=(receipt.sequence,), recoverable=recoverable), told]

    def _judged(self, entry: OutboxEntry, receipt: Receipt, now: float) -> None:
        """Take note of what became of an update of the held version; train again where that may help."""
        held = self._held_of(entry)
        if held is not None:
            self._mark(turns.after(self._parts.ledger.trained_on(held), held, receipt), now)

    def _held_of(self, entry: OutboxEntry) -> Manifest | None:
        """Return the manifest that is held, if this is an update of its version: nothing is made of earlier ones."""
        held = self._parts.desk.held
        if held is None or entry.kind != "updates":
            return None
        return held if (entry.epoch, entry.base_version) == (held.epoch, held.version) else None

    def _mark(self, judged: Trained, now: float) -> None:
        before = self._parts.ledger.state.trained
        if before is None or judged == before:
            return
        self._parts.ledger.change(trained=judged)
        if judged.rejected > before.rejected:
            self._parts.desk.again(judged, now + turns.rest_s(judged.tries, self._parts.rng))

    def started(self, now: float) -> None:
        """Rest before another try, if the process before this one had to."""
        trained = self._parts.ledger.state.trained
        if trained is not None and trained.tries and trained.why:
            self._parts.desk.again(trained, now + turns.rest_s(trained.tries, self._parts.rng))

    @property
    def reason(self) -> str:
        """What is wrong with the updates of the version that is held; empty when nothing is known to be."""
        held = self._parts.desk.held
        return turns.trouble(held, self._parts.ledger.trained_on(held)) if held is not None else ""

    def void_other_epochs(self, epoch: str) -> list[Command]:
        """Give up updates that the aggregator's new history has no base for."""
        gone = [entry for entry in self._parts.report.entries if entry.epoch != epoch]
        return self._drop(gone, "of another epoch") if gone else []

    def forget(self) -> list[Command]:
        """Give up everything that waits; versions whose updates are given up may be trained again."""
        ledger, entries = self._parts.ledger, self._parts.report.entries
        trained = ledger.state.trained
        if trained is not None:
            version = (trained.epoch, trained.version)
            given_up = sum((e.epoch, e.base_version) == version for e in entries if e.kind == "updates")
            count = max(0, trained.count - given_up)
            ledger.change(trained=replace(trained, count=count, rejected=min(trained.rejected, count)))
        ledger.remember(replace(ledger.state.last, rows=None))
        return self._drop(entries, "forgotten by command")

    def _drop(self, entries: list[OutboxEntry], reason: str) -> list[Command]:
        for entry in entries:
            self._parts.report.remove(entry.sequence)
        return self._dropped(entries, reason, tuple(entry.sequence for entry in entries))

    def _dropped(self, entries: list[OutboxEntry], reason: str, deletes: tuple[int, ...]) -> list[Command]:
        ledger = self._parts.ledger
        for entry in entries:
            ledger.count(DROPPED[entry.kind])
        if entries:
            ledger.refuse(reason, len(entries))
        save: Persist = ledger.save(deletes=deletes)
        if not entries:
            return [save]
        fields = {"updates": len(entries), "reason": reason}
        return [save, Log(level="warning", message="updates dropped", fields=fields)]


def _ready(entry: OutboxEntry) -> list[Command]:
    if entry.survey:
        fields: dict[str, object] = {"sequence": entry.sequence, "survey": entry.survey, "bytes": entry.size}
        # A training that was set aside goes on: its checkpoint stays.
        return [Log(level="info", message="report ready", fields=fields)]
    fields = {"sequence": entry.sequence, "base": entry.base_version, "bytes": entry.size}
    return [DropCheckpoint(), Log(level="info", message="update ready", fields=fields)]
