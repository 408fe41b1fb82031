"""What a demo came to, and as one JSON object for programs; ``panel`` has it for people. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedmq.aftermath import Aftermath

if TYPE_CHECKING:
    from fedmq.audit import AggregatorBooks, Verdict
    from fedmq.baseline import Baseline, Score
    from fedmq.demo_task import Task
    from fedmq.foretold import Foretold
    from fedmq.strangers import Knock

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """How a secure run was guarded, and against whom."""

    tls: str
    """The version that the broker agreed on."""
    strangers: int
    """Who were sent to the broker."""
    knocks: tuple[Knock, ...]
    """What came of it, as far as there was an answer."""

    @property
    def refused(self) -> int:
        """Strangers whom the broker refused."""
        return sum(knock.refused for knock in self.knocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that the summary tells."""

    task: Task
    baseline: Baseline
    verdict: Verdict
    aggregator: AggregatorBooks
    devices: int
    fleet_s: float
    """From the first process to the last order."""
    wall_s: float
    broker: str
    kills: dict[str, int] = field(default_factory=dict)
    """SIGKILLs by target; empty without chaos."""
    chaos: bool = False
    interrupted: bool = False
    stubborn: tuple[str, ...] = ()
    """Processes that did not end when asked."""
    guarded: Guarded | None = None
    """None: in the clear."""
    foretold: Foretold | None = None
    """None: nobody predicted."""
    aftermath: Aftermath = field(default_factory=Aftermath)

    @property
    def versions(self) -> int:
        """Versions made by the fleet: the untrained one is not counted."""
        return max(0, len(self.aggregator.versions) - 1)

    @property
    def float32_bytes(self) -> int:
        """An update as plain float32, without any envelope."""
        return self.aggregator.parameters * FLOAT32_BYTES

    @property
    def good(self) -> bool:
        """Whether the run shows what it should."""
        return self.verdict.holds and not self.stubborn and self._safe and (self.versions > 0 or self.interrupted)

    @property
    def _safe(self) -> bool:
        if self.guarded is None:
            return True
        strangers, answers = self.guarded.strangers, len(self.guarded.knocks)
        # Who ended the run early did not wait for the broker's answers.
        return self.guarded.refused == (answers if self.interrupted else max(1, strangers))


def as_values(outcome: Outcome) -> dict[str, Any]:
    """Return the object that ``--json`` prints."""
    verdict, books = outcome.verdict, outcome.aggregator
    found: dict[str, Any] = {
        "task": outcome.task.name,
        **_scores(outcome),
        "versions": outcome.versions,
        "updates_sent": verdict.created,
        "updates_accepted": verdict.taken_in,
        "updates_folded": verdict.folded,
        "update_bytes": books.update_bytes,
        "update_bytes_float32": outcome.float32_bytes,
        "wall_s": round(outcome.wall_s, 1),
        "broker": outcome.broker,
        "faults": list(verdict.faults),
        "secure": outcome.guarded is not None,
    }
    if outcome.guarded:
        guarded = outcome.guarded
        found |= {"tls": guarded.tls, "strangers": guarded.strangers, "strangers_refused": guarded.refused}
    if outcome.foretold:
        told = outcome.foretold
        found |= {"predictions": told.made, "predictions_judged": told.judged, "predictions_right": told.right}
    found |= _aftermath(outcome.aftermath)
    return {**found, "kills": outcome.kills} if outcome.chaos else found


def _scores(outcome: Outcome) -> dict[str, Any]:
    baseline = outcome.baseline
    found: list[tuple[str, Score | None]] = [("device_alone_", baseline.alone_mean), ("central_", baseline.central)]
    if outcome.task.labelled:
        scores = {f"{whose}accuracy": _rounded(score.right if score else None) for whose, score in found}
        return {"accuracy": _rounded(outcome.aggregator.accuracy), **scores}
    threshold = outcome.aftermath.threshold
    values: dict[str, Any] = {"threshold": threshold.value if threshold else None}
    for whose, score in [("", outcome.aftermath.score), *found]:
        values[f"{whose}detected"] = _rounded(score.right if score else None)
        values[f"{whose}false_alarms"] = _rounded(score.false if score else None)
    return values


def _aftermath(after: Aftermath) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for whose, figures in after.own.items():
        spread = {"mean": figures.mean, "lowest_tenth": figures.tenth, "worst": figures.worst}
        found[f"own_accuracy_{whose}"] = {name: _rounded(value) for name, value in spread.items()}
    if after.ported:
        found["tflite"] = after.ported.by
        for file in after.ported.files:
            about = {"bytes": file.size_bytes, "agreement": _rounded(file.agreement), "difference": file.difference}
            found[f"tflite_{file.weights}"] = about
    return found


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
