"""What the core asks of its shell. Store commands of a batch are one transaction, and it comes before all the rest.

What is made for each update is a ``Struct``: a frozen dataclass takes four to ten times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from msgspec import Struct

from aggregator.events import Level
from aggregator.records import (
    Aggregation,
    Answer,
    CandidateRecord,
    Counters,
    DeviceRecord,
    Findings,
    JournalEntry,
    Outcome,
    ServerState,
    Shelf,
    VersionRecord,
)
from models import Metrics
from models.comparison import Comparison
from models.statistics import FeatureStatistics
from protocol.link import Received
from protocol.surveys import Survey

Total: TypeAlias = FeatureStatistics | Metrics | Comparison
"""What the answers to a survey add up to."""


class Journal(Struct, frozen=True):
    """Keep an accepted update and its sequence number."""

    entry: JournalEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveAggregation:
    """Keep the end of the buffer, and empty the journal; with a version, make it the current one.

    A candidate is kept beside the current version, in the place of none.
    """

    aggregation: Aggregation
    version: VersionRecord | None = None
    server: ServerState | None = None
    candidate: CandidateRecord | None = None
    shelf: tuple[Shelf, ...] = ()
    withdrawn: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveVerdict:
    """Keep what became of the candidate, which is none from now on: the current version, or withdrawn."""

    outcome: Outcome
    reason: str
    metrics: Mapping[str, float]
    """What the verdict stands on."""
    version: VersionRecord | None = None
    server: ServerState | None = None
    shelf: tuple[Shelf, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveFleet:
    """Keep what changed about devices, and the counters."""

    devices: tuple[DeviceRecord, ...]
    counters: Counters


@dataclass(frozen=True, slots=True)
class SaveIssued:
    """Keep the number of a command that goes out: no later one may have it, or a lower one."""

    issued: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveSurvey:
    """Keep a survey that was opened, or (``closed`` at this time) is not asked any more."""

    survey: Survey
    opened: float
    closed: float | None
    total: Total


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveAnswer:
    """Keep an accepted report: who answered, its sequence number, and what all answers add up to with it."""

    answer: Answer
    total: Total


@dataclass(frozen=True, slots=True)
class SaveFindings:
    """Keep what surveys found about the fleet's data."""

    findings: Findings


StoreCommand: TypeAlias = (
    SaveSurvey | SaveAnswer | SaveFindings | SaveVerdict | Journal | SaveAggregation | SaveFleet | SaveIssued
)


class Acknowledge(Struct, frozen=True):
    """Tell the broker that a message is safe (PUBACK)."""

    received: Received


class Publish(Struct, frozen=True, kw_only=True):
    """Send a message; with a token, the link answers with ``Published``."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    token: str = ""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Ask for topics."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Answer an operator."""

    request_id: str
    body: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """Tell the log; the shell limits repetition."""

    level: Level
    text: str
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """End the process, after what was said before is done."""

    code: int
    reason: str


Command: TypeAlias = StoreCommand | Acknowledge | Publish | Subscribe | Reply | Log | Exit
