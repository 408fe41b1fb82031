"""State and metrics, as people watch them: JSON with stable names and units (see docs/protocol.md).

Every field has a default, and unknown fields are ignored when read: a monitor and a fleet of different ages understand
each other. Units are part of the names: ``_s`` seconds, ``_bytes`` bytes; accuracies are 0 to 1.
Numbers are bounded where they are read: JSON's are not, and what nothing could store must not get that far.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from protocol.errors import ProtocolError
from protocol.fields import Counts, Figure, Reason, Seconds, Share

MAX_STATUS_BYTES = 16 * 1024

DIVERGES = "training diverges: "
"""Begins the reason of a device whose trainings lead nowhere, for programs to tell it from one that is merely idle."""

WorkName: TypeAlias = Literal["idle", "fetching", "training", "reporting", "sleeping", "stopped", "lost"]


class AggregatorState(Struct, frozen=True, kw_only=True):
    """Retained on ``aggregator/state``; the will says ``offline``."""

    federation: str
    epoch: str
    instance: str
    """Random for each start of the process."""
    store: str = ""
    """Identity of the store it works on: tells two aggregators apart, and one from its own past."""
    status: Literal["online", "offline"]
    version: Figure | None = None
    connection: Figure = 0
    """Grows with every connection of the instance: who reads it twice can tell the living from the dead."""


class AggregatorClaim(Struct, frozen=True, kw_only=True):
    """An aggregator that starts asks on ``aggregator/claim`` whether another one is there."""

    instance: str
    store: str = ""


class AggregatorMetrics(Struct, frozen=True, kw_only=True):
    """On ``aggregator/metrics``. Counts are over the life of the federation and survive restarts."""

    federation: str = ""
    version: Figure = 0
    versions_published: Figure = 0
    versions_withheld: Figure = 0
    versions_withdrawn: Figure = 0
    """Tried by a part of the fleet, and found worse."""
    candidate: Figure | None = None
    """Number of the version that is being tried, if one is."""
    devices_known: Figure = 0
    devices_online: Figure = 0
    devices_drifting: Figure = 0
    """Their model does worse on new samples than on earlier ones."""
    devices_quarantined: Figure = 0
    """Nothing of them is looked at until an operator releases them."""
    updates_received: Figure = 0
    updates_accepted: Figure = 0
    updates_folded: Figure = 0
    """Accepted updates that are in a version, in one that was withheld, or in the open buffer."""
    updates_buffered: Figure = 0
    updates_set_aside: Figure = 0
    """Accepted, then taken out of the open buffer by a rollback."""
    updates_clipped: Figure = 0
    """Accepted, and shortened because they were far longer than those of most devices."""
    updates_duplicate: Figure = 0
    updates_stale: Figure = 0
    updates_rejected: Figure = 0
    updates_retry: Figure = 0
    reports_accepted: Figure = 0
    """Answers to surveys that were taken in."""
    reports_refused: Figure = 0
    """Answers that were not: duplicate, stale or rejected."""
    surveys_open: Figure = 0
    refusals: Counts = {}
    """Refused messages by reason, of all kinds."""
    staleness: Counts = {}
    """Accepted updates by staleness in versions: keys "0" to "15", and "16+"."""
    updates_per_s: float = 0.0
    bytes_received: Figure = 0
    update_bytes_received: Figure = 0
    """Payload bytes of the accepted updates."""
    accuracy: Share | None = None
    """Of the current version on the evaluation data, where there are any and the task is a classification."""
    loss: float | None = None
    buffer_goal: Figure | None = None
    identity_conflicts: Figure = 0
    """Turns that two agents with one identity took, as their boot ids show; since the aggregator started."""
    messages_dropped: Figure = 0
    """Dropped by the aggregator itself because its inbox was full."""
    broker_messages_dropped: Figure | None = None
    """The broker's own counter, where it publishes one ($SYS)."""
    store_bytes: Figure = 0
    rss_bytes: Figure = 0
    uptime_s: Seconds = 0.0


class DeviceState(Struct, frozen=True, kw_only=True):
    """Retained on ``device/<id>/state``; the will says ``lost``."""

    device_id: str
    state: WorkName
    boot: str = ""
    """Random for each start of the agent."""
    version: Figure | None = None
    """The model version that the device holds."""
    reason: str = ""
    """Why it is in this state, for a person to read."""
    drifting: bool = False
    """Its model does worse on new samples than on earlier ones."""


class DeviceMetrics(Struct, frozen=True, kw_only=True):
    """On ``device/<id>/metrics``. Counts are over the life of the outbox and survive restarts, save where noted."""

    device_id: str = ""
    version: Figure | None = None
    trained_version: Figure | None = None
    trainings: Figure = 0
    trainings_interrupted: Figure = 0
    """Set aside before their end (policy, command, deadline, end of the process), to go on later."""
    trainings_resumed: Figure = 0
    """Gone on with where they were set aside or killed, instead of from the beginning."""
    training_share: Share | None = None
    """How much of the training under way is done; null when there is none."""
    policy_waits: Counts = {}
    """How often each rule of the policy began to hold trainings up since the agent started."""
    updates_created: Figure = 0
    updates_accepted: Figure = 0
    updates_duplicate: Figure = 0
    updates_stale: Figure = 0
    updates_rejected: Figure = 0
    updates_dropped: Figure = 0
    """Given up by the device because its outbox was full."""
    reports_created: Figure = 0
    """Answers to surveys."""
    reports_accepted: Figure = 0
    reports_duplicate: Figure = 0
    reports_stale: Figure = 0
    reports_rejected: Figure = 0
    reports_dropped: Figure = 0
    models_received: Figure = 0
    """Fetched and kept, in whichever way."""
    models_from_delta: Figure = 0
    """Of these, made of the one before and a small step."""
    refusals: Counts = {}
    outbox_updates: Figure = 0
    outbox_bytes: Figure = 0
    update_bytes: Figure = 0
    """Encoded size of the last update."""
    bytes_sent: Figure = 0
    """Payload bytes since the agent started."""
    bytes_received: Figure = 0
    """Payload bytes since the agent started."""
    training_s: Seconds = 0.0
    """Duration of the last training."""
    num_examples: Figure = 0
    train_loss: float | None = None
    holdout_accuracy_before: Share | None = None
    holdout_accuracy: Share | None = None
    """On the device's own held-out data, before and after its last training."""
    holdout_accuracy_global: Share | None = None
    """Where parameters are private: of the version as it came, of it with the device's own, of a model of its own."""
    holdout_accuracy_personal: Share | None = None
    holdout_accuracy_local: Share | None = None
    holdout_loss_before: float | None = None
    holdout_loss: float | None = None
    drifting: bool = False
    drift_alarms: Figure = 0
    """How often it began."""
    drift_judged: Figure = 0
    """New examples that were looked at for it."""
    drift_error: float | None = None
    """Mean error on the new examples looked at last, and of earlier ones by the same model."""
    drift_error_earlier: float | None = None
    reconnects: Figure = 0
    embeddings_computed: Figure = 0
    """Samples that went through the backbone since the process started, for training and measuring."""
    embeddings_reused: Figure = 0
    """Those that were found in the device's cache instead."""
    samples: Figure = 0
    """Rows in the sample store, of devices with sources."""
    samples_taken: Figure = 0
    """Rows ever stored there."""
    samples_bytes: Figure = 0
    samples_refused: Counts = {}
    predictions: Figure = 0
    """Published since the process started."""
    predictions_fault: Reason = ""
    """Why there are none by the newest model."""
    """What was refused or left out since the agent started, by source and kind."""
    rss_bytes: Figure = 0
    uptime_s: Seconds = 0.0


_T = TypeVar("_T", AggregatorState, AggregatorClaim, AggregatorMetrics, DeviceState, DeviceMetrics)


def encode_status(status: Struct) -> bytes:
    """Return the status as JSON."""
    return msgspec.json.encode(status)


def decode_status(payload: bytes, wanted: type[_T]) -> _T:
    """Return the status in the JSON payload, or raise ``ProtocolError``."""
    if len(payload) > MAX_STATUS_BYTES:
        raise ProtocolError(f"status of {len(payload)} bytes where at most {MAX_STATUS_BYTES} are allowed")
    try:
        return msgspec.json.decode(payload, type=wanted)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise ProtocolError(f"wrong status: {exc}"[:400]) from exc
