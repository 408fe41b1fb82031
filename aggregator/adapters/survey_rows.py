"""Surveys and their answers in the database: written by the store's transaction, read by whoever looks."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from aggregator.commands import SaveAnswer, SaveSurvey, StoreCommand, Total
from aggregator.records import Answer, SurveyRecord
from models.answering import metrics_to_data
from models.comparison import Comparison
from models.statistics import FeatureStatistics
from protocol.surveys import Survey

KEPT_CLOSED = 32
"""So many surveys that are not asked any more are kept, with their answers: one small row a device each."""

SURVEY_COLUMNS = "id, kind, fraction, min_examples, opened, closed"
ANSWER_COLUMNS = "survey, device, incarnation, sequence, version, examples, figures"


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyLine:
    """A survey without its answers."""

    id: str
    kind: str
    fraction: float
    min_examples: int
    opened: float
    """Seconds since 1970 by the aggregator's clock, as ``closed``."""
    closed: float | None
    devices: int
    """So many have answered."""
    with_examples: int
    """So many of these had any."""
    examples: int


def write_surveys(db: sqlite3.Connection, commands: Sequence[StoreCommand]) -> None:
    """Write what the commands say of surveys; within a transaction. Of several sums of one only the last is written."""
    totals: dict[str, Total] = {}
    for command in commands:
        if isinstance(command, SaveSurvey):
            totals[command.survey.id] = command.total
            _write_survey(db, command)
        elif isinstance(command, SaveAnswer):
            totals[command.answer.survey] = command.total
            _write_answer(db, command.answer)
    for survey, total in totals.items():
        db.execute("UPDATE surveys SET total = ? WHERE id = ?", (_packed(total), survey))


def open_surveys(db: sqlite3.Connection) -> tuple[SurveyRecord, ...]:
    """Return the surveys that are asked, the oldest first."""
    rows = db.execute(f"SELECT {SURVEY_COLUMNS}, total FROM surveys WHERE closed IS NULL ORDER BY position").fetchall()  # noqa: S608 - a constant of ours
    return tuple(_record_of(db, row) for row in rows)


def survey_lines(db: sqlite3.Connection) -> list[SurveyLine]:
    """Return all surveys that are kept, the oldest first."""
    query = (
        f"SELECT {SURVEY_COLUMNS}, count(device), coalesce(sum(examples > 0), 0), coalesce(sum(examples), 0)"  # noqa: S608 - constants of ours
        " FROM surveys LEFT JOIN answers ON answers.survey = surveys.id GROUP BY surveys.id ORDER BY position"
    )
    names = [field for field in SurveyLine.__dataclass_fields__]  # noqa: C416 - in the order of the columns
    return [SurveyLine(**dict(zip(names, row, strict=True))) for row in db.execute(query)]


def answers_of(db: sqlite3.Connection, survey: str) -> list[Answer]:
    """Return who has answered a survey, by name."""
    rows = db.execute(f"SELECT {ANSWER_COLUMNS} FROM answers WHERE survey = ? ORDER BY device", (survey,))  # noqa: S608 - a constant of ours
    return [
        Answer(
            survey=row[0],
            device_id=row[1],
            incarnation=row[2],
            sequence=row[3],
            version=row[4],
            examples=row[5],
            figures=json.loads(row[6]),
        )
        for row in rows
    ]


def total_data(db: sqlite3.Connection, survey: str) -> Any:  # noqa: ANN401 - plain data
    """Return the sum of a survey's answers as data, None when there is no such survey."""
    row = db.execute("SELECT total FROM surveys WHERE id = ?", (survey,)).fetchone()
    return None if row is None else msgspec.msgpack.decode(row[0])


def _write_survey(db: sqlite3.Connection, command: SaveSurvey) -> None:
    survey = command.survey
    db.execute(
        f"INSERT INTO surveys ({SURVEY_COLUMNS}, total) VALUES (?, ?, ?, ?, ?, ?, x'')"  # noqa: S608 - a constant of ours
        " ON CONFLICT (id) DO UPDATE SET closed = excluded.closed",
        (survey.id, survey.kind, survey.fraction, survey.min_examples, command.opened, command.closed),
    )
    closed = "SELECT id FROM surveys WHERE closed IS NOT NULL ORDER BY position DESC LIMIT -1 OFFSET ?"
    for (old,) in db.execute(closed, (KEPT_CLOSED,)).fetchall():
        db.execute("DELETE FROM answers WHERE survey = ?", (old,))
        db.execute("DELETE FROM surveys WHERE id = ?", (old,))


def _write_answer(db: sqlite3.Connection, answer: Answer) -> None:
    row = (
        answer.survey,
        answer.device_id,
        answer.incarnation,
        answer.sequence,
        answer.version,
        answer.examples,
        json.dumps(answer.figures),
    )
    db.execute(f"INSERT INTO answers ({ANSWER_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608 - a constant of ours


def _record_of(db: sqlite3.Connection, row: tuple[Any, ...]) -> SurveyRecord:
    answers = answers_of(db, row[0])
    return SurveyRecord(
        survey=Survey(id=row[0], kind=row[1], fraction=row[2], min_examples=row[3]),
        opened=row[4],
        total=msgspec.msgpack.decode(row[6]),
        answered=tuple(answer.device_id for answer in answers),
        with_examples=sum(answer.examples > 0 for answer in answers),
        compared=compared(answers) if row[1] == "comparison" else (),
    )


def compared(answers: Sequence[Answer]) -> tuple[tuple[int, dict[str, float]], ...]:
    """Return what devices found of two models, as ``Comparison.from_data`` takes it."""
    return tuple((answer.examples, answer.figures) for answer in answers)


def _packed(total: Total) -> bytes:
    data = total.to_data() if isinstance(total, FeatureStatistics | Comparison) else metrics_to_data(total)
    return msgspec.msgpack.encode(data)
