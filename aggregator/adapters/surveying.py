"""What the answers to a survey say: plain data, for people and scripts."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from aggregator.adapters.registry import Registry
from aggregator.adapters.survey_rows import compared
from aggregator.canary import merging_of
from aggregator.configuration import CanaryTable
from aggregator.records import Answer
from models import FeaturesError, Model, Pipeline
from models.answering import classes_of, columns_of, metrics_from_data
from models.comparison import MEASURES, Comparison, Merging
from models.statistics import FeatureStatistics

SHARES = {"p01": 0.01, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99}
WORST_SHARE = 10.0
"""Percent: so many of the devices are worse than the figure of that name."""


def survey_report(registry: Registry, survey: str, canary: CanaryTable | None = None) -> dict[str, Any]:
    """Return the survey with all that its answers say; raise ``NotKept`` when there is none of that name.

    ``canary`` says how comparisons are merged.
    """
    line = registry.survey(survey)
    model = registry.model()
    answers = registry.answers(line.id)
    data = registry.survey_total(line.id)
    found: dict[str, Any] = {"survey": msgspec.to_builtins(line), "versions": _versions(answers)}
    if line.kind == "statistics":
        columns = columns_of(model)
        total = FeatureStatistics.from_data(data, columns, classes_of(model))
        return found | _statistics(total, _names(registry.features(), columns))
    if line.kind == "comparison":
        told = Comparison.from_data(model.task, data, compared(answers))
        return found | _comparison(told, merging_of(canary or CanaryTable()))
    return found | _evaluation(model, data, answers)


def _versions(answers: list[Answer]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for answer in sorted(answers, key=lambda answer: answer.version):
        counts[str(answer.version)] = counts.get(str(answer.version), 0) + 1
    return counts


def _names(features: dict[str, Any], columns: int) -> tuple[str, ...]:
    """Return what the pipeline calls the columns; nothing where there is none."""
    try:
        return Pipeline.from_data(features).columns(columns) if features else ()
    except FeaturesError:  # of another fedmq
        return ()


def _statistics(total: FeatureStatistics, names: tuple[str, ...]) -> dict[str, Any]:
    deviation = total.deviation
    features = []
    for column in range(len(total.present)):
        there = bool(total.present[column])
        quantiles = zip(SHARES, total.quantiles(column, list(SHARES.values())), strict=True)
        features.append(
            {
                "feature": column,
                "name": names[column] if names else str(column),
                "present": int(total.present[column]),
                "missing": total.rows - int(total.present[column]),
                "mean": float(total.mean[column]) if there else None,
                "deviation": float(deviation[column]) if there else None,
                "minimum": float(total.minimum[column]) if there else None,
                "maximum": float(total.maximum[column]) if there else None,
                **{name: value if there else None for name, value in quantiles},
            }
        )
    return {"rows": total.rows, "features": features, "classes": total.classes.tolist()}


def _evaluation(model: Model, data: object, answers: list[Answer]) -> dict[str, Any]:
    total = metrics_from_data(model.task, data)
    told = [answer for answer in answers if answer.figures]
    names = list(total.summary())
    return {
        "examples": total.count,
        "overall": total.summary(),
        "devices": {name: _spread(name, [answer.figures[name] for answer in told]) for name in names},
        "worst": {name: _worst(name, told) for name in names},
    }


def _comparison(total: Comparison, merging: Merging) -> dict[str, Any]:
    by = {name: total.by(name, merging) for name in MEASURES[total.task]} if total.devices else {}
    return {
        "examples": total.first.count,
        "current": {name: found.first for name, found in by.items()},
        "candidate": {name: found.second for name, found in by.items()},
        "worse": {
            name: {"mean": found.mean, "error": found.error if math.isfinite(found.error) else None}
            for name, found in by.items()
        },
        "left_out_at_each_end": max((found.trimmed for found in by.values()), default=0),
    }


def _spread(name: str, values: list[float]) -> dict[str, float]:
    # Of an accuracy the low ones are the bad ones, of losses and errors the high ones.
    share = WORST_SHARE if _is_good(name) else 100.0 - WORST_SHARE
    return {
        "mean": float(np.mean(values)),
        "p10": float(np.percentile(values, share)),
        "worst": min(values) if _is_good(name) else max(values),
    }


def _worst(name: str, told: list[Answer]) -> str:
    pick = min if _is_good(name) else max
    return pick(told, key=lambda answer: answer.figures[name]).device_id


def _is_good(name: str) -> bool:
    return name == "accuracy"
