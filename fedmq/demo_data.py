"""The demo's task: telling seven shoulder exercises apart from a smartwatch's accelerometer and gyroscope.

Each recording is cut into windows of 2 s that overlap by half, and each window becomes ``FEATURES`` numbers.

Nothing here looks at more than one window at a time: features are brought to a common scale by fixed constants from
physics, not by statistics of the data, because no device could know the statistics of the others (federated statistics
are a subject of their own). So the unseen people stay unseen.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmq.demo_signals import RATE_HZ, load_signals

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Floats: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]

CLASSES = 7
PEOPLE = (1, 2, 3, 4, 5, 6, 7)
"""They wear the devices."""
UNSEEN_PEOPLE = (8, 9, 10)
"""The last three of the study, for no better reason than that: no device holds anything of them."""

WINDOW = 2 * RATE_HZ
STRIDE = WINDOW // 2
CHANNELS = 8
"""Acceleration x, y, z; rotation x, y, z; and the magnitude of each of the two."""
BANDS_HZ = (0.25, 0.75, 1.25, 2.25, 4.25, 8.25, 25.25)
"""Edges of the frequency bands; an exercise is repeated about once in two seconds."""
FEATURES = CHANNELS * (6 + len(BANDS_HZ) - 1)

BRISK_TURN = 3.0
"""Rad/s, an arm that swings briskly: puts rotations on the footing of accelerations, which are recorded in g."""
STEPS_A_TURN = 5.0
"""Puts the mean change from sample to sample on the footing of the other statistics."""
FAINT = 1e-4
"""Power below which a band counts as silent, so that its logarithm has a floor."""
MAX_DEVICES_A_PERSON = 10
"""The shortest recording has some twenty windows on a wrist; with more devices a share would lack whole exercises."""
MAX_DEVICES = MAX_DEVICES_A_PERSON * len(PEOPLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The windows of one person, one exercise and one wrist, in order of time."""

    person: int
    exercise: int
    left: bool
    features: Floats
    """(windows, FEATURES)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Whose windows these are, and what they show: ``x`` (n, FEATURES), ``y`` (n,) from 0 to ``CLASSES`` - 1."""

    name: str
    x: Floats
    y: Labels


def load_recordings() -> list[Recording]:
    """Return the study's 140 recordings as features. Takes about a second; raises ``DemoDataError``."""
    return [
        Recording(
            person=signal.person, exercise=signal.exercise, left=signal.left, features=features_of(signal.measured)
        )
        for signal in load_signals()
    ]


def features_of(signal: NDArray[np.float64]) -> Floats:
    """Return the features (windows, FEATURES) of a signal (samples, 6): three accelerations in g, three turns in rad/s.

    Of each window and channel: mean, standard deviation, minimum, maximum, median, mean absolute change from sample to
    sample, and the logarithm of the power in each band.
    """
    acceleration, turn = signal[:, :3], signal[:, 3:] / BRISK_TURN
    magnitudes = [np.linalg.norm(part, axis=1, keepdims=True) for part in (acceleration, turn)]
    channels = np.concatenate([acceleration, turn, *magnitudes], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(channels, WINDOW, axis=0)[::STRIDE]
    return np.concatenate([*_statistics(windows), *_bands(windows)], axis=1).astype(np.float32)


def people_as_samples(recordings: Iterable[Recording], people: Sequence[int], name: str) -> Samples:
    """Return all windows of these people together."""
    return _samples(name, [(part.features, part.exercise) for part in recordings if part.person in people])


def divide(recordings: Sequence[Recording], devices: int) -> list[Samples]:
    """Return what each of so many devices holds, from 1 to ``MAX_DEVICES``: never a window of two people, none twice.

    Up to seven devices are so many people. With more, people have several watches: first one on each wrist, then each
    recording is cut into pieces of consecutive windows.
    """
    if not 1 <= devices <= MAX_DEVICES:
        raise ValueError(f"{devices} devices; the recordings suffice for 1 to {MAX_DEVICES}")
    people = PEOPLE[:devices]
    fleet: list[Samples] = []
    for place, person in enumerate(people):
        share = devices // len(people) + (place < devices % len(people))
        own = [recording for recording in recordings if recording.person == person]
        fleet += _watches(person, own, share)
    return fleet


def _watches(person: int, own: Sequence[Recording], share: int) -> list[Samples]:
    if share == 1:
        return [_samples(f"watch-{person}", [(part.features, part.exercise) for part in own])]
    watches: list[Samples] = []
    for left, pieces in ((False, share - share // 2), (True, share // 2)):
        for piece in range(pieces):
            parts = [(np.array_split(part.features, pieces)[piece], part.exercise) for part in own if part.left == left]
            watches.append(_samples(f"watch-{person}{chr(ord('a') + len(watches))}", parts))
    return watches


def _samples(name: str, parts: Sequence[tuple[Floats, int]]) -> Samples:
    labels = [np.full(len(features), exercise, dtype=np.int64) for features, exercise in parts]
    return Samples(name=name, x=np.concatenate([features for features, _ in parts]), y=np.concatenate(labels))


def _statistics(windows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    change = np.abs(np.diff(windows, axis=-1)).mean(axis=-1) * STEPS_A_TURN
    lowest, highest = windows.min(axis=-1), windows.max(axis=-1)
    return [windows.mean(axis=-1), windows.std(axis=-1), lowest, highest, np.median(windows, axis=-1), change]


def _bands(windows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    swing = windows - windows.mean(axis=-1, keepdims=True)
    power = 2.0 * np.abs(np.fft.rfft(swing, axis=-1) / WINDOW) ** 2
    hertz = np.fft.rfftfreq(WINDOW, 1.0 / RATE_HZ)
    inside = [(hertz >= low) & (hertz < high) for low, high in itertools.pairwise(BANDS_HZ)]
    # Half the decimal logarithm is that of the amplitude; plus one, it is about 0 for a tenth of g.
    return [0.5 * np.log10(power[..., band].sum(axis=-1) + FAINT) + 1.0 for band in inside]
