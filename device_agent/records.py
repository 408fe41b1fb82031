"""What the agent keeps across restarts: plain values, stored by ``adapters.store`` in one transaction at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from device_agent.drift import DriftSeen

if TYPE_CHECKING:
    from protocol.messages import Manifest

EntryKind: TypeAlias = Literal["updates", "reports"]


class LastTraining(Struct, frozen=True, kw_only=True):
    """Figures of the most recent training or evaluation, for metrics and ``status``."""

    num_examples: int = 0
    training_s: float = 0.0
    update_bytes: int = 0
    train_loss: float | None = None
    before: dict[str, float] = {}
    """Metrics on the holdout before the training, by name."""
    after: dict[str, float] = {}
    others: dict[str, dict[str, float]] = {}
    """The same of other parameters: ``global``, ``personal`` and ``local``."""
    rows: int | None = None
    """Rows that the file of samples had then, if they were counted."""


class Counters(Struct, frozen=True, kw_only=True):
    """Counts over the life of the outbox. ``created = accepted + duplicate + stale + rejected + dropped + waiting``."""

    trainings: int = 0
    trainings_interrupted: int = 0
    """Set aside before their end, for whatever reason; they go on later."""
    trainings_resumed: int = 0
    updates_created: int = 0
    updates_accepted: int = 0
    updates_duplicate: int = 0
    updates_stale: int = 0
    updates_rejected: int = 0
    updates_dropped: int = 0
    reports_created: int = 0
    """Answers to surveys; their sums are as those of updates."""
    reports_accepted: int = 0
    reports_duplicate: int = 0
    reports_stale: int = 0
    reports_rejected: int = 0
    reports_dropped: int = 0
    models_received: int = 0
    """Fetched and kept, in whichever way. On the disk with the next transaction, mostly that of the update."""
    models_from_delta: int = 0
    """Of these, made of the one before and a small step."""
    refusals: dict[str, int] = {}
    """Refused, dropped and malformed things by reason."""


class Trained(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The newest version that an update was made for, and how many."""

    epoch: str
    version: int
    count: int
    rejected: int = 0
    """Of these, so many came to nothing in a way that another training may not (see ``turns``)."""
    tries: int = 0
    """So many of the rejected in a row, under the announcement ``issued``."""
    issued: int = 0
    why: str = ""
    """Why the last one was rejected, whatever the reason; empty when it was not."""


class Trusted(Struct, frozen=True, kw_only=True):
    """What a device with pinned keys believes. Stored before anything that was believed is followed."""

    pins: list[bytes]
    """Raw public keys of the file, as it was at the last start."""
    keys: list[bytes]
    """Raw public keys that are trusted now: the file's, or those that the last manifest announced."""
    mark: tuple[int, int, int] = (0, 0, 0)
    """Generation, version and issued of the last manifest: nothing below is believed."""
    seen: str = ""
    """SHA-256 of that manifest's envelope: the same again need not be verified again."""
    obeyed: int = 0
    """Issued of the last command."""
    signers: list[bytes] = []
    """Which of the keys trusted then had signed that manifest; empty when an older build wrote this."""

    @property
    def newest_number(self) -> int:
        """A command has to be above this."""
        return max(self.obeyed, self.mark[2])


class DurableState(Struct, frozen=True, kw_only=True):
    """Everything durable but the outbox's rows. Written whole, in the transaction of the rows it belongs to."""

    next_sequence: int = 1
    trained: Trained | None = None
    paused: bool = False
    requests: list[str] = []
    """Ids of the commands handled last, so that none is obeyed twice."""
    counters: Counters = Counters()
    last: LastTraining = LastTraining()
    trust: Trusted | None = None
    """None without pinned keys."""
    drift: DriftSeen = DriftSeen()
    """What new samples said of the model when they were looked at last."""
    answered: list[str] = []
    """Ids of the surveys answered last: each is answered once."""
    trouble: str = ""
    """What was wrong with the last training; empty when nothing was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """An update or a report that waits for its receipt, without its bytes."""

    sequence: int
    epoch: str
    base_version: int
    size: int
    """Bytes of the encoded message."""
    survey: str = ""
    """Of a report: what it answers; empty: it is an update."""

    @property
    def kind(self) -> EntryKind:
        """What it is, as counters are called."""
        return "reports" if self.survey else "updates"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """An update as it is stored, and sent every time: the bytes never change."""

    entry: OutboxEntry
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredState:
    """What a starting agent found on its disk."""

    incarnation: str
    """Names this outbox: 16 hexadecimal digits, made with it."""
    durable: DurableState = field(default_factory=DurableState)
    outbox: tuple[OutboxEntry, ...] = ()
    """In ascending sequence."""
    model: Manifest | None = None
    """Manifest of the verified model in the cache."""
    candidate: Manifest | None = None
    """Of the verified candidate beside it."""
