"""The durable part of the agent's state, and the transactions that keep disk and memory the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec.structs import replace

from device_agent.commands import Persist
from device_agent.diverging import verdict
from device_agent.records import (
    Counters,
    DurableState,
    LastTraining,
    OutboxEntry,
    OutboxRow,
    Trained,
    Trusted,
)

if TYPE_CHECKING:
    from device_agent.drift import DriftSeen
    from device_agent.events import PersistFailed
    from protocol.messages import Manifest

MAX_REASONS = 16
"""Reasons come from outside too; further ones are counted as "other", so that nobody can make the table grow."""

MAX_REQUESTS = 32
"""A command that is repeated later than this many others is obeyed again."""

MAX_ANSWERED = 64
"""Few surveys are open at a time, and a closed one is never opened again."""

RETRY_S = 30.0
"""When a transaction failed (disk full), the next attempt comes this much later, or with the next write."""

CounterName: TypeAlias = Literal[
    "trainings",
    "trainings_interrupted",
    "trainings_resumed",
    "updates_created",
    "updates_accepted",
    "updates_duplicate",
    "updates_stale",
    "updates_rejected",
    "updates_dropped",
    "reports_created",
    "reports_accepted",
    "reports_duplicate",
    "reports_stale",
    "reports_rejected",
    "reports_dropped",
    "models_received",
    "models_from_delta",
]


class Ledger:
    """Holds ``DurableState`` in memory; every ``Persist`` comes from here."""

    def __init__(self, state: DurableState) -> None:
        self.state = state
        self.deadline: float | None = None
        self._unwritten: tuple[int, ...] = ()
        self._proposed: DurableState | None = None

    def count(self, name: CounterName, by: int = 1) -> None:
        """Add to a counter; it becomes durable with the next transaction."""
        self._set_counters(_plus(self.state.counters, name, by))

    def refuse(self, reason: str, by: int = 1, *, reserved: bool = False) -> None:
        """Count something refused, dropped or malformed under its reason; a ``reserved`` one always has its place."""
        refusals = self.state.counters.refusals
        key = reason[:64] if reserved or reason[:64] in refusals or len(refusals) < MAX_REASONS else "other"
        self._set_counters(replace(self.state.counters, refusals={**refusals, key: refusals.get(key, 0) + by}))

    def trained_on(self, manifest: Manifest) -> Trained:
        """Return what has been made for the manifest's version."""
        trained = self.state.trained
        if trained is None or (trained.epoch, trained.version) != (manifest.epoch, manifest.version):
            return Trained(epoch=manifest.epoch, version=manifest.version, count=0)
        return trained

    def permits(self, held: Manifest | None) -> bool:
        """Return whether this model may be trained, once or more.

        Not while paused, and not when a newer version was trained already: a power cut took the model back, but not
        the update that was made from it.
        """
        trained = self.state.trained
        if self.state.paused or held is None:
            return False
        return trained is None or held.epoch != trained.epoch or held.version >= trained.version

    def put(self, row: OutboxRow, drops: tuple[OutboxEntry, ...], manifest: Manifest, last: LastTraining) -> Persist:
        """Return the one transaction that makes an update exist: row, sequence, marker, and the rows it displaces.

        ``settled`` or ``failed`` must be called before anything else is written.
        """
        trained = self.marker_after(manifest)
        trouble = verdict(last.before, last.after)
        return self._put(row, drops, replace(self.state, trained=trained, last=last, trouble=trouble))

    def put_report(self, row: OutboxRow, drops: tuple[OutboxEntry, ...]) -> Persist:
        """Return the one transaction that makes a report exist, and marks its survey as answered; as ``put``."""
        return self._put(row, drops, replace(self.state, answered=self._answered_with(row.entry.survey)))

    def answer(self, survey: str) -> None:
        """Mark a survey as answered without a report; it becomes durable with the next transaction."""
        self.state = replace(self.state, answered=self._answered_with(survey))

    def _answered_with(self, survey: str) -> list[str]:
        return [*self.state.answered, survey][-MAX_ANSWERED:]

    def _put(self, row: OutboxRow, drops: tuple[OutboxEntry, ...], state: DurableState) -> Persist:
        counters = _plus(state.counters, f"{row.entry.kind}_created")
        for entry in drops:
            counters = _plus(counters, f"{entry.kind}_dropped")
        self._proposed = replace(state, next_sequence=row.entry.sequence + 1, counters=counters)
        deletes = tuple(entry.sequence for entry in drops)
        return Persist(state=self._proposed, put=row, deletes=self._with_unwritten(deletes))

    def marker_after(self, manifest: Manifest) -> Trained:
        """Return the marker that says: one more update of this version was made."""
        trained = self.trained_on(manifest)
        return replace(trained, count=trained.count + 1)

    def settled(self) -> None:
        """Take over what ``put`` proposed: it is on disk."""
        if self._proposed is not None:
            self.state = self._proposed
        self._proposed = None
        self._unwritten = ()
        self.deadline = None

    def save(self, *, deletes: tuple[int, ...] = (), recoverable: bool = False) -> Persist:
        """Return the transaction that writes the present state and deletes these rows; see ``Persist.recoverable``."""
        # What failed before is in the state too, and may be a command that nobody repeats.
        recoverable = recoverable and self.deadline is None
        written = self._with_unwritten(deletes)
        self._unwritten = ()
        self.deadline = None
        return Persist(state=self.state, deletes=written, recoverable=recoverable)

    def failed(self, event: PersistFailed, now: float) -> None:
        """Remember what could not be written; rows that a failed ``put`` would have displaced stay."""
        self._proposed = None
        if event.sequence is None:
            self._unwritten = self._with_unwritten(event.deletes)
        self.deadline = now + RETRY_S

    def due(self, now: float) -> list[Persist]:
        """Return the repeated transaction when its time has come."""
        return [self.save()] if self.deadline is not None and now >= self.deadline else []

    def first_time(self, request_id: str) -> bool:
        """Return whether this command is new, and remember it."""
        if request_id in self.state.requests:
            return False
        self.state = replace(self.state, requests=[*self.state.requests, request_id][-MAX_REQUESTS:])
        return True

    def change(self, *, paused: bool | None = None, trained: Trained | None = None) -> None:
        """Change what is given; it becomes durable with the next transaction."""
        if paused is not None:
            self.state = replace(self.state, paused=paused)
        if trained is not None:
            self.state = replace(self.state, trained=trained)

    def trust(self, trusted: Trusted | None) -> None:
        """Believe this from now on; it becomes durable with the next transaction."""
        self.state = replace(self.state, trust=trusted)

    def trouble(self, text: str) -> list[Persist]:
        """Keep what is wrong, for who asks later; it is written when it is another matter than before."""
        if text == self.state.trouble:
            return []
        self.state = replace(self.state, trouble=text)
        return [self.save(recoverable=True)]

    def drift(self, seen: DriftSeen) -> None:
        """Keep what new samples say of the model; it becomes durable with the next transaction."""
        self.state = replace(self.state, drift=seen)

    def remember(self, last: LastTraining) -> None:
        """Keep the figures of a training or evaluation."""
        self.state = replace(self.state, last=last)

    def _with_unwritten(self, deletes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys((*self._unwritten, *deletes)))

    def _set_counters(self, counters: Counters) -> None:
        self.state = replace(self.state, counters=counters)


def _plus(counters: Counters, name: str, by: int = 1) -> Counters:
    return replace(counters, **{name: getattr(counters, name) + by})
