"""Questions to the fleet: which are open, who has answered, and what the answers add up to.

Pure, as the ledger is: whatever changes returns what has to be stored. An answer, the sum with it, and the device's
sequence are one transaction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aggregator.admission import Gate, Refused
from aggregator.commands import SaveAnswer, SaveSurvey, Total
from aggregator.records import Answer, SurveyRecord
from models import DataError, Model
from models.answering import NO_METRICS, classes_of, columns_of, metrics_from_data, no_statistics
from models.comparison import Comparison
from models.metrics import ReconstructionMetrics
from models.statistics import GRID, MAX_CLASSES, MAX_COLUMNS, FeatureStatistics
from protocol.errors import ProtocolError
from protocol.sampling import is_asked
from protocol.surveys import MAX_CONTENT_BYTES, MAX_SURVEYS, Report, SealedReport, Survey, SurveyKind, unpack_content

_CONTENTS: Mapping[SurveyKind, tuple[str, ...]] = {
    "statistics": ("statistics",),
    "evaluation": ("metrics",),
    "comparison": ("metrics", "candidate"),
}


class CannotAsk(Exception):  # noqa: N818 - an answer to the operator
    """A survey that cannot be opened, or closed; the text says why."""


@dataclass(slots=True)
class _Open:
    survey: Survey
    opened: float
    total: Total
    answered: set[str]
    with_examples: int


class Surveys:
    """The open surveys, under a bound on their number; what is known of each is a sum, and who has answered."""

    def __init__(self, model: Model, restored: Iterable[SurveyRecord], max_examples: int) -> None:
        self._model = model
        self._max_examples = max_examples
        self._open: dict[str, _Open] = {}
        for record in restored:
            # A survey that was open when [model] changed to another task of the same shape is given up.
            with contextlib.suppress(DataError):
                self._open[record.survey.id] = _Open(
                    survey=record.survey,
                    opened=record.opened,
                    total=total_of(model, record),
                    answered=set(record.answered),
                    with_examples=record.with_examples,
                )

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """Whether no other can be opened."""
        return sum(found.survey.kind != "comparison" for found in self._open.values()) >= MAX_SURVEYS

    @property
    def announced(self) -> list[Survey]:
        """The open surveys, as the manifest has them."""
        return [found.survey for found in self._open.values()]

    def is_open(self, survey: str) -> bool:
        """Return whether answers to this survey are taken."""
        return survey in self._open

    def with_examples(self, survey: str) -> int:
        """Return how many devices have answered with figures about anything."""
        return self._open[survey].with_examples

    def answers(self, survey: str) -> int:
        """Return how many devices have answered."""
        return len(self._open[survey].answered)

    def statistics(self, survey: str) -> FeatureStatistics:
        """Return what the answers to an open survey add up to."""
        total = self._open[survey].total
        if not isinstance(total, FeatureStatistics):
            raise TypeError(f"survey {survey} is of another kind")
        return total

    def reconstruction(self, survey: str) -> ReconstructionMetrics:
        """Return what the answers to an open evaluation of a reconstruction add up to."""
        total = self._open[survey].total
        if not isinstance(total, ReconstructionMetrics):
            raise TypeError(f"survey {survey} is of another kind")
        return total

    def comparison(self, survey: str) -> Comparison:
        """Return what the answers to an open comparison say together."""
        total = self._open[survey].total
        if not isinstance(total, Comparison):
            raise TypeError(f"survey {survey} is of another kind")
        return total

    def has_answered(self, survey: str, device_id: str) -> bool:
        """Return whether this device's answer is in."""
        return device_id in self._open[survey].answered

    def open(self, survey: Survey, wall: float) -> SaveSurvey:
        """Ask; raise ``CannotAsk``."""
        if self.full and survey.kind != "comparison":
            names = ", ".join(self._open)
            raise CannotAsk(f"{MAX_SURVEYS} surveys are open already; close one first: {names}")
        if survey.kind == "statistics":
            check_countable(self._model)
        self._open[survey.id] = _Open(survey, wall, self._nothing(survey), set(), 0)
        return self._saved(self._open[survey.id], closed=None)

    def _nothing(self, survey: Survey) -> Total:
        match survey.kind:
            case "statistics":
                return no_statistics(self._model)
            case "evaluation":
                return NO_METRICS[self._model.task]
            case "comparison":
                return Comparison.none(self._model.task)

    def close(self, survey: str, wall: float) -> SaveSurvey:
        """Ask no more; raise ``CannotAsk`` when it is not open."""
        found = self._open.pop(survey, None)
        if found is None:
            raise CannotAsk(f"there is no open survey {survey}")
        return self._saved(found, closed=wall)

    def take(self, gate: Gate, message: Report | SealedReport) -> SaveAnswer:
        """Add an answer, or raise ``Refused`` and change nothing."""
        gate.check_known(message)
        found = self._open.get(message.survey)
        if found is None:
            raise Refused("stale", "closed-survey", f"survey {message.survey} is closed")
        if message.device_id in found.answered:
            raise Refused("stale", "answered", f"this device has answered survey {message.survey} before")
        if not is_asked(message.device_id, message.survey, found.survey.fraction):
            raise Refused("rejected", "not-asked", f"survey {message.survey} does not ask this device")
        report = gate.opened_report(message)
        try:
            examples, figures = self._read(found.survey, report.content)
        except (ProtocolError, DataError) as exc:
            raise Refused("rejected", "bad-report", str(exc)) from exc
        found.total = _together(found.total, figures)
        found.answered.add(report.device_id)
        found.with_examples += examples > 0
        answer = Answer(
            survey=report.survey,
            device_id=report.device_id,
            incarnation=report.incarnation,
            sequence=report.sequence,
            version=report.base_version,
            examples=examples,
            figures=_summary(figures),
        )
        return SaveAnswer(answer=answer, total=found.total)

    @property
    def largest_bytes(self) -> int:
        """The longest honest content: of statistics with a full sketch of every feature."""
        return min(
            MAX_CONTENT_BYTES, columns_of(self._model) * (64 + 5 * GRID.size) + 9 * classes_of(self._model) + 1024
        )

    def _read(self, survey: Survey, content: bytes) -> tuple[int, Total]:
        """Return the examples and the figures about them; raise ``ProtocolError`` or ``DataError``."""
        if len(content) > self.largest_bytes:
            raise DataError(f"content of {len(content)} bytes where at most {self.largest_bytes} make sense")
        data = unpack_content(content)
        wanted = _CONTENTS[survey.kind]
        if data.keys() != {"examples", *wanted}:
            raise DataError(f"content is no map of examples and {' and '.join(wanted)}")
        examples = data["examples"]
        if type(examples) is not int or not 0 <= examples <= self._max_examples:
            raise DataError(f"examples is no whole number from 0 to {self._max_examples}")
        if 0 < examples < survey.min_examples:
            raise DataError(f"figures about {examples} examples, where those of fewer than {survey.min_examples} stay")
        if survey.kind == "evaluation":
            metrics = metrics_from_data(self._model.task, data["metrics"])
            _same(metrics.count, examples)
            return examples, metrics
        if survey.kind == "comparison":
            first, second = (metrics_from_data(self._model.task, data[name]) for name in wanted)
            _same(first.count, examples)
            return examples, Comparison.of(self._model.task, first, second)
        columns, classes = columns_of(self._model), classes_of(self._model)
        found = FeatureStatistics.from_data(data["statistics"], columns, classes)
        _same(found.rows, examples * (self._model.inputs // columns))
        if classes:
            _same(int(found.classes.sum()), examples)
        return examples, found

    @staticmethod
    def _saved(found: _Open, closed: float | None) -> SaveSurvey:
        return SaveSurvey(survey=found.survey, opened=found.opened, closed=closed, total=found.total)


def total_of(model: Model, record: SurveyRecord) -> Total:
    """Return the sum that the store holds; raise ``ValueError`` when it makes no sense."""
    if record.survey.kind == "evaluation":
        return metrics_from_data(model.task, record.total)
    if record.survey.kind == "comparison":
        return Comparison.from_data(model.task, record.total, record.compared)
    return FeatureStatistics.from_data(record.total, columns_of(model), classes_of(model))


def check_countable(model: Model) -> None:
    """Raise ``CannotAsk`` when statistics of the model's features would not fit into a report."""
    if columns_of(model) > MAX_COLUMNS or classes_of(model) > MAX_CLASSES:
        text = f"{columns_of(model)} features and {classes_of(model)} classes, at most {MAX_COLUMNS} and {MAX_CLASSES}"
        raise CannotAsk(f"there are no statistics of so much: {text} are allowed")


def _summary(figures: Total) -> dict[str, float]:
    if isinstance(figures, FeatureStatistics):
        return {}
    return figures.figures() if isinstance(figures, Comparison) else figures.summary()


def _together(total: Total, figures: Total) -> Total:
    # Both are of the survey's kind and the model's task.
    return total + figures  # type: ignore[operator] # no union of them says so


def _same(found: int, wanted: int) -> None:
    if found != wanted:
        raise DataError(f"figures are about {found} examples or rows, where {wanted} are claimed")
