"""The frame of every benchmark: arguments, rows, verdicts, and the one table (or JSON object) at the end."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Target:
    """A bound from the design on the ratio or on the value itself."""

    bound: float
    at_least: bool = False
    of_ratio: bool = False

    def met(self, row: Row) -> bool:
        """Return whether the row keeps the bound."""
        figure = row.ratio if self.of_ratio else row.value
        assert figure is not None, "a target for a figure that was not measured"
        return figure >= self.bound if self.at_least else figure <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}{'x' if self.of_ratio else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: fedmq's figure, the baseline's in the same run, and what divides them."""

    what: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    """Median over the repetitions of ``value / baseline``, each within one repetition."""
    spread: str = ""
    """Of the ratio over the repetitions; of the value where there is no baseline."""
    target: Target | None = None
    details: dict[str, Any] = field(default_factory=dict)
    """For ``--json`` only."""

    @property
    def verdict(self) -> str:
        """Return ``met`` or ``MISSED``, or nothing where there is no target."""
        if self.target is None:
            return ""
        return "met" if self.target.met(self) else "MISSED"


def paired(
    what: str,
    values: Sequence[float],
    baselines: Sequence[float],
    unit: str,
    *,
    target: Target | None = None,
    details: dict[str, Any] | None = None,
) -> Row:
    """Return the row of repeated measurements: medians, and the ratio taken within each repetition."""
    ratios = [value / baseline for value, baseline in zip(values, baselines, strict=True)]
    return Row(
        what=what,
        value=statistics.median(values),
        baseline=statistics.median(baselines),
        ratio=statistics.median(ratios),
        unit=unit,
        spread=spread(ratios),
        target=target,
        details={"values": list(values), "baselines": list(baselines), **(details or {})},
    )


def spread(figures: Sequence[float]) -> str:
    """Return the range of repeated figures, and how many there were."""
    return f"{min(figures):.3g}..{max(figures):.3g} of {len(figures)}"


def percentiles(figures: Sequence[float]) -> dict[str, float]:
    """Return p10, p50, p90, p99 and the maximum."""
    values = np.percentile(np.asarray(figures), [10, 50, 90, 99, 100])
    return dict(zip(("p10", "p50", "p90", "p99", "max"), (float(v) for v in values), strict=True))


def progress(text: str) -> None:
    """Tell a waiting person what is going on, on the error stream: the output stays clean."""
    print(f"  {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Options:
    """What every benchmark can be told."""

    quick: bool
    repeat: int
    extra: argparse.Namespace


def run(
    name: str,
    about: str,
    measure: Callable[[Options], list[Row]],
    *,
    repeat: int = 3,
    arguments: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Read the arguments, measure, and print one table; with ``--json`` one object."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions: does it work at all?")
    parser.add_argument("--repeat", type=int, help=f"repetitions (default {repeat}; 1 with --quick)")
    if arguments is not None:
        arguments(parser)
    given = parser.parse_args()
    before = os.getloadavg()[0]
    rows = measure(Options(given.quick, given.repeat or (1 if given.quick else repeat), given))
    facts = {**machine(), "load_average_before": round(before, 2)}
    if given.json:
        shown = [{**asdict(row), "target": str(row.target or ""), "verdict": row.verdict} for row in rows]
        print(json.dumps({"benchmark": name, "machine": facts, "rows": shown}))
        return
    print(f"{name}: {about}")
    print(_table(rows))
    print("; ".join(f"{key} {value}" for key, value in facts.items()))


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    versions = {package: metadata.version(package) for package in ("numpy", "paho-mqtt", "msgpack")}
    return {"cores": os.cpu_count(), "processor": _processor(), "python": platform.python_version(), **versions}


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - a line of /proc
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _table(rows: Sequence[Row]) -> str:
    header = ["ratio", "target", "", "what", "fedmq", "baseline", "unit", "spread"]
    lines = [header] + [
        [
            "" if row.ratio is None else f"{row.ratio:.3g}x",
            "" if row.target is None else str(row.target),
            row.verdict,
            row.what,
            figure(row.value),
            "" if row.baseline is None else figure(row.baseline),
            row.unit,
            row.spread,
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def figure(value: float) -> str:
    """Return the number with three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
