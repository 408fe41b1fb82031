"""Windows once more, one at a time and as docs/features.md tells it: what the fast ones are compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models import Pipeline, Series

NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A window that a series has room for."""

    start: float
    end: float
    values: NDArray[np.float64]
    """``(window, channels)``, not filled."""
    ahead: NDArray[np.float64]
    labels: list[float]


def windows(pipeline: Pipeline, series: Series, until: float = -math.inf) -> list[Found]:
    """Return all windows, before any is dropped for what is missing in it."""
    ahead = pipeline.forecast_steps if pipeline.target == "next" else 0
    if pipeline.every_s:
        return _of_steps(pipeline, series, ahead, until)
    return _of_rows(pipeline, series, ahead)


def _of_rows(pipeline: Pipeline, series: Series, ahead: int) -> list[Found]:
    found = []
    values = _columns(pipeline, series)
    for row in range(len(series) - pipeline.window - ahead + 1):
        number = int(series.ids[row])
        if row == 0:
            begins = number % pipeline.stride == 0
        else:
            begins = number // pipeline.stride != int(series.ids[row - 1]) // pipeline.stride
        behind = row + pipeline.window + ahead
        together = all(b - a <= pipeline.max_gap_s for a, b in pairwise(series.times[row:behind]))
        if begins and together:
            end = row + pipeline.window
            found.append(
                Found(
                    start=series.times[row],
                    end=series.times[end - 1],
                    values=values[row:end],
                    ahead=values[end:behind],
                    labels=series.labels[row:end].tolist(),
                )
            )
    return found


def _of_steps(pipeline: Pipeline, series: Series, ahead: int, until: float) -> list[Found]:
    found: list[Found] = []
    values, every_s = _columns(pipeline, series), pipeline.every_s
    if not len(series):
        return found
    final = max(until, series.times[-1])
    low, high = math.floor(series.times[0] / every_s) - 1, math.ceil(final / every_s) + 1
    for first in range(low, high):
        steps = range(first, first + pipeline.window + ahead)
        if first % pipeline.stride or not _together(pipeline, series, steps, final):
            continue
        held = np.array([_held(pipeline, series, values, step * every_s) for step in steps])
        start, end = first * every_s, (first + pipeline.window - 1) * every_s
        inside = (series.times > (first - 1) * every_s) & (series.times <= end)
        found.append(
            Found(
                start=start,
                end=end,
                values=held[: pipeline.window],
                ahead=held[pipeline.window :],
                labels=series.labels[inside].tolist(),
            )
        )
    return found


def _together(pipeline: Pipeline, series: Series, steps: range, final: float) -> bool:
    begin, end = steps[0] * pipeline.every_s, steps[-1] * pipeline.every_s
    if end >= final or not begin - series.times[0] > pipeline.max_hold_s:
        return False
    gaps = [(a, b) for a, b in pairwise(series.times) if b - a > pipeline.max_gap_s]
    quiet = [(a + pipeline.max_gap_s, b) for a, b in gaps] + [(series.times[-1] + pipeline.max_gap_s, math.inf)]
    in_quiet = any(a < step * pipeline.every_s < b for step in steps for a, b in quiet)
    across = any(begin < b <= end for _, b in gaps)
    return not in_quiet and not across


def _held(pipeline: Pipeline, series: Series, values: NDArray[np.float64], moment: float) -> list[float]:
    held = []
    for column in values.T:
        heard = [
            (time, value)
            for time, value in zip(series.times, column, strict=True)
            if time <= moment and math.isfinite(value)
        ]
        fresh = heard and moment - heard[-1][0] <= pipeline.max_hold_s
        held.append(heard[-1][1] if fresh else NAN)
    return held


def _columns(pipeline: Pipeline, series: Series) -> NDArray[np.float64]:
    picked = series.values[:, [series.channels.index(name) for name in pipeline.channels]]
    return np.where(np.isfinite(picked), picked, np.nan).astype(np.float64)


def kept(pipeline: Pipeline, found: Found) -> bool:
    """Return whether enough is there."""
    missing = np.isnan(found.values)
    if pipeline.fill != "value" and missing.all(axis=0).any():
        return False
    most = missing.mean(axis=0).max(initial=0.0)
    targets = found.ahead[:, [pipeline.channels.index(name) for name in pipeline.forecast_channels]]
    return bool(most <= pipeline.max_missing + 1e-9 and not np.isnan(targets).any())


def filled(pipeline: Pipeline, found: Found) -> NDArray[np.float64]:
    """Return the values with their gaps filled."""
    values = found.values.copy()
    for column in values.T:
        there = np.flatnonzero(~np.isnan(column))
        for place in np.flatnonzero(np.isnan(column)):
            before, after = there[there < place], there[there > place]
            if pipeline.fill == "value":
                column[place] = pipeline.fill_value
            elif len(before) and (pipeline.fill == "hold" or not len(after)):
                column[place] = column[before[-1]]
            elif not len(before):
                column[place] = column[after[0]]
            else:
                a, b = before[-1], after[0]
                column[place] = column[a] + (column[b] - column[a]) * (place - a) / (b - a)
    return values


def label(pipeline: Pipeline, found: Found) -> float:
    """Return the window's label by the rule, NaN where there is none."""
    known = [entry for entry in found.labels if math.isfinite(entry)]
    if not known:
        return NAN
    if pipeline.label == "majority":
        counts = {entry: known.count(entry) for entry in known}
        most = max(counts.values())
        winners = [entry for entry, count in counts.items() if count == most]
        return winners[0] if len(winners) == 1 and most >= pipeline.label_share * len(known) else NAN
    return {"last": known[-1], "any": max(known), "mean": math.fsum(known) / len(known)}[pipeline.label]
