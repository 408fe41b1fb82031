"""What the store keeps, as frozen values: the journal, versions with their lineage, devices, and all of it restored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from aggregator.buffer import Contribution
from protocol.messages import BlobRef, DeltaRef
from protocol.surveys import Survey
from protocol.thresholds import Threshold

MAX_INCARNATIONS = 16
"""Of one device: it makes a new one when its disk is lost. More than a few are a fault, and must not fill ours."""

VersionKind: TypeAlias = Literal["initial", "statistics", "aggregate", "rollback"]
Outcome: TypeAlias = Literal["published", "withheld", "set-aside", "candidate", "withdrawn"]


class JournalEntry(Struct, frozen=True, kw_only=True):
    """An accepted update with its encoded delta: enough to fold it again after a restart, bit for bit."""

    contribution: Contribution
    codec: str
    delta: bytes
    norm: float = 0.0
    """Of the decoded delta, before clipping; not stored with the entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """One version of the model, as published."""

    version: int
    kind: VersionKind
    created: float
    """Seconds since 1970 by the aggregator's clock; to look at, never to decide by."""
    parameters: bytes
    """Float32 little-endian: what every device gets, however it is encoded on the way."""
    digest: str
    """SHA-256 of ``parameters``."""
    blob: BlobRef
    blob_bytes: bytes
    delta: DeltaRef | None = None
    delta_bytes: bytes = b""
    metrics: dict[str, float] = field(default_factory=dict)
    num_updates: int = 0
    total_weight: float = 0.0
    step_norm: float = 0.0
    rolled_back_to: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What the next step starts from."""

    master: NDArray[np.float32]
    """The parameters before the downlink's encoding; rounding never accumulates in them."""
    optimizer: str
    vectors: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregation:
    """The end of one buffer: a version, withheld by the gate, set aside by a rollback, or a candidate for a while."""

    outcome: Outcome
    base_version: int
    version: int | None
    reason: str
    created: float
    lineage: tuple[Contribution, ...]
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord:
    """What may become the next version, with the server state that it would lead to."""

    survey: str
    """Which asks devices to compare it with the current version."""
    version: VersionRecord
    """As it would be published."""
    server: ServerState


WITHDRAWN = -1
"""Stands for a shelf's version when what lies there was withdrawn: nobody needs it."""


class Shelf(Struct, frozen=True, kw_only=True):
    """A blob that lies on the broker: which, and for which version."""

    version: int
    digest: str
    chunk_count: int


class Answer(Struct, frozen=True, kw_only=True):
    """A device's answer to a survey, as far as it is kept by itself: that there is one, and an evaluation's figures."""

    survey: str
    device_id: str
    incarnation: str
    sequence: int
    version: int
    """Held when it answered."""
    examples: int
    figures: dict[str, float] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyRecord:
    """An open survey, restored."""

    survey: Survey
    opened: float
    """Seconds since 1970 by the aggregator's clock; to look at."""
    total: Any
    """The sum of the answers, as data (see ``models.answering``)."""
    answered: tuple[str, ...]
    """Devices."""
    with_examples: int
    """So many of them had examples."""
    compared: tuple[tuple[int, dict[str, float]], ...] = ()
    """Of a comparison: each answer's examples and figures, for they are merged by device, not added up."""


class Findings(Struct, frozen=True, kw_only=True):
    """What surveys found about the fleet's data, and devices are told with every version."""

    class_counts: tuple[int, ...] = ()
    """Examples of each class; empty: nobody was asked, or nothing is classified."""
    threshold: Threshold | None = None
    """For anomalies; None: it was not measured yet, or not since the last rollback."""
    threshold_asked: int | None = None
    """The version at which the survey for the next one was opened; None: none is."""
    thresholds_asked: int = 0
    """How many such surveys there were."""


class DeviceRecord(Struct, kw_only=True):
    """What is known of one device; survives restarts and needs nothing retained on the broker."""

    device_id: str
    first_seen: float = 0.0
    last_seen: float = 0.0
    """Seconds since 1970 by the aggregator's clock."""
    state: str = ""
    version: int | None = None
    accepted: int = 0
    duplicate: int = 0
    stale: int = 0
    rejected: int = 0
    retry: int = 0
    refusals: dict[str, int] = {}
    bytes_received: int = 0
    update_bytes: int = 0
    training_s: float | None = None
    holdout_accuracy: float | None = None
    last_staleness: int | None = None
    last_norm: float | None = None
    """Euclidean norm of its last accepted delta, before clipping."""
    rejected_in_row: int = 0
    """Updates refused since the last one that was accepted."""
    drifting: bool = False
    """It says that its model does worse on new samples than on earlier ones."""
    quarantined: str = ""
    """Why nothing of it is looked at; empty when it is not in quarantine."""


class Counters(Struct, kw_only=True):
    """Sums over the life of the federation. Always: ``accepted == folded + set_aside``."""

    received: int = 0
    accepted: int = 0
    folded: int = 0
    set_aside: int = 0
    clipped: int = 0
    duplicate: int = 0
    stale: int = 0
    rejected: int = 0
    retry: int = 0
    versions_published: int = 0
    versions_withheld: int = 0
    versions_withdrawn: int = 0
    """Candidates that did not become versions."""
    bytes_received: int = 0
    update_bytes: int = 0
    refusals: dict[str, int] = {}
    staleness: dict[str, int] = {}
    reports_accepted: int = 0
    reports_refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """All that a core starts from; a restart and a first start differ in nothing else."""

    epoch: str
    store_id: str
    """Identity of the store: the name of our session at the broker."""
    version: VersionRecord
    server: ServerState
    instances: tuple[str, ...] = ()
    """Processes that worked on this store, the newest last."""
    generation: int = 0
    """When the epoch began (see ``aggregator.numbering``)."""
    issued: int = 0
    """The last number given to an announcement or a command."""
    journal: tuple[JournalEntry, ...] = ()
    sequences: dict[tuple[str, str], int] = field(default_factory=dict)
    """Last accepted sequence by device and incarnation."""
    devices: tuple[DeviceRecord, ...] = ()
    counters: Counters = field(default_factory=Counters)
    withdrawn: tuple[tuple[int, int], ...] = ()
    """Ranges of versions (first, last) that rollbacks took back: no update may build on them."""
    shelf: tuple[Shelf, ...] = ()
    candidate: CandidateRecord | None = None
    attempts: int = 0
    """So many buffers were withheld, or withdrawn as candidates, since the current version was made."""
    surveys: tuple[SurveyRecord, ...] = ()
    """Those that are open, the oldest first."""
    findings: Findings = field(default_factory=Findings)
