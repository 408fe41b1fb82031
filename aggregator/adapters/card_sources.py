"""What a card is made of, read from the store and from the log of exports in one go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aggregator.adapters.card_rows import CardRows
from aggregator.adapters.exports import ExportLog
from aggregator.adapters.registry import NotKept, Registry, open_registry
from aggregator.adapters.survey_rows import SurveyLine
from aggregator.adapters.surveying import survey_report
from aggregator.card import Card, when
from aggregator.card_making import AskedEvaluation, CardSources, card_of
from models import DataError, FeaturesError, Pipeline, SpecError


def card_in(state_dir: Path, version: int | None = None) -> Card:
    """Return the card of a version, of the newest without a number; raise ``NotKept`` or ``StoreError``."""
    with open_registry(state_dir) as registry, registry.one_moment():
        sources = _sources(registry, ExportLog(state_dir), version)
    return card_of(sources)


def _sources(registry: Registry, exports: ExportLog, version: int | None) -> CardSources:
    newest = registry.versions(newest=1)[0].version
    number = newest if version is None else version
    lineage = registry.lineage(number)
    line = lineage.line
    rows: CardRows = registry.card_rows(number)
    federation, epoch = registry.identity()
    statistics, no_statistics = _statistics(registry, line.created, rows.terms)
    return CardSources(
        federation=federation,
        epoch=epoch,
        version=number,
        newest=newest,
        kind=line.kind,
        created=line.created,
        digest=line.digest,
        metrics=line.metrics,
        num_updates=line.num_updates,
        total_weight=line.total_weight,
        step_norm=line.step_norm,
        rolled_back_to=line.rolled_back_to,
        has_parameters=line.has_parameters,
        blob=rows.blob,
        delta=rows.delta,
        before=rows.before,
        aggregation=rows.aggregation,
        withheld=rows.withheld,
        trained_from=rows.trained_from,
        withdrawn=rows.withdrawn,
        evaluations=_evaluations(registry, number),
        terms=rows.terms,
        model=_model(registry, rows.terms["model"] if rows.terms else registry.spec()),
        statistics=statistics,
        no_statistics=no_statistics,
        exports=exports.of_version(epoch, number),
        drifting=registry.drifting() if number == newest else (),
    )


def _model(registry: Registry, spec: Mapping[str, Any]) -> dict[str, Any]:
    try:
        layout = registry.model(spec).layout
    except (SpecError, NotKept):  # of another fedmq, or file: there is nothing to say of it
        return {}
    parameters = [{"name": name, "shape": list(shape)} for name, shape in layout.entries]
    return {"spec": dict(spec), "layout": layout.digest, "count": layout.size, "parameters": parameters}


def _evaluations(registry: Registry, version: int) -> list[AskedEvaluation]:
    found = []
    for line in registry.surveys():
        if line.kind == "evaluation":
            answers = tuple(answer for answer in registry.answers(line.id) if answer.version == version)
            found.append(AskedEvaluation(survey=line.id, opened=line.opened, closed=line.closed, answers=answers))
    return found


def _statistics(
    registry: Registry, created: float, terms: Mapping[str, Any] | None
) -> tuple[dict[str, Any] | None, str]:
    """Return the statistics that describe a version best, or why there are none although they were asked for."""
    asked = [line for line in registry.surveys() if line.kind == "statistics"]
    answered = [line for line in asked if line.with_examples]
    if not answered:
        return None, "statistics were asked, but no device with examples has answered" if asked else ""
    before = [line for line in answered if line.opened <= created]
    line = before[-1] if before else answered[0]
    try:
        report = survey_report(registry, line.id)
    except (DataError, SpecError, NotKept):
        return None, f"the statistics of survey {line.id} are of another model"
    names = _feature_names(terms, len(report["features"]))
    features = [{"name": name, **each} for name, each in zip(names, report["features"], strict=True)]
    return _head(line, created) | {"rows": report["rows"], "classes": report["classes"], "features": features}, ""


def _head(line: SurveyLine, created: float) -> dict[str, Any]:
    return {
        "survey": line.id,
        "asked": when(line.opened),
        "open": line.closed is None,
        "before": line.opened <= created,
        "devices": line.devices,
        "with_examples": line.with_examples,
        "examples": line.examples,
    }


def _feature_names(terms: Mapping[str, Any] | None, columns: int) -> list[str]:
    """Return what the pipeline calls the columns, or their numbers."""
    try:
        names = Pipeline.from_data(terms["features"]).columns(columns) if terms and terms["features"] else ()
    except FeaturesError:
        names = ()
    return list(names) or [str(column) for column in range(columns)]
