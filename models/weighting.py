"""What an example of each class should count, so that rare classes are learned beside frequent ones.

Weights have mean 1 over the examples that were counted: the loss, the gradient and the learning rate keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import numpy as np

WeightingName: TypeAlias = Literal["none", "balanced", "effective"]

MAX_CLASS_WEIGHT: Final = 10.0
"""Times the least weight: a few wrong labels of a class that hardly occurs must not lead the training."""

EFFECTIVE_BETA: Final = 0.999
"""Of the effective number: a class of a thousand examples or more gets little new from each further one."""

_DIGITS = 6


def class_weights(
    counts: Sequence[int], method: WeightingName, *, most: float = MAX_CLASS_WEIGHT, beta: float = EFFECTIVE_BETA
) -> list[float]:
    """Return a weight for each class, of which ``counts`` says how many examples there are, to six digits.

    ``balanced``: in proportion to ``1 / n_c``, so that classes count alike (King and Zeng 2001). ``effective``: to
    ``(1 - beta) / (1 - beta ** n_c)``, one over the effective number of examples (Cui et al. 2019), ``beta`` from 0 to
    below 1. None is above ``most`` times the least. A class that nobody has gets 1: no example bears it. ``none``, or
    no examples at all: all 1.
    """
    found = np.asarray(counts, np.float64)
    there = found > 0
    if method == "none" or not there.any():
        return [1.0] * len(found)
    occurring = np.where(there, found, 1.0)
    # expm1: 1 - beta ** n loses its digits where beta is nearly 1.
    wanted = 1.0 / occurring if method == "balanced" else (1.0 - beta) / -np.expm1(occurring * _log(beta))
    wanted = np.minimum(wanted, most * wanted[there].min())
    mean = float((wanted * found).sum() / found.sum())
    weights = np.where(there, wanted / mean, 1.0)
    return [float(f"{weight:.{_DIGITS}g}") for weight in weights]


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0.0 else -math.inf
