"""The data: windows of a smartwatch's sensors, exercises that the backbone learns, and others that the fleet learns.

Seven exercises of ten people, 50 Hz, as the package seglearn ships them (see ``fedmq.demo_signals``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmq.demo_data import STRIDE, WINDOW, features_of
from fedmq.demo_signals import RATE_HZ, load_signals

if TYPE_CHECKING:
    from collections.abc import Sequence

EXERCISES = 7
PEOPLE = (1, 2, 3, 4, 5, 6, 7)
"""Each wears a device."""
UNSEEN_PEOPLE = (8, 9, 10)
"""Nobody has anything of them: neither the backbone nor a device. They judge."""
CHANNELS = 6
_FOOTING = np.array([1, 1, 1, 1 / 3, 1 / 3, 1 / 3])
"""Brings turns in rad/s to the size of accelerations in g: a constant of physics, not of these data."""
SECONDS = WINDOW / RATE_HZ


@dataclass(frozen=True)
class Windows:
    """The same windows twice: as they were measured, and as features that people thought of."""

    raw: NDArray[np.float32]
    """(n, WINDOW * CHANNELS)"""
    made: NDArray[np.float32]
    """(n, FEATURES)"""
    y: NDArray[np.int64]
    """The exercise's place among those asked for."""

    def rows(self, chosen: NDArray[np.intp]) -> Windows:
        """Return some of them."""
        return Windows(self.raw[chosen], self.made[chosen], self.y[chosen])


def windows(people: Sequence[int], exercises: Sequence[int]) -> Windows:
    """Return all windows of these people at these exercises; raise ``DemoDataError`` when the package is missing."""
    raw: list[NDArray[np.float32]] = []
    made: list[NDArray[np.float32]] = []
    labels: list[int] = []
    for signal in load_signals():
        if signal.person not in people or signal.exercise not in exercises:
            continue
        cut = np.lib.stride_tricks.sliding_window_view(signal.measured, WINDOW, axis=0)[::STRIDE]
        raw.append((cut.transpose(0, 2, 1) * _FOOTING).reshape(len(cut), -1).astype(np.float32))
        made.append(features_of(signal.measured))
        labels += [exercises.index(signal.exercise)] * len(cut)
    return Windows(np.concatenate(raw), np.concatenate(made), np.array(labels, np.int64))


def few(found: Windows, each: int, rng: np.random.Generator) -> Windows:
    """Return so many windows of each exercise."""
    chosen = [rng.choice(np.flatnonzero(found.y == label), each, replace=False) for label in np.unique(found.y)]
    return found.rows(np.concatenate(chosen))
