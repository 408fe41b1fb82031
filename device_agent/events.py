"""What can happen to the agent. Together with ``protocol.link.LinkEvent`` these are all inputs of the core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct, field

from protocol.link import LinkEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from device_agent.drift import DriftSeen
    from device_agent.policy import Readings
    from protocol.surveys import Survey

Fault: TypeAlias = Literal["data", "model", "cache", "backbone", "candidate", "internal"]
"""Where a failure lies: local samples, what the manifest says, a file (model, backbone, candidate), or elsewhere."""


class Started(Struct, frozen=True, kw_only=True):
    """The process is ready; always the first event."""


class Tick(Struct, frozen=True, kw_only=True):
    """A deadline that the core asked for has come (early ticks do no harm)."""


class StopRequested(Struct, frozen=True, kw_only=True):
    """The process should end: SIGTERM or SIGINT."""

    reason: str = "asked to stop"


class Persisted(Struct, frozen=True, kw_only=True):
    """Answer to a ``Persist`` with a row: it is on disk. Must be the next event after that command."""

    sequence: int


class PersistFailed(Struct, frozen=True, kw_only=True):
    """Answer to any ``Persist`` whose transaction failed; nothing of it was written. Must be the next event."""

    reason: str
    sequence: int | None = None
    """Of the row that was to be put, if any."""
    deletes: tuple[int, ...] = ()


class UpdateLoaded(Struct, frozen=True, kw_only=True):
    """Answer to ``LoadUpdate``; ``payload`` is None when the row cannot be read."""

    sequence: int
    payload: bytes | None


class ModelCached(Struct, frozen=True, kw_only=True):
    """Answer to ``CacheModel`` and ``PatchModel``: complete, and what the next restart will find.

    After a power cut that may be the model before, just as whole: file systems may take the renaming back.
    """

    epoch: str
    version: int


class CacheFailed(Struct, frozen=True, kw_only=True):
    """Answer to ``CacheModel`` and ``PatchModel``: not written; the model cached before is untouched."""

    reason: str


class PatchFailed(Struct, frozen=True, kw_only=True):
    """Answer to ``PatchModel``: what is cached and the step do not make the model; the cache is untouched."""

    reason: str


class BackboneFound(Struct, frozen=True, kw_only=True):
    """Answer to ``SeekBackbone`` and ``KeepChunk``: what is on the disk."""

    digest: str
    chunks: int = 0
    """From the first one, without a gap."""
    complete: bool = False
    """All of it, and its digest was right when it became so."""
    reason: str = ""
    """Why it is not, other than that chunks have yet to come."""
    spoiled: bool = False
    """What had come was wrong, and is gone: begin again."""


class CandidateCached(Struct, frozen=True, kw_only=True):
    """Answer to ``CacheCandidate``: it is there, and the next start will find it."""

    parameters: str


class CandidateFailed(Struct, frozen=True, kw_only=True):
    """Answer to ``CacheCandidate``: not written."""

    reason: str


class CandidateLost(Struct, frozen=True, kw_only=True):
    """Answer to ``TakeCandidate``: there is nothing to take; the cached model is untouched."""

    reason: str


class TrainingDone(Struct, frozen=True, kw_only=True):
    """A training ran to its end. Answers to ``Train`` and ``Evaluate`` may come at any later time."""

    task: int
    num_examples: int
    """Its weight: the examples, or when its deadline cut it short a part of them."""
    num_steps: int
    delta: bytes
    """Encoded with the codec of the task's manifest; empty when the update is sealed."""
    duration_s: float
    share_done: float = 1.0
    """Of the plan's steps; below 1 when its deadline cut it short."""
    train_loss: float | None = None
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    others: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same metrics of other parameters: ``global``, the version as it came; ``personal``, with those of this device
    in it; ``local``, of a model of nothing but its own data. Empty where nothing is personal."""
    layout: str = ""
    """Digest of the layout of ``delta``."""
    sealed: bytes = b""
    """The whole update as it is sent, when the manifest wants it sealed."""
    sealed_as: int = 0
    """The sequence under which it was sealed."""


class EvaluationDone(Struct, frozen=True, kw_only=True):
    """The held model was measured on the holdout."""

    task: int
    metrics: dict[str, float]


class SurveyAnswered(Struct, frozen=True, kw_only=True):
    """What a survey asks is known."""

    task: int
    survey: Survey
    content: bytes
    """Of the report; empty when it is sealed."""
    sealed: bytes = b""
    """The whole report as it is sent, when the manifest wants it sealed."""
    sealed_as: int = 0
    """The sequence under which it was sealed."""


class TaskStopped(Struct, frozen=True, kw_only=True):
    """A task ended without result because ``StopTask`` asked for it, or a training because its deadline did."""

    task: int
    kept_share: float | None = None
    """How much of the training is on disk, to be gone on with: 0 to 1 of its steps; None: nothing."""
    rest_s: float = 0.0
    """Its deadline passed, and it wants to go on after this rest; 0: it was asked to stop."""


class TrainingResumed(Struct, frozen=True, kw_only=True):
    """A training goes on where it was interrupted."""

    task: int
    num_steps: int
    """Done before."""
    planned: int


class TrainingNoted(Struct, frozen=True, kw_only=True):
    """Something about a training that its operator may want to know."""

    task: int
    message: str
    reason: str


class DriftTold(Struct, frozen=True, kw_only=True):
    """What the new samples say of the model, before a training."""

    seen: DriftSeen


class TaskFailed(Struct, frozen=True, kw_only=True):
    """A task could not be done."""

    task: int
    reason: str
    fault: Fault


class DataChanged(Struct, frozen=True, kw_only=True):
    """Answer to ``CheckData`` when the file of samples is another one now."""


class ReadingsTaken(Struct, frozen=True, kw_only=True):
    """Answer to ``TakeReadings``: always, even when the board has no sensor at all."""

    readings: Readings


class SensorsTold(Struct, frozen=True, kw_only=True):
    """What is wrong with the sources, or with the sample store, is another matter now."""

    faults: Mapping[str, str]
    """By the source's name; empty: nothing is wrong."""


Event: TypeAlias = (
    LinkEvent
    | Started
    | Tick
    | StopRequested
    | Persisted
    | PersistFailed
    | UpdateLoaded
    | ModelCached
    | CacheFailed
    | PatchFailed
    | BackboneFound
    | CandidateCached
    | CandidateFailed
    | CandidateLost
    | TrainingDone
    | EvaluationDone
    | SurveyAnswered
    | TaskStopped
    | TrainingResumed
    | TrainingNoted
    | DriftTold
    | TaskFailed
    | DataChanged
    | ReadingsTaken
    | SensorsTold
)
