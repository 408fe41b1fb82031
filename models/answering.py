"""What a device can say of its examples without showing one: sums that anybody adds, as data, checked on the way in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.data import Dataset
from models.errors import DataError
from models.layers import is_standardize
from models.metrics import ClassificationMetrics, Metrics, ReconstructionMetrics, RegressionMetrics, empty_errors
from models.network import Model
from models.pieces import Between, go_on
from models.sketch import MAX_COUNT, pack, unpack
from models.spec import Task
from models.statistics import FeatureStatistics

if TYPE_CHECKING:
    from models.layers import Standardize

MAX_MEAN: Final = 1e18
"""Of a loss or an error: a model that diverged counts as so bad, and no device makes a sum infinite."""

NO_METRICS: Mapping[Task, Metrics] = {
    "classification": ClassificationMetrics(),
    "regression": RegressionMetrics(),
    "reconstruction": ReconstructionMetrics(),
}

_SUMS: Mapping[Task, tuple[str, ...]] = {
    "classification": ("loss_sum",),
    "regression": ("squared_error_sum", "absolute_error_sum", "loss_sum"),
    "reconstruction": ("error_sum", "loss_sum"),
}

_SUM_NAMES: Mapping[type[Metrics], tuple[str, ...]] = {type(NO_METRICS[task]): names for task, names in _SUMS.items()}


def standardize_of(model: Model) -> Standardize | None:
    """Return the constants that the model begins with, if it does."""
    first = model.layers[0] if model.layers else None
    return first if is_standardize(first) else None


def columns_of(model: Model) -> int:
    """Return of how many columns there are statistics: channels where the model standardizes them, else features."""
    constants = standardize_of(model)
    return model.inputs if constants is None else constants.input_shape[-1]


def classes_of(model: Model) -> int:
    """Return how many classes there are to count; 0 where nothing is classified."""
    return model.outputs if model.task == "classification" else 0


def no_statistics(model: Model) -> FeatureStatistics:
    """Return the statistics of no examples."""
    return FeatureStatistics.none(columns_of(model), classes_of(model))


def statistics_of(model: Model, data: Dataset, between: Between = go_on) -> FeatureStatistics:
    """Return the statistics of a model's examples. Of channels an example has several rows: one for each place."""
    columns, classes = columns_of(model), classes_of(model)
    found = FeatureStatistics.of(data.x.reshape(-1, columns), None, classes, between)
    if not classes:
        return found
    return replace(found, classes=np.bincount(data.y.astype(np.intp, copy=False), minlength=classes).astype(np.int64))


def metrics_to_data(metrics: Metrics) -> dict[str, Any]:
    """Return the sums as data for msgpack: finite, whatever the model made of the examples."""
    data: dict[str, Any] = {"count": metrics.count}
    for name in _SUM_NAMES[type(metrics)]:
        found = float(getattr(metrics, name))
        most = MAX_MEAN * metrics.count
        data[name] = most if math.isnan(found) else min(max(found, 0.0), most)
    if isinstance(metrics, ClassificationMetrics):
        data["correct"] = metrics.correct
    if isinstance(metrics, ReconstructionMetrics):
        data["errors"] = pack(metrics.errors)
    return data


def metrics_from_data(task: Task, data: object) -> Metrics:
    """Return the sums in data from outside, checked against each other; raise ``DataError``."""
    more = {"classification": ("correct",), "reconstruction": ("errors",)}.get(task, ())
    wanted = {"count", *_SUMS[task], *more}
    if not isinstance(data, Mapping) or data.keys() != wanted:
        raise DataError("metrics are no map of " + ", ".join(sorted(wanted)))
    count = _count("count", data["count"], MAX_COUNT)
    sums = {name: _sum(name, data[name], count) for name in _SUMS[task]}
    if task == "classification":
        return ClassificationMetrics(count=count, correct=_count("correct", data["correct"], count), **sums)
    if task == "regression":
        # Cauchy and Schwarz: the mean error is no larger than the root of the mean squared one.
        if sums["absolute_error_sum"] ** 2 > count * sums["squared_error_sum"] * (1 + 1e-6) + 1e-30:
            raise DataError("the absolute errors contradict the squared ones")
        return RegressionMetrics(count=count, **sums)
    errors = unpack(data["errors"], empty_errors().size)
    if int(errors.sum()) != count:
        raise DataError("errors hold another number of examples than are counted")
    return ReconstructionMetrics(count=count, errors=errors, **sums)


def _count(name: str, found: object, most: int) -> int:
    if type(found) is not int or not 0 <= found <= most:
        raise DataError(f"{name} is no whole number from 0 to {most}")
    return found


def _sum(name: str, found: object, count: int) -> float:
    if type(found) is not float or not 0.0 <= found <= MAX_MEAN * count:
        raise DataError(f"{name} is no number from 0 to {MAX_MEAN:g} for each of {count} examples")
    return found
