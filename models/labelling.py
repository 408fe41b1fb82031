"""The label of a window, from those of its rows."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError
from models.pieces import Between, go_on, pieces

LabelRule: TypeAlias = Literal["last", "majority", "any", "mean"]
Doubles: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.int64]

MAX_CLASSES = 1000
"""Labels that a majority is looked for among: beyond it they are values, and there is none."""


def labels_of(  # noqa: PLR0917 - which rule, on what
    rule: LabelRule, share: float, labels: Doubles, first: Places, behind: Places, between: Between = go_on
) -> Doubles:
    """Return a label for each span of rows ``[first, behind)``; NaN where the rule finds none.

    Rows without a label have no say. ``last``: the newest one; ``any``: the largest, so that one row of an event makes
    the window one; ``mean``; ``majority``: the one that more rows have than any other, if that is at least ``share`` of
    the labelled rows. ``between`` is called between bounded pieces of the work.
    """
    known = np.isfinite(labels)
    if not known.any() or not len(first):
        return np.full(len(first), np.nan)
    if rule == "last":
        return _last(labels, known, first, behind)
    if rule == "majority":
        return _majority(share, labels, known, first, behind, between)
    if rule == "any":
        largest = _spans(np.maximum, np.where(known, labels, -np.inf), -np.inf, first, behind, between)
        return np.asarray(np.where(np.isfinite(largest), largest, np.nan))
    count = _counted(known, first, behind)
    total = _spans(np.add, np.where(known, labels, 0.0), 0.0, first, behind, between)
    return np.asarray(np.divide(total, count, out=np.full(len(first), np.nan), where=count > 0))


def _last(labels: Doubles, known: NDArray[np.bool_], first: Places, behind: Places) -> Doubles:
    newest = np.maximum.accumulate(np.where(known, np.arange(len(labels)), -1))
    place = np.where(behind > first, newest[behind - 1], -1)
    return np.where(place >= first, labels[place], np.nan)


def _majority(  # noqa: PLR0917 - as above
    share: float, labels: Doubles, known: NDArray[np.bool_], first: Places, behind: Places, between: Between
) -> Doubles:
    classes = np.unique(labels[known])
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"labels: {len(classes)} different ones, of which a majority is no use (at most {MAX_CLASSES}); "
            "set label = 'last' or 'mean' in [features]"
        )
    most = np.zeros(len(first), np.int64)
    winner = np.full(len(first), np.nan)
    for label in classes:
        between()
        count = _counted(labels == label, first, behind)
        winner = np.where(count == most, np.nan, np.where(count > most, label, winner))
        most = np.maximum(most, count)
    return np.where(most >= share * _counted(known, first, behind), winner, np.nan)


def _counted(chosen: NDArray[np.bool_], first: Places, behind: Places) -> Places:
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(chosen, dtype=np.int64)])
    return np.asarray(sums[behind] - sums[first])


def _spans(  # noqa: PLR0917 - what is done to what
    ufunc: np.ufunc, values: Doubles, neutral: float, first: Places, behind: Places, between: Between
) -> Doubles:
    """Return ``ufunc`` over each span: of its rows alone, so the bits do not depend on what lies around it."""
    padded = np.append(values, neutral)
    found = np.empty(len(first), np.float64)
    # Spans overlap: so many rows are read as they are long together.
    for part in pieces(len(first), values.itemsize * int((behind - first).max()), between):
        borders = np.stack([first[part], behind[part]], axis=1).ravel()
        found[part] = ufunc.reduceat(padded, borders.astype(np.intp, copy=False))[::2]
    return np.where(behind > first, found, neutral)
