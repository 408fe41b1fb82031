"""The threshold for anomalies: a quantile of the errors over all devices' held-out examples, measured by surveys.

Errors shrink while a model learns, so it is measured again when the version is twice as high, and then at intervals.
"""

from __future__ import annotations

import hashlib

from aggregator.commands import Command, Log
from aggregator.configuration import AggregatorSettings
from aggregator.ledger import Ledger
from aggregator.surveys import Surveys
from protocol.surveys import Survey
from protocol.thresholds import Threshold

_UNTRAINED = ("initial", "statistics")


class Thresholds:
    """Decides when the fleet is asked for its errors. Whatever it returns has to be stored before it is announced."""

    def __init__(self, settings: AggregatorSettings, surveys: Surveys, ledger: Ledger) -> None:
        self._table = settings.anomaly
        self._surveys = surveys
        self._ledger = ledger
        self._waited = False
        self.deadline: float | None = None
        """When it has been waited long enough for the survey that is open."""

    @property
    def survey(self) -> str:
        """Id of the survey that is open for this; empty when there is none."""
        asked = self._ledger.findings.threshold_asked
        found = "" if asked is None else self._name(asked)
        return found if found and self._surveys.is_open(found) else ""

    @property
    def stray(self) -> bool:
        """Whether errors are asked for that nobody wants any more: it was switched off meanwhile."""
        return bool(self.survey) and not self._table.quantile

    @property
    def wants_to_begin(self) -> bool:
        """Whether errors are to be asked for, or no more."""
        if not self._table.quantile:
            return self.stray
        if self.survey:
            return self._in_vain
        return self._due and not self._surveys.full

    @property
    def _due(self) -> bool:
        known = self._ledger.findings.threshold
        if self._ledger.version.kind in _UNTRAINED:
            return False
        return known is None or known.quantile != self._table.quantile or self._is_old(known.version)

    @property
    def _in_vain(self) -> bool:
        """Whether enough devices have answered, too few had examples then, and more may have some by now."""
        answers, asked = self._surveys.answers(self.survey), self._ledger.findings.threshold_asked or 0
        enough = answers >= self._table.min_devices or (answers > 0 and self._waited)
        return enough and not self.ready and self._is_old(asked)

    def _is_old(self, version: int) -> bool:
        return self._ledger.version.version >= min(2 * version, version + self._table.every_versions)

    def begin(self, wall: float) -> list[Command]:
        """Ask for the errors by the current version, and no more for those by an older one."""
        version, old = self._ledger.version.version, self.survey
        closed: list[Command] = [self._surveys.close(old, wall)] if old else []
        self._waited, self.deadline = False, None
        if not self._table.quantile:
            return [*closed, self._ledger.find(threshold_asked=None)]
        count = self._ledger.findings.thresholds_asked + 1
        found = self._ledger.find(threshold_asked=version, thresholds_asked=count)
        survey = Survey(id=self._name(version), kind="evaluation", min_examples=self._table.min_examples)
        told = Log("info", "asking for errors, for the threshold", {"survey": survey.id, "version": version})
        return [*closed, found, self._surveys.open(survey, wall), told]

    def tick(self, now: float) -> None:
        """Take note of the time: the wait begins with the first tick at which the survey is open."""
        if not self.survey:
            self.deadline = None
        elif self.deadline is None:
            if self._table.wait_s and not self._waited:
                self.deadline = now + self._table.wait_s
        elif now >= self.deadline:
            self._waited, self.deadline = True, None

    @property
    def ready(self) -> bool:
        """Whether enough devices have answered."""
        if not self.survey or self.stray:
            return False
        found = self._surveys.with_examples(self.survey)
        return found >= self._table.min_devices or (found > 0 and self._waited)

    def finish(self, wall: float) -> list[Command]:
        """Take note of the threshold, and ask no more."""
        survey, version = self.survey, self._ledger.findings.threshold_asked or 0
        total, devices = self._surveys.reconstruction(survey), self._surveys.with_examples(survey)
        error = total.quantile(self._table.quantile) * self._table.margin
        found = Threshold(error=error, quantile=self._table.quantile, version=version)
        fields = {"error": f"{error:.6g}", "version": version, "devices": devices, "examples": total.count}
        closed, saved = self._surveys.close(survey, wall), self._ledger.find(threshold=found, threshold_asked=None)
        self.deadline = None
        few = round(1.0 / (1.0 - self._table.quantile))
        if total.count < few:
            text = f"the threshold is of so few examples that it is about their largest error; {few} say more"
            return [closed, saved, Log("warning", text, fields)]
        return [closed, saved, Log("info", "there is a threshold for anomalies", fields)]

    def drop(self, wall: float) -> list[Command]:
        """Forget what was measured on versions that are taken back."""
        survey = self.survey
        if not survey and self._ledger.findings.threshold is None:
            return []
        closed: list[Command] = [self._surveys.close(survey, wall)] if survey else []
        return [*closed, self._ledger.find(threshold=None, threshold_asked=None)]

    def _name(self, version: int) -> str:
        # The same again after a restart, and another one in another history. Of one version the errors may be asked for
        # again, for another quantile: under another name, for devices answer no survey twice.
        count = self._ledger.findings.thresholds_asked
        text = f"{self._ledger.epoch}/threshold/{version}" + (f"/{count}" if count else "")
        return hashlib.sha256(text.encode()).hexdigest()[:16]
