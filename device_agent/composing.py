"""From what a training brought to the update that is sent, and from the books to the figures that are published."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from device_agent.lifecycle import Link
from device_agent.records import DurableState, LastTraining, OutboxEntry, OutboxRow
from protocol.fields import MAX_METRICS
from protocol.messages import Manifest, ModelUpdate
from protocol.packing import encode
from protocol.status import DeviceMetrics, DeviceState
from protocol.surveys import Report

if TYPE_CHECKING:
    from device_agent.events import SurveyAnswered, TrainingDone


MAX_WHY = 160
"""Characters of a reason for which there is no connection: there is more to say in a line."""

LINES = {Link.UP: "connected", Link.DOWN: "no connection", Link.CLOSED: "disconnected on purpose"}


def update_row(done: TrainingDone, manifest: Manifest, device_id: str, incarnation: str, sequence: int) -> OutboxRow:
    """Return the row of the update that this training leads to, with the bytes that will be sent."""
    payload = done.sealed or encode(update_of(done, manifest, device_id, (incarnation, sequence)))
    entry = OutboxEntry(sequence=sequence, epoch=manifest.epoch, base_version=manifest.version, size=len(payload))
    return OutboxRow(entry=entry, payload=payload)


def report_row(done: SurveyAnswered, manifest: Manifest, device_id: str, incarnation: str, sequence: int) -> OutboxRow:
    """Return the row of the report that answers a survey, with the bytes that will be sent."""
    report = report_of(done.survey.id, done.content, manifest, device_id, (incarnation, sequence))
    payload = done.sealed or encode(report)
    entry = OutboxEntry(
        sequence=sequence,
        epoch=manifest.epoch,
        base_version=manifest.version,
        size=len(payload),
        survey=done.survey.id,
    )
    return OutboxRow(entry=entry, payload=payload)


def report_of(survey: str, content: bytes, manifest: Manifest, device_id: str, name: tuple[str, int]) -> Report:
    """Return the answer to a survey; ``name`` is its incarnation and sequence."""
    return Report(
        federation=manifest.federation,
        epoch=manifest.epoch,
        device_id=device_id,
        incarnation=name[0],
        sequence=name[1],
        base_version=manifest.version,
        survey=survey,
        content=content,
    )


def update_of(done: TrainingDone, manifest: Manifest, device_id: str, name: tuple[str, int]) -> ModelUpdate:
    """Return the update that this training leads to; ``name`` is its incarnation and sequence."""
    return ModelUpdate(
        federation=manifest.federation,
        epoch=manifest.epoch,
        device_id=device_id,
        incarnation=name[0],
        sequence=name[1],
        base_version=manifest.version,
        num_examples=done.num_examples,
        num_steps=done.num_steps,
        codec=manifest.participation.codec,
        layout=done.layout or manifest.layout,
        delta=done.delta,
        metrics=_metrics(done),
    )


def last_training(done: TrainingDone, update_bytes: int, rows: int | None) -> LastTraining:
    """Return the figures to remember of a training."""
    return LastTraining(
        num_examples=done.num_examples,
        training_s=done.duration_s,
        update_bytes=update_bytes,
        train_loss=done.train_loss,
        before=_finite(done.before),
        after=_finite(done.after),
        others={whose: _finite(found) for whose, found in done.others.items()},
        rows=rows,
    )


def device_metrics(
    durable: DurableState,
    *,
    device_id: str,
    version: int | None,
    outbox: tuple[int, int],
    traffic: tuple[int, int, int],
    uptime_s: float,
    waits: dict[str, int],
    private: bool = False,
) -> DeviceMetrics:
    """Return the published figures; ``outbox`` is (updates, bytes), ``traffic`` (bytes sent, received, reconnects).

    ``waits`` are counts by rule of the policy.
    ``private``: leave out what is sealed in updates, for these figures are for everybody on the broker.
    """
    counters, last = durable.counters, LastTraining() if private else durable.last
    drift = durable.drift
    return DeviceMetrics(
        device_id=device_id,
        version=version,
        trained_version=durable.trained.version if durable.trained else None,
        trainings=counters.trainings,
        trainings_interrupted=counters.trainings_interrupted,
        trainings_resumed=counters.trainings_resumed,
        policy_waits=waits,
        updates_created=counters.updates_created,
        updates_accepted=counters.updates_accepted,
        updates_duplicate=counters.updates_duplicate,
        updates_stale=counters.updates_stale,
        updates_rejected=counters.updates_rejected,
        updates_dropped=counters.updates_dropped,
        reports_created=counters.reports_created,
        reports_accepted=counters.reports_accepted,
        reports_duplicate=counters.reports_duplicate,
        reports_stale=counters.reports_stale,
        reports_rejected=counters.reports_rejected,
        reports_dropped=counters.reports_dropped,
        models_received=counters.models_received,
        models_from_delta=counters.models_from_delta,
        refusals=counters.refusals,
        outbox_updates=outbox[0],
        outbox_bytes=outbox[1],
        update_bytes=durable.last.update_bytes,
        bytes_sent=traffic[0],
        bytes_received=traffic[1],
        reconnects=traffic[2],
        training_s=durable.last.training_s,
        num_examples=last.num_examples,
        train_loss=last.train_loss,
        holdout_accuracy_before=last.before.get("accuracy"),
        holdout_accuracy=last.after.get("accuracy"),
        holdout_accuracy_global=last.others.get("global", {}).get("accuracy"),
        holdout_accuracy_personal=last.others.get("personal", {}).get("accuracy"),
        holdout_accuracy_local=last.others.get("local", {}).get("accuracy"),
        holdout_loss_before=last.before.get("loss"),
        holdout_loss=last.after.get("loss"),
        drifting=drift.drifting,
        drift_alarms=drift.alarms,
        drift_judged=drift.judged,
        drift_error=None if private else drift.error_new,
        drift_error_earlier=None if private else drift.error_earlier,
        uptime_s=uptime_s,
    )


def line_of(state: DeviceState, waiting: int, link: Link, why_down: str = "") -> str:
    """Return the state in a line for people: ``version 12, training; 2 updates waiting; connected``.

    ``why_down`` says why there was no connection last; it counts while there is none.
    """
    version = "no model yet" if state.version is None else f"version {state.version}"
    parts = [f"{version}, {state.state}", f"{waiting} update{'s' * (waiting != 1)} waiting", LINES[link]]
    if link is Link.DOWN and why_down:
        parts[-1] += f" ({why_down[:MAX_WHY]})"
    return "; ".join([*parts, state.reason] if state.reason else parts)


def _metrics(done: TrainingDone) -> dict[str, float]:
    found = {f"holdout_{name}_before": value for name, value in done.before.items()}
    found |= {f"holdout_{name}": value for name, value in done.after.items()}
    for whose, metrics in done.others.items():
        found |= {f"holdout_{name}_{whose}": value for name, value in metrics.items()}
    if done.train_loss is not None:
        found["train_loss"] = done.train_loss
    if done.share_done < 1.0:
        found["share_done"] = done.share_done
    return dict(list(_finite(found).items())[:MAX_METRICS])


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
