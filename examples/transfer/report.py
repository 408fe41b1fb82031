"""The comparison as text."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeAlias

from federation import Outcome
from ways import Way

from models import build

Run: TypeAlias = list[tuple[Way, Outcome]]


@dataclass(frozen=True)
class Line:
    """One way in the table: means over the runs."""

    name: str
    parameters: int
    accuracies: list[float]
    update_bytes: float
    training_s: float
    """The median."""


def lines_of(runs: list[Run]) -> list[Line]:
    """Return the table's lines, in the order of the ways."""
    found = []
    for same in zip(*runs, strict=True):
        way, outcomes = same[0][0], [outcome for _, outcome in same]
        found.append(
            Line(
                way.name,
                build(way.model).layout.size,
                [fmean(of_one) for of_one in zip(*(one.accuracies for one in outcomes), strict=True)],
                fmean(one.update_bytes for one in outcomes),
                median(seconds for one in outcomes for seconds in one.training_s),
            )
        )
    return found


def table(lines: list[Line]) -> str:
    """Return the comparison as text."""
    versions = len(lines[0].accuracies)
    shown = sorted({at for at in (1, 3, 10) if at < versions} | {versions})
    text = [
        f"{'':26}" + "".join(f"{f'v{at}':>7}" for at in shown) + f"{'parameters':>12}{'update':>10}{'training':>11}"
    ]
    for line in lines:
        accuracies = "".join(f"{line.accuracies[at - 1]:7.3f}" for at in shown)
        cost = f"{line.parameters:>12,}{line.update_bytes:>8,.0f} B{1000 * line.training_s:>8.1f} ms"
        text.append(f"{line.name:26}{accuracies}{cost}")
    return "\n".join(text)


def gain(lines: list[Line]) -> str:
    """Return in a sentence what the backbone is good for, and what not."""
    backbone, plain, nothing = lines[:3]
    over_plain, over_nothing = (100 * (backbone.accuracies[-1] - other.accuracies[-1]) for other in (plain, nothing))
    sent, took = nothing.update_bytes / backbone.update_bytes, nothing.training_s / backbone.training_s
    return (
        f"In the end the head on the backbone is {over_plain:+.1f} points from the head on raw windows,\n"
        f"and {over_nothing:+.1f} from the CNN, which sends {sent:.0f} times the bytes, "
        f"and trains {took:.0f} times as long."
    )


def observed(outcome: Outcome) -> str:
    """Return how often the backbone really ran, says each device: once a window, however many trainings there were."""
    figures = outcome.figures.values()
    ran, had, trainings = (
        _range([getattr(one, name) for one in figures]) for name in ("embeddings_computed", "num_examples", "trainings")
    )
    return (
        f"Each device ran the backbone {ran} times, for {had} windows and {trainings} trainings: embeddings are kept."
    )


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"
