"""The demo's recordings: a smartwatch's accelerometer and gyroscope during seven shoulder exercises.

10 people, 7 exercises, the watch on either wrist, 50 Hz. Shipped by the BSD-licensed package seglearn; the study is
Burns et al., 2018, https://arxiv.org/abs/1802.01489.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 50

_RECORDINGS = "data/watch_dataset.npy"
_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"


class DemoDataError(Exception):
    """The recordings are missing or are not the ones we know; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What one watch measured on one wrist of one person during one exercise."""

    person: int
    exercise: int
    left: bool
    measured: NDArray[np.float64]
    """(samples, 6): three accelerations in g, three turns in rad/s."""


def load_signals() -> list[Signal]:
    """Return the study's 140 recordings; raises ``DemoDataError``."""
    data = _checked_bytes(_path_of_recordings())
    # A pickle runs what it likes, so nothing but the one file we know, by its digest, is ever unpickled.
    study: dict[str, Any] = np.load(io.BytesIO(data), allow_pickle=True).item()
    columns = zip(study["subject"], study["y"], study["side"], study["X"], strict=True)
    signals = [
        Signal(person=int(person), exercise=int(exercise), left=not side, measured=measured)
        for person, exercise, side, measured in columns
    ]
    return sorted(signals, key=lambda signal: (signal.person, signal.left, signal.exercise))


def _path_of_recordings() -> Path:
    # Not imported: seglearn imports scikit-learn and SciPy, which takes seconds and which the demo has no use for.
    package = importlib.util.find_spec("seglearn")
    if package is None or not package.submodule_search_locations:
        raise DemoDataError("the demo's recordings are in the package seglearn: pip install 'fedmq[demo]'")
    return Path(package.submodule_search_locations[0]) / _RECORDINGS


def _checked_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise DemoDataError(f"cannot read the demo's recordings: {exc}") from exc
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise DemoDataError(f"{path} is not the file of seglearn 1.2.5 (its SHA-256 differs); it was left unopened")
    return data
