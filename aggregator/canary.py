"""Deciding on a candidate: how long it is tried, and what the devices' comparisons say.

    none  --(a buffer ends)-->  tried  --(not worse, or told to)-->  published  -->  none
                                  |----(worse, too few answers in time, rolled back, or told to)-->  withdrawn  --> none

One candidate at a time: while it is tried, updates go into the next buffer, which does not end before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from aggregator.commands import SaveSurvey
from aggregator.configuration import CanaryTable
from aggregator.fleet import AWAY, Fleet
from aggregator.ledger import Ledger
from aggregator.manifests import survey_of
from aggregator.surveys import Surveys
from models.comparison import MEASURES, Comparison, Differences, Merging, is_good
from models.spec import Task
from protocol.sampling import is_asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to become of a candidate, and why."""

    outcome: Literal["published", "withdrawn"]
    reason: str


class Canary:
    """Watches the candidate of a ledger. ``deadline`` is in the time of ``now``."""

    def __init__(self, settings: CanaryTable, task: Task, ledger: Ledger, surveys: Surveys, fleet: Fleet) -> None:
        self._settings = settings
        self._task = task
        self._measure = settings.measure or MEASURES[task][0]
        self._judged: tuple[Comparison, Differences] | None = None
        self._merging = merging_of(settings)
        self._ledger = ledger
        self._surveys = surveys
        self._fleet = fleet
        self.deadline: float | None = None
        """When it is decided on what there is."""

    def begin(self, now: float, wall: float) -> SaveSurvey:
        """Ask devices to compare the candidate that the ledger has just made."""
        candidate = self._ledger.candidate
        if candidate is None:
            raise RuntimeError("there is no candidate")
        self.deadline = now + self._settings.wait_s
        return self._surveys.open(survey_of(candidate.survey, self._settings), wall)

    def wait(self, now: float) -> None:
        """Wait for answers from now on, if a candidate is tried and it is not known since when."""
        if self._ledger.candidate is not None and self.deadline is None:
            self.deadline = now + self._settings.wait_s

    def end(self, wall: float) -> list[SaveSurvey]:
        """Ask no more; before the ledger forgets the candidate."""
        self.deadline = None
        return [self._surveys.close(self._name, wall)] if self._asks else []

    @property
    def _asks(self) -> bool:
        return self._surveys.is_open(self._name)

    @property
    def _name(self) -> str:
        return self._ledger.candidate.survey if self._ledger.candidate else ""

    @property
    def found(self) -> Comparison:
        """What devices found so far."""
        return self._surveys.comparison(self._name) if self._asks else Comparison.none(self._task)

    def verdict(self, now: float, *, nobody_else: bool = False) -> Verdict | None:
        """Return what is to be done with the candidate; None: wait, or there is none.

        ``nobody_else``: nobody who is there will answer any more.
        """
        if self._ledger.candidate is None:
            return None
        if not self._asks:
            return Verdict(outcome="withdrawn", reason="[model] has another task now: the comparisons are of no use")
        late = self.deadline is not None and now >= self.deadline
        answers = self.found.devices
        if answers < self._settings.min_answers:
            return self._too_few(answers) if late else None
        differences = self._differences
        margin = self._margin(differences)
        # Exactly at the margin is not worse by more; sums of equal things may miss it by a rounding.
        excess = differences.mean - margin - 1e-9 * max(1.0, abs(differences.first))
        unsure = self._settings.certainty * differences.error if self._settings.certainty else 0.0
        if abs(excess) < unsure and not late and not nobody_else:
            return None
        worse = excess > 0.0
        return Verdict(outcome="withdrawn" if worse else "published", reason=self._text(differences))

    def waits_in_vain(self) -> bool:
        """Return whether every device that is there, and is asked, has answered. Looks at all of them."""
        if not self._asks:
            return False
        (survey,) = [each for each in self._surveys.announced if each.id == self._name]
        return not any(
            record.state not in AWAY
            and not record.quarantined
            and is_asked(record.device_id, survey.id, survey.fraction)
            and not self._surveys.has_answered(survey.id, record.device_id)
            for record in self._fleet.devices.values()
        )

    def figures(self) -> dict[str, float]:
        """Return what devices found, for the books."""
        found = self.found
        if not found.devices:
            return {}
        by = {name: found.by(name, self._merging) for name in MEASURES[self._task]}
        told = {f"fleet_{name}": each.second for name, each in by.items()}
        told |= {f"fleet_{name}_before": each.first for name, each in by.items()}
        judged = by[self._measure]
        return {"devices": float(found.devices), "worse": judged.mean, "margin": self._margin(judged), **told}

    def body(self) -> dict[str, Any]:
        """Return how it stands, for operators."""
        candidate = self._ledger.candidate
        if candidate is None:
            return {"candidate": None}
        return {
            "candidate": candidate.version.version,
            "survey": candidate.survey,
            "updates": candidate.version.num_updates,
            "answers": self.found.devices,
            "wanted": self._settings.min_answers,
            "measure": self._measure,
            "figures": self.figures(),
        }

    @property
    def _differences(self) -> Differences:
        # Asked at every message while a candidate is tried; it changes with an answer only.
        found = self.found
        if self._judged is None or self._judged[0] is not found:
            self._judged = found, found.by(self._measure, self._merging)
        return self._judged[1]

    def _margin(self, found: Differences) -> float:
        return self._settings.max_worse * (1.0 if is_good(self._measure) else abs(found.first))

    def _too_few(self, answers: int) -> Verdict:
        text = f"{answers} of {self._settings.min_answers} devices compared it within {self._settings.wait_s:g} s"
        return Verdict(outcome="withdrawn" if self._settings.on_timeout == "withdraw" else "published", reason=text)

    def _text(self, by: Differences) -> str:
        answers = by.devices
        change = f"{'worse' if by.mean > 0 else 'better'} by {abs(by.mean):.4g}" if by.mean else "as before"
        error = f" (+- {by.error:.2g})" if math.isfinite(by.error) else ""
        without = f" without the {by.trimmed} outermost at each end" if by.trimmed else ""
        where = f"{answers} device{'s' * (answers != 1)}{without}"
        return f"{self._measure} is {change}{error} on {where}; {self._margin(by):.4g} worse is allowed"


def merging_of(settings: CanaryTable) -> Merging:
    """Return how what devices find becomes one figure."""
    return Merging(max_weight=float(settings.max_weight), trim=settings.trim)
