"""Drift: whether errors on new examples are larger than those on earlier ones, by the same model.

Each new example gets a conformal p-value: the share of earlier examples of its kind whose error is at least as large
(ties broken at random), computed online, so that it becomes one of the earlier ones for the next (Vovk, Gammerman and
Shafer 2005, chapter 8). While examples are exchangeable these are independent and uniform, whatever the model, the
scale of its errors and their distribution; no version of a model can look like drift by being worse everywhere. Small
ones are bet on by ``f(p) = a p ** (a - 1)`` (Vovk, Nouretdinov and Gammerman 2003), and Page's CUSUM (Page 1954) sums
``log f``: ``evidence = max(0, evidence + log f(p))``. As ``f`` integrates to 1, an alarm at ``log(c)`` is false once in
``c`` examples at the most, in the mean (Lorden 1971, theorem 2; for conformal bets Vovk et al. 2021).

Two such sums are kept: one over all examples, and one for each kind, as one class may do badly where another does
better than ever. Each example counts in two, so both have the bound ``log(2 c)``, and together they keep to ``c``.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.data import Dataset
from models.network import Model
from models.parameters import FloatArray

BET = 0.5
"""``a``: the smaller, the more on the smallest p-values only."""

FEWEST = 16
"""Earlier examples: with fewer nothing is judged."""

FEWEST_OF_A_KIND = 8
"""With fewer earlier ones of its class an example is compared with those of all classes."""

CLEAR_AFTER = 64
"""So many examples of the newest are looked at to see whether the errors are back."""
CLEAR_MEAN = 0.45
"""Of their p-values: without drift around 0.5 with the deviation 0.04. With half as many and 0.4, drift of half a
standard deviation of the errors was over and began anew again and again, as versions did a little better or worse."""

ALL = ""
"""Stands for the kinds together."""
MAX_KINDS = 256
"""With evidence; of more those with the least are forgotten, which raises no alarm."""

LARGEST = 1e18
"""What an error counts as that is infinite or no number."""


@dataclass(slots=True, kw_only=True)
class Evidence:
    """What is known up to now; plain data."""

    evidence: dict[str, float] = field(default_factory=dict)
    """By kind, and of all together; those above 0."""
    drifting: bool = False
    kind: str = ALL
    """Whose errors raised the last alarm."""
    judged: int = 0
    """Examples, ever."""
    alarms: int = 0
    since_alarm: int = 0
    """Examples judged since the last one."""
    recent: list[float] = field(default_factory=list)
    """p-values since then, the newest ``CLEAR_AFTER``."""
    recent_of_kind: list[float] = field(default_factory=list)
    """Those of that kind alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRule:
    """When drift is said, and when it is over."""

    false_alarm_examples: float = 1e5
    """``c``: on average at most one false alarm in so many examples."""
    margin: float = 0.1
    """Errors count as larger when they are so by this share: what is new is always a little worse."""
    relearn_examples: int = 2000
    """After so many examples of drift the new is normal."""

    def judge(
        self,
        known: Evidence,
        earlier: Sequence[tuple[int, float]],
        fresh: Sequence[tuple[int, float]],
        chance: np.random.Generator,
    ) -> bool:
        """Take new examples into the evidence, in their order; both are kinds (classes, or 0) with errors.

        Return whether drift was over: then the rest was not judged, for what is earlier is another matter now.
        ``chance`` breaks ties.
        """
        if len(earlier) < FEWEST:
            return False
        errors: dict[int | None, list[float]] = {None: sorted(error for _, error in earlier)}
        for kind, error in earlier:
            insort(errors.setdefault(kind, []), error)
        for kind, found in fresh:
            error = found / (1.0 + self.margin)
            alike = errors.setdefault(kind, [])
            p = p_value(alike if len(alike) >= FEWEST_OF_A_KIND else errors[None], error, float(chance.random()))
            known.judged += 1
            if not known.drifting:
                insort(alike, error)
                insort(errors[None], error)
                self._suspect(known, str(kind), p)
            elif self._is_over(known, str(kind), p):
                return True
        return False

    def _suspect(self, known: Evidence, kind: str, p: float) -> None:
        won = math.log(BET) + (BET - 1.0) * math.log(p)
        for whose in (ALL, kind):
            found = known.evidence.pop(whose, 0.0) + won
            if found >= math.log(2.0 * self.false_alarm_examples):
                known.drifting, known.kind, known.alarms = True, whose, known.alarms + 1
                known.since_alarm, known.recent, known.recent_of_kind, known.evidence = 0, [], [], {}
                return
            if found > 0.0:
                known.evidence[whose] = found
        if len(known.evidence) > MAX_KINDS:
            del known.evidence[min(known.evidence, key=known.evidence.__getitem__)]

    def _is_over(self, known: Evidence, kind: str, p: float) -> bool:
        # Of all kinds as well: while one recovers, a model that adapts may do badly with another.
        known.since_alarm += 1
        known.recent = [*known.recent, p][-CLEAR_AFTER:]
        if known.kind in {ALL, kind}:
            known.recent_of_kind = [*known.recent_of_kind, p][-CLEAR_AFTER:]
        back = _are_back(known.recent) and _are_back(known.recent_of_kind)
        if back or known.since_alarm >= self.relearn_examples:
            known.drifting, known.recent, known.recent_of_kind = False, [], []
        return not known.drifting


def _are_back(found: Sequence[float]) -> bool:
    return len(found) == CLEAR_AFTER and sum(found) >= CLEAR_MEAN * CLEAR_AFTER


def p_value(earlier: Sequence[float], error: float, chance: float) -> float:
    """Return the smoothed conformal p-value of an error among sorted earlier ones: in ``(0, 1]``."""
    below, upto = bisect_left(earlier, error), bisect_right(earlier, error)
    larger, same = len(earlier) - upto, upto - below + 1
    return (larger + max(chance, 1e-6) * same) / (len(earlier) + 1)


def errors_of(model: Model, parameters: FloatArray, data: Dataset) -> NDArray[np.float64]:
    """Return the error of each example, ``(n,)``, at least 0: cross entropy, or the mean of its squared errors."""
    if model.task == "reconstruction":
        found = model.errors(parameters, data.x).astype(np.float64)
    elif model.task == "classification":
        chosen = model.predict(parameters, data.x)[np.arange(len(data)), data.y].astype(np.float64)
        with np.errstate(all="ignore"):
            found = -np.log(np.maximum(chosen, 1e-30))
    else:
        with np.errstate(all="ignore"):
            found = ((model.predict(parameters, data.x).astype(np.float64) - data.y) ** 2).mean(axis=1)
    return np.clip(np.nan_to_num(found, nan=LARGEST, posinf=LARGEST), 0.0, LARGEST)


def kinds_of(model: Model, data: Dataset) -> list[int]:
    """Return the kind of each example: its class, so that more of a difficult class is no drift; else 0."""
    return [int(label) for label in data.y] if model.task == "classification" else [0] * len(data)
