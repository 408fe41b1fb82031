"""The open buffer: a weighted sum of deltas, kept in float64 and folded in one fixed order.

Why float64 in journal order, and not fixed point: replaying the journal repeats the same additions on the same
numbers, so a restart gives the same bits; and no bound on the values has to be known beforehand. Two orders of arrival
may differ in the last bits of float64, far below what float32 parameters keep.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]


class Contribution(Struct, frozen=True, kw_only=True):
    """One accepted update in a buffer, without its numbers: a line of a version's lineage."""

    device_id: str
    incarnation: str
    sequence: int
    base_version: int
    staleness: int
    """In versions, at the moment of acceptance."""
    num_examples: int
    num_steps: int
    weight: float
    """``num_examples * s(staleness)``."""
    update_bytes: int
    metrics: dict[str, float]
    clip: float = 1.0
    """What the delta was multiplied with because it was too long; 1 = nothing."""


class WeightedSum:
    """``sum_i w_i delta_i`` and ``sum_i w_i``. Sums combine with ``+``; an empty one changes nothing."""

    def __init__(self, size: int) -> None:
        self.total: Vector = np.zeros(size)
        self.weight = 0.0
        self._scratch: Vector = np.empty(size)

    def fold(self, delta: NDArray[np.float32], weight: float, clip: float = 1.0) -> None:
        """Add one delta (float32, of the sum's size), shortened by ``clip``, with a positive weight."""
        # dtype: without it NumPy 1.x would multiply in float32.
        np.multiply(delta, weight * clip, out=self._scratch, dtype=np.float64)
        self.total += self._scratch
        self.weight += weight

    def mean(self) -> Vector:
        """Return the weighted mean; raise ``ValueError`` for an empty sum."""
        if self.weight <= 0.0:
            raise ValueError("the mean of no updates")
        return self.total / self.weight

    def __add__(self, other: WeightedSum) -> WeightedSum:
        both = WeightedSum(self.total.size)
        np.add(self.total, other.total, out=both.total)
        both.weight = self.weight + other.weight
        return both


class Buffer:
    """The updates that will make the next version."""

    def __init__(self, size: int) -> None:
        self.sum = WeightedSum(size)
        self.contributions: list[Contribution] = []
        self._per_device: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.contributions)

    def add(self, contribution: Contribution, delta: NDArray[np.float32]) -> None:
        """Fold one accepted update in."""
        self.sum.fold(delta, contribution.weight, contribution.clip)
        self.contributions.append(contribution)
        self._per_device[contribution.device_id] = self.of_device(contribution.device_id) + 1

    def of_device(self, device_id: str) -> int:
        """Return how many updates of this device are in the buffer."""
        return self._per_device.get(device_id, 0)

    def mean_staleness_weight(self) -> float:
        """Return the mean of ``s(tau)`` over the examples: total weight over total examples."""
        return self.sum.weight / sum(c.num_examples for c in self.contributions)
