"""The trimmed mean of what devices say, which no few of them can move far; and how sure it is. Pure float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_TRIMMED = 3
"""Of fewer values none stands out: whoever trims them has nothing left, or decides by chance."""

MEDIANS = 2.0
"""No device weighs more than so many times the median device: weights are claimed too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedMean:
    """A weighted mean without the largest and the smallest values."""

    mean: float
    error: float
    """Standard error; infinite for a single value."""
    trimmed: int
    """So many values were left out at each end."""


def trimmed_count(values: int, share: float) -> int:
    """Return how many of so many values are left out at each end: a share, at least one of three or more; 0 for 0."""
    if share <= 0.0 or values < LEAST_TRIMMED:
        return 0
    return min(max(1, math.floor(share * values)), (values - 1) // 2)


def bounded_weights(weights: Sequence[float], most: float) -> NDArray[np.float64]:
    """Return the weights, none above ``most`` nor above ``MEDIANS`` times the (lower) median one."""
    found = np.minimum(np.asarray(weights, np.float64), most)
    if not found.size:
        return found
    lower_median = float(np.sort(found)[(found.size - 1) // 2])
    return np.minimum(found, MEDIANS * lower_median)


def trimmed_mean(values: Sequence[float], weights: NDArray[np.float64], share: float) -> TrimmedMean:
    """Return the mean of the values without ``trimmed_count`` of them at each end; raise ``ValueError`` without any.

    With ``k`` of ``m`` values left out at each end, the mean of the others by their weights. As many as ``k`` that lie
    leave it between the smallest and the largest true value, whatever they say and whatever they weigh (Yin et al.,
    "Byzantine-Robust Distributed Learning", 2018). Its standard error is that of the Winsorized values, in which each
    one left out is replaced by the nearest one kept, divided by ``1 - 2k/m`` (Tukey and McLaughlin, 1963); weights come
    in as in that of a weighted mean (Cochran, "Sampling Techniques", 1977), which it is for ``k = 0``. Where one value
    is left, of which nothing can be known, it is that of all: three that agree are sure, three with a liar are not.
    """
    found = np.asarray(values, np.float64)
    if not found.size:
        raise ValueError("the mean of no values")
    # By value, then by weight: the same for every order in which they came.
    order = np.lexsort((weights, found))
    found, weights = found[order], weights[order]
    count, cut = found.size, trimmed_count(found.size, share)
    kept = slice(cut, count - cut)
    mean = float(np.average(found[kept], weights=weights[kept]))
    return TrimmedMean(mean=mean, error=_error(found, weights, cut), trimmed=cut)


def _error(ordered: NDArray[np.float64], weights: NDArray[np.float64], cut: int) -> float:
    count = ordered.size
    if count == 1:
        return math.inf
    if count - 2 * cut == 1:
        cut = 0
    winsorized = np.clip(ordered, ordered[cut], ordered[count - 1 - cut])
    away = winsorized - np.average(winsorized, weights=weights)
    squares = float(((weights * away) ** 2).sum()) * count / (count - 1)
    return math.sqrt(squares) / float(weights.sum()) / (1.0 - 2.0 * cut / count)
