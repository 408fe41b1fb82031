"""Sealing what a training brought, before anything of it is stored or sent. For the trainer's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from device_agent.composing import report_of, update_of
from protocol.packing import encode
from protocol.sealing import seal, seal_report

if TYPE_CHECKING:
    from device_agent.commands import Answer, Train
    from device_agent.events import SurveyAnswered, TrainingDone


def sealed(done: TrainingDone, task: Train, device_id: str) -> TrainingDone:
    """Return the result with its update sealed as the task's manifest wants it; as it is when it wants nothing.

    Raise ``SealingError`` when the manifest's key is no good.
    """
    if task.manifest.sealing is None:
        return done
    update = update_of(done, task.manifest, device_id, (task.incarnation, task.sequence))
    payload = encode(seal(update, task.manifest.sealing))
    return replace(done, delta=b"", sealed=payload, sealed_as=task.sequence)


def sealed_answer(done: SurveyAnswered, task: Answer, device_id: str) -> SurveyAnswered:
    """Return the answer with its report sealed, as ``sealed`` does."""
    if task.manifest.sealing is None:
        return done
    name = (task.incarnation, task.sequence)
    report = report_of(task.survey.id, done.content, task.manifest, device_id, name)
    return replace(
        done, content=b"", sealed=encode(seal_report(report, task.manifest.sealing)), sealed_as=task.sequence
    )
