"""How surveys and what was answered look on a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aggregator.adapters.survey_rows import SurveyLine

MAX_FEATURES = 200
"""So many features have lines of their own; all are in the JSON."""


def surveys_table(lines: Sequence[SurveyLine]) -> RenderableType:
    """Return the surveys, oldest first."""
    if not lines:
        return Text("nothing was asked yet; ask with: fedmq-aggregator survey statistics (or evaluation)")
    table = _table("survey", "kind", "share", "asked", "state", "devices", "examples")
    for line in lines:
        state = "open" if line.closed is None else "closed"
        when = time.strftime("%m-%d %H:%M", time.localtime(line.opened))
        devices = str(line.devices) if line.devices == line.with_examples else f"{line.devices} ({line.with_examples})"
        table.add_row(line.id, line.kind, f"{line.fraction:g}", when, state, devices, f"{line.examples:,}")
    return table


def report_table(found: Mapping[str, Any]) -> RenderableType:
    """Return what the answers to a survey say."""
    line = found["survey"]
    state = "open" if line["closed"] is None else "closed"
    head = Text(
        f"survey {line['id']}, {line['kind']}, {state}: {line['devices']} devices answered, "
        f"{line['with_examples']} of them with {line['examples']:,} examples"
    )
    versions = ", ".join(f"{version} ({count})" for version, count in found["versions"].items())
    parts: list[RenderableType] = [head, Text(f"with version (devices): {versions or 'none'}"), Text()]
    parts += {"statistics": _statistics, "evaluation": _evaluation, "comparison": _comparison}[line["kind"]](found)
    return Group(*parts)


def _statistics(found: Mapping[str, Any]) -> list[RenderableType]:
    names = ("mean", "deviation", "minimum", "p10", "p50", "p90", "maximum")
    # A short word for the deviation: nine columns are as many as 80 characters hold.
    table = _table("feature", *("std" if name == "deviation" else name for name in names), "missing")
    for feature in found["features"][:MAX_FEATURES]:
        table.add_row(feature["name"], *(_number(feature[name]) for name in names), f"{feature['missing']:,}")
    parts: list[RenderableType] = [table]
    more = len(found["features"]) - MAX_FEATURES
    if more > 0:
        parts.append(Text(f"and {more:,} more: see --json", style="dim"))
    if found["classes"]:
        counts = ", ".join(f"{number}: {count:,}" for number, count in enumerate(found["classes"]))
        parts += [Text(), Text(f"examples by class: {counts}")]
    return parts


def _evaluation(found: Mapping[str, Any]) -> list[RenderableType]:
    if not found["overall"]:
        return [Text("no device had examples to measure on, so far")]
    table = _table("", "overall", "mean of devices", "10th percentile", "worst", "of device")
    for name, value in found["overall"].items():
        spread = found["devices"][name]
        figures = (value, spread["mean"], spread["p10"], spread["worst"])
        table.add_row(name, *map(_number, figures), found["worst"][name])
    return [table, Text("10th percentile: one device in ten is worse", style="dim")]


def _comparison(found: Mapping[str, Any]) -> list[RenderableType]:
    if not found["current"]:
        return [Text("no device had examples to compare on, so far")]
    table = _table("", "current", "candidate", "worse by", "+-")
    for name, by in found["worse"].items():
        figures = (found["current"][name], found["candidate"][name], by["mean"], by["error"])
        table.add_row(name, *map(_number, figures))
    left_out = found["left_out_at_each_end"]
    without = f" without the {left_out} outermost at each end" if left_out else ""
    note = f"means over devices{without}; worse with its standard error"
    return [table, Text(note, style="dim")]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if not position else "right", no_wrap=not position, overflow="fold")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
