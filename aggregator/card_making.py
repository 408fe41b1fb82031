"""From what the store holds of a version to its card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aggregator.buffer import Contribution
from aggregator.card import (
    Card,
    Contents,
    Evaluation,
    Export,
    Hashes,
    Lineage,
    Measurements,
    Share,
    Sizes,
    Tried,
    Withheld,
    when,
)
from aggregator.records import Aggregation, Answer, Outcome
from aggregator.spreads import held_out, spread
from protocol.messages import BlobRef, DeltaRef

MAX_SHARES = 100
"""So many devices are named in a card; it lies beside every export, and fleets are large."""

_MEANS = frozenset({"accuracy", "loss", "mse", "mae", "error"})
"""Figures that are means over examples, so that devices' figures have a mean over all examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedEvaluation:
    """An evaluation survey, with the answers of devices that held the card's version."""

    survey: str
    opened: float
    closed: float | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSources:
    """What the store says of a version, all of one moment."""

    federation: str
    epoch: str
    version: int
    newest: int
    kind: str
    created: float
    digest: str
    metrics: Mapping[str, float]
    num_updates: int
    total_weight: float
    step_norm: float
    rolled_back_to: int | None
    has_parameters: bool
    blob: BlobRef
    delta: DeltaRef | None
    before: int | None
    """The version before it, if it is known."""
    aggregation: Aggregation | None
    """The buffer that ended with it, with its updates; None for a first version, or when no longer kept."""
    withheld: Sequence[Aggregation] = ()
    """Candidates that were made from its parent, and withheld or withdrawn."""
    trained_from: Sequence[Contribution] = ()
    """Updates that were trained from it, in the order of their acceptance."""
    withdrawn: Sequence[tuple[int, int]] = ()
    evaluations: Sequence[AskedEvaluation] = ()
    terms: Mapping[str, Any] | None = None
    model: Mapping[str, Any]
    """See ``Card``."""
    statistics: Mapping[str, Any] | None = None
    """See ``Card.data``."""
    no_statistics: str = ""
    """Why there are none, where that is not for want of asking."""
    exports: Sequence[Export] = ()
    drifting: Sequence[str] = ()


def card_of(sources: CardSources) -> Card:
    """Return the card of a version."""
    surveys = [_evaluation(asked) for asked in sources.evaluations if asked.answers]
    measured = Measurements(aggregator=dict(sources.metrics), held_out=held_out(sources.trained_from), surveys=surveys)
    return Card(
        federation=sources.federation,
        epoch=sources.epoch,
        version=sources.version,
        kind=sources.kind,
        created=when(sources.created),
        parameters_kept=sources.has_parameters,
        lineage=_lineage(sources),
        model=dict(sources.model),
        terms=dict(sources.terms or {}),
        measured=measured,
        data=dict(sources.statistics or {}),
        size=_sizes(sources),
        hashes=Hashes(
            parameters=sources.digest,
            blob=sources.blob.digest,
            delta=sources.delta.blob.digest if sources.delta else "",
        ),
        exports=list(sources.exports),
        drifting=list(sources.drifting),
        missing=_missing(sources, measured),
    )


def _lineage(sources: CardSources) -> Lineage:
    ended = sources.aggregation
    by = next((last + 1 for first, last in sources.withdrawn if first <= sources.version <= last), None)
    state = "current" if sources.version == sources.newest else "superseded" if by is None else "withdrawn"
    used = ended is not None and ended.outcome == "published" and bool(ended.lineage)
    return Lineage(
        parent=ended.base_version if ended else sources.before,
        parameters_of=sources.rolled_back_to,
        state=state,
        withdrawn_by=by,
        withheld_before=_not_published(sources, "withheld"),
        withdrawn_before=_not_published(sources, "withdrawn"),
        tried=_tried(ended) if ended else None,
        set_aside=len(ended.lineage) if ended and ended.outcome == "set-aside" else 0,
        made_of=_contents(sources, ended.lineage) if used and ended else None,
    )


def _not_published(sources: CardSources, outcome: Outcome) -> list[Withheld]:
    return [
        Withheld(when=when(each.created), reason=each.reason, updates=len(each.lineage))
        for each in sources.withheld
        if each.outcome == outcome
    ]


def _tried(ended: Aggregation) -> Tried | None:
    if ended.outcome != "published" or not ended.reason:  # only a verdict on a candidate gives one
        return None
    figures = {
        name: value for name, value in ended.metrics.items() if name in {"worse", "margin"} or name.startswith("fleet_")
    }
    return Tried(why=ended.reason, devices=int(ended.metrics.get("devices", 0)), figures=figures)


def _contents(sources: CardSources, lineage: Sequence[Contribution]) -> Contents:
    whole = sum(each.weight for each in lineage) or 1.0
    staleness = Counter(each.staleness for each in lineage)
    weights: Counter[int] = Counter()
    for each in lineage:
        weights[each.staleness] += each.weight / whole  # type: ignore[assignment] # a Counter adds floats as well
    shares = _shares(lineage, whole)
    return Contents(
        updates=len(lineage),
        devices=len(shares),
        examples=sum(each.num_examples for each in lineage),
        steps=sum(each.num_steps for each in lineage),
        weight=sources.total_weight,
        step_norm=sources.step_norm,
        clipped=sum(each.clip < 1.0 for each in lineage),
        staleness={str(age): staleness[age] for age in sorted(staleness)},
        weight_by_staleness={str(age): float(weights[age]) for age in sorted(weights)},
        heaviest=shares[:MAX_SHARES],
        more_devices=max(0, len(shares) - MAX_SHARES),
    )


def _shares(lineage: Sequence[Contribution], whole: float) -> list[Share]:
    by_device: dict[str, list[Contribution]] = {}
    for each in lineage:
        by_device.setdefault(each.device_id, []).append(each)
    shares = [
        Share(
            device=device,
            updates=len(given),
            examples=sum(each.num_examples for each in given),
            weight_share=sum(each.weight for each in given) / whole,
            staleness=max(each.staleness for each in given),
        )
        for device, given in by_device.items()
    ]
    return sorted(shares, key=lambda share: (-share.weight_share, share.device))


def _evaluation(asked: AskedEvaluation) -> Evaluation:
    told = [answer for answer in asked.answers if answer.figures]
    names = [name for name in (told[0].figures if told else {}) if all(name in answer.figures for answer in told)]
    figures = [spread("global", name, {answer.device_id: answer.figures[name] for answer in told}) for name in names]
    examples = sum(answer.examples for answer in told)
    overall = {
        name: sum(answer.examples * answer.figures[name] for answer in told) / examples
        for name in names
        if name in _MEANS and examples
    }
    return Evaluation(
        survey=asked.survey,
        asked=when(asked.opened),
        open=asked.closed is None,
        answered=len(asked.answers),
        devices=len(told),
        examples=examples,
        overall=overall,
        figures=figures,
    )


def _sizes(sources: CardSources) -> Sizes:
    count = sources.model.get("count")
    ended = sources.aggregation
    sent = [each.update_bytes for each in ended.lineage] if ended and ended.outcome == "published" else []
    delta = sources.delta.blob if sources.delta else None
    return Sizes(
        parameters=count,
        parameter_bytes=None if count is None else 4 * count,
        blob_bytes=sources.blob.total_bytes,
        blob_encoding=sources.blob.encoding,
        delta_bytes=delta.total_bytes if delta else None,
        delta_encoding=delta.encoding if delta else "",
        update_bytes=sum(sent) if sent else None,
        mean_update_bytes=sum(sent) / len(sent) if sent else None,
    )


def _missing(sources: CardSources, measured: Measurements) -> dict[str, str]:
    number = sources.version
    asked = "`fedmq-aggregator survey evaluation` asks devices that hold it"
    if number != sources.newest:
        asked = "devices hold a newer version by now"
    there = {
        "parameters": sources.has_parameters,
        "terms": bool(sources.terms),
        "model": bool(sources.model),
        "lineage.made_of": sources.kind != "aggregate" or (sources.aggregation is not None),
        "measured.aggregator": bool(measured.aggregator),
        "measured.held_out": bool(measured.held_out),
        "measured.surveys": bool(measured.surveys),
        "data": bool(sources.statistics),
        "exports": bool(sources.exports),
    }
    why = {
        "parameters": "no longer kept (registry.keep_parameters): no export, no rollback",
        "terms": "not noted: the version is from before fedmq kept them",
        "model": "the store does not say of which model it is",
        "lineage.made_of": "no longer kept (registry.keep_lineage)",
        "measured.aggregator": "the aggregator had no data of its own: [evaluation] path",
        "measured.held_out": "no device that holds out examples has trained from it, so far",
        "measured.surveys": f"no device was asked about it, or none has answered; {asked}",
        "data": sources.no_statistics or "no statistics were asked: `fedmq-aggregator survey statistics`",
        "exports": f"no file was made of it: `fedmq-aggregator export {number} --to model.tflite`",
    }
    if not sources.has_parameters:
        why["exports"] = "no file was made of it while its parameters were kept"
    return {part: why[part] for part, is_there in there.items() if not is_there}
