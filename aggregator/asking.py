"""Opening and closing surveys: an operator's, and the one whose answers give the first version its constants."""

from __future__ import annotations

import hashlib

from aggregator.commands import Command, Log, Reply, SaveAggregation, SaveSurvey
from aggregator.configuration import AggregatorSettings
from aggregator.events import SurveyCloseRequested, SurveyRequested
from aggregator.keyring import Keyring
from aggregator.ledger import Ledger
from aggregator.manifests import largest_manifest_bytes, own_surveys
from aggregator.surveys import CannotAsk, Surveys
from aggregator.thresholds import Thresholds
from models import Model
from models.answering import classes_of
from protocol.messages import MAX_MANIFEST_BYTES
from protocol.surveys import Survey


class Asking:
    """Decides what is asked. Whatever it returns has to be stored before the manifest says so."""

    def __init__(
        self, settings: AggregatorSettings, model: Model, surveys: Surveys, ledger: Ledger, keys: Keyring
    ) -> None:
        self._settings = settings
        self._model = model
        self._surveys = surveys
        self._ledger = ledger
        self._keys = keys
        # The same again after a restart, and another one in another history. Who answered the survey before training
        # does so no more, so class weights that were switched on later have one of their own.
        why = "class weights" if ledger.trains else "before training"
        self._first = hashlib.sha256(f"{ledger.epoch}/{why}".encode()).hexdigest()[:16]
        self._waited = not settings.statistics.wait_s
        self._thresholds = Thresholds(settings, surveys, ledger)
        self._deadline: float | None = None

    @property
    def deadline(self) -> float | None:
        """When it has been waited long enough for what somebody needs."""
        found = (self._deadline, self._thresholds.deadline)
        return min((moment for moment in found if moment is not None), default=None)

    @property
    def wants_to_begin(self) -> bool:
        """Whether something is needed that nobody is asked for yet."""
        return self._wants_statistics or self._thresholds.wants_to_begin

    @property
    def _wants_statistics(self) -> bool:
        return self._waits and not (self._surveys.is_open(self._first) or self._surveys.full)

    @property
    def _waits(self) -> bool:
        """Whether training waits for statistics, or goes on without the weights that they will give."""
        counted = len(self._ledger.findings.class_counts) == classes_of(self._model)
        return not self._ledger.trains or (self._settings.statistics.class_weights != "none" and not counted)

    def begin(self, wall: float) -> list[Command]:
        """Ask for what is needed."""
        if not self._wants_statistics:
            return self._thresholds.begin(wall)
        survey = Survey(id=self._first, kind="statistics", min_examples=self._settings.statistics.min_examples)
        return [
            self._surveys.open(survey, wall),
            Log("info", f"asking for statistics {self._what_for}", {"survey": survey.id}),
        ]

    @property
    def _what_for(self) -> str:
        return "for class weights" if self._ledger.trains else "before training"

    def wait(self, now: float) -> None:
        """Wait for the first statistics from now on, if they are needed."""
        if self._deadline is None and not self._waited and self._waits:
            self._deadline = now + self._settings.statistics.wait_s

    def tick(self, now: float) -> None:
        """Take note of the time."""
        if self._deadline is not None and now >= self._deadline:
            self._waited, self._deadline = True, None
        self._thresholds.tick(now)

    @property
    def ready(self) -> bool:
        """Whether something is needed, and there is enough of it."""
        return self._statistics_ready or self._thresholds.ready

    @property
    def _statistics_ready(self) -> bool:
        if not self._waits or not self._surveys.is_open(self._first):
            return False
        wanted = self._settings.statistics.min_devices
        found = self._surveys.with_examples(self._first)
        no_time_limit = not self._settings.statistics.wait_s
        return found >= wanted or (found > 0 and self._waited and not no_time_limit)

    def finish(self, wall: float) -> tuple[list[Command], SaveAggregation | None]:
        """Take note of what was found and, before training, write the constants into the model's first version."""
        if not self._statistics_ready:
            return self._thresholds.finish(wall), None
        statistics = self._surveys.statistics(self._first)
        fields = {"devices": self._surveys.with_examples(self._first), "rows": statistics.rows}
        self._deadline = None
        commands: list[Command] = [self._surveys.close(self._first, wall)]
        if classes_of(self._model):
            commands.append(self._ledger.find(class_counts=tuple(statistics.classes.tolist())))
        if self._ledger.trains:
            return [*commands, Log("info", "statistics are in: classes are weighted", fields)], None
        saved = self._ledger.standardize(statistics, wall)
        return [*commands, saved, Log("info", "statistics are in: training begins", fields)], saved

    def rolled_back(self, wall: float) -> list[Command]:
        """Forget what was found out about versions that are taken back."""
        return self._thresholds.drop(wall)

    def open(self, event: SurveyRequested, wall: float) -> tuple[list[SaveSurvey], Reply]:
        """Ask what an operator wants to know."""
        survey = Survey(id=event.request_id, kind=event.kind, fraction=event.fraction, min_examples=event.min_examples)
        # Our own may be opened at any time, and devices refuse a manifest that is too long, whoever filled it.
        ours = {self._first, self._thresholds.survey}
        asked = [each for each in self._surveys.announced if each.kind != "comparison" and each.id not in ours]
        together = [*own_surveys(self._settings), *asked, survey]
        size = largest_manifest_bytes(self._settings, self._model, self._keys, together)
        if size > MAX_MANIFEST_BYTES:
            text = f"the manifest would have {size} bytes with it, at most {MAX_MANIFEST_BYTES} are allowed"
            return [], Reply(request_id=event.request_id, error=f"no room for another survey: {text}")
        try:
            saved = self._surveys.open(survey, wall)
        except CannotAsk as exc:
            return [], Reply(request_id=event.request_id, error=str(exc))
        return [saved], Reply(request_id=event.request_id, body={"survey": survey.id, "kind": survey.kind})

    def close(self, event: SurveyCloseRequested, wall: float) -> tuple[list[SaveSurvey], Reply]:
        """Ask no more."""
        if event.survey == self._first and self._waits:
            who = "class weights wait" if self._ledger.trains else "training waits"
            text = f"{who} for this survey; set [statistics] min_devices to fewer if they are too many"
            return [], Reply(request_id=event.request_id, error=text)
        if event.survey == self._thresholds.survey:
            text = "the threshold for anomalies waits for this survey; set [anomaly] min_devices to fewer"
            return [], Reply(request_id=event.request_id, error=text)
        if self._ledger.candidate and event.survey == self._ledger.candidate.survey:
            text = "this one decides on a candidate; close it with: fedmq-aggregator canary publish (or withdraw)"
            return [], Reply(request_id=event.request_id, error=text)
        try:
            saved = self._surveys.close(event.survey, wall)
        except CannotAsk as exc:
            return [], Reply(request_id=event.request_id, error=str(exc))
        return [saved], Reply(request_id=event.request_id, body={"survey": event.survey, "closed": True})
