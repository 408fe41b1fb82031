"""What the core tells its shell to do, in this order. Commands with an answer name the event that brings it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct, field

from device_agent.drift import DriftSeen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from device_agent.records import DurableState, OutboxRow
    from protocol.messages import BlobRef, DeltaRef, Manifest
    from protocol.status import DeviceMetrics
    from protocol.surveys import Survey


class Connect(Struct, frozen=True, kw_only=True):
    """Start the link; it keeps trying by itself. Answers: link events."""


class Disconnect(Struct, frozen=True, kw_only=True):
    """Send what is queued, say goodbye (so that the will stays unsaid) and stop the link."""


class Subscribe(Struct, frozen=True, kw_only=True):
    """Subscribe; retained messages come again even when already subscribed."""

    topics: tuple[str, ...]


class Unsubscribe(Struct, frozen=True, kw_only=True):
    """Take back subscriptions."""

    topics: tuple[str, ...]


class Publish(Struct, frozen=True, kw_only=True):
    """Publish once. With a token the answer is ``Published``; if the link refuses, ``Published`` with an error."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    token: str = ""


class PublishMetrics(Struct, frozen=True, kw_only=True):
    """Fill in what only the process knows (``rss_bytes``), encode, and publish with QoS 0."""

    topic: str
    metrics: DeviceMetrics


class Persist(Struct, frozen=True, kw_only=True):
    """Write all of this in one durable transaction.

    Answers: with ``put`` always ``Persisted`` or ``PersistFailed``; without, nothing or ``PersistFailed``.
    """

    state: DurableState
    put: OutboxRow | None = None
    deletes: tuple[int, ...] = ()
    """Sequences of rows to delete."""
    recoverable: bool = False
    """A power cut (not a kill) may take it back, though never out of order: it would be learnt once more."""


class LoadUpdate(Struct, frozen=True, kw_only=True):
    """Read the bytes of a stored update. Answer: ``UpdateLoaded``."""

    sequence: int


class CacheModel(Struct, frozen=True, kw_only=True):
    """Replace the cached model atomically. Answer: ``ModelCached`` or ``CacheFailed``."""

    manifest: Manifest
    data: bytes
    """The blob that ``manifest.blob`` names; its digest has been checked."""


class KeepAnnouncement(Struct, frozen=True, kw_only=True):
    """Replace the manifest beside the cached model by a later one of the same version."""

    manifest: Manifest


class PatchModel(Struct, frozen=True, kw_only=True):
    """Add a step to the cached model, and replace it atomically by the sum.

    Needs NumPy, so it comes only after a task has ended. Answer: ``ModelCached``; ``PatchFailed`` when step and cached
    model do not make ``manifest.parameters``; ``CacheFailed`` when the sum could not be written.
    """

    manifest: Manifest
    """Of the model to be made; its blob is the float32 vector itself."""
    delta: DeltaRef
    """What ``data`` is, and which version it is to be added to."""
    data: bytes
    """The blob that ``delta.blob`` names; its digest has been checked."""


class CacheCandidate(Struct, frozen=True, kw_only=True):
    """Keep a candidate beside the model. Answer: ``CandidateCached`` or ``CandidateFailed``."""

    manifest: Manifest
    """Of the candidate, as ``trying.candidate_of`` makes it."""
    data: bytes
    """The blob that ``manifest.blob`` names; its digest has been checked."""


class DropCandidate(Struct, frozen=True, kw_only=True):
    """Delete the candidate."""


class TakeCandidate(Struct, frozen=True, kw_only=True):
    """Replace the cached model atomically by the candidate that lies beside it: it was published.

    Answer: ``ModelCached``, or ``CandidateLost`` when it is not there any more, or could not be written.
    """

    manifest: Manifest
    """Of the version that it is now."""


class DropModel(Struct, frozen=True, kw_only=True):
    """Delete the cached model."""


class SeekBackbone(Struct, frozen=True, kw_only=True):
    """Look what is on the disk of this backbone, and remove all others. Answer, at once: ``BackboneFound``."""

    blob: BlobRef


class KeepChunk(Struct, frozen=True, kw_only=True):
    """Append a chunk to the backbone's file; the last one makes it whole. Answer, at once: ``BackboneFound``."""

    blob: BlobRef
    index: int
    data: bytes


class DropBackbone(Struct, frozen=True, kw_only=True):
    """Delete whatever is on the disk of any backbone."""


class Train(Struct, frozen=True, kw_only=True):
    """Train the cached model. Answer, later: ``TrainingDone``, ``TaskStopped`` or ``TaskFailed``.

    The shell opens the cached file while it carries this command out, so that a later ``CacheModel`` does not change
    what is trained. At most one task (training or evaluation) is under way at a time.
    """

    task: int
    manifest: Manifest
    contribution: int
    """0 for the first training on this version, 1 for the second, ...: part of the seed."""
    incarnation: str
    sequence: int
    """What the update will be called: it is sealed under that name."""
    drift: DriftSeen = DriftSeen()
    """What is known of it: only something else is told."""


class Evaluate(Struct, frozen=True, kw_only=True):
    """Measure the cached model on the holdout. Answer, later: ``EvaluationDone``, ``TaskStopped``, ``TaskFailed``."""

    task: int
    manifest: Manifest


class Answer(Struct, frozen=True, kw_only=True):
    """Answer a survey with the samples, and the cached model. Answer, later: ``SurveyAnswered``, ``TaskFailed``."""

    task: int
    manifest: Manifest
    survey: Survey
    incarnation: str
    sequence: int
    """What the report will be called: it is sealed under that name."""
    candidate: Manifest | None = None
    """What to compare the cached model with; the shell opens its file, too."""


class StopTask(Struct, frozen=True, kw_only=True):
    """Stop the task under way at the next step boundary; its answer still comes."""

    keep: bool = False
    """A training is to go on there later."""


class DropCheckpoint(Struct, frozen=True, kw_only=True):
    """Forget what is kept of an interrupted training, if anything is."""


class DropPersonal(Struct, frozen=True, kw_only=True):
    """Forget the private parameters and whatever else is this device's alone."""


class CheckData(Struct, frozen=True, kw_only=True):
    """Look whether the file of samples changed. Answer: ``DataChanged``, or nothing."""


class TakeReadings(Struct, frozen=True, kw_only=True):
    """Read the board's sensors. Answer, at once: ``ReadingsTaken``."""


class Log(Struct, frozen=True, kw_only=True):
    """Tell the operator."""

    level: Literal["debug", "info", "warning", "error"]
    message: str
    fields: Mapping[str, object] = field(default_factory=dict)


class Exit(Struct, frozen=True, kw_only=True):
    """End the process; the core wants no more events."""

    code: int = 0


Command: TypeAlias = (
    Connect
    | Disconnect
    | Subscribe
    | Unsubscribe
    | Publish
    | PublishMetrics
    | Persist
    | LoadUpdate
    | CacheModel
    | KeepAnnouncement
    | PatchModel
    | DropModel
    | SeekBackbone
    | KeepChunk
    | DropBackbone
    | CacheCandidate
    | DropCandidate
    | TakeCandidate
    | Train
    | Evaluate
    | Answer
    | StopTask
    | DropCheckpoint
    | DropPersonal
    | CheckData
    | TakeReadings
    | Log
    | Exit
)
