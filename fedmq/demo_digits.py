"""The demo's second task: telling ten handwritten digits apart, where every device has only three kinds of them.

1,797 images of 8 x 8 pixels, shipped by the BSD-licensed package scikit-learn; they are the test set of Alpaydin and
Kaynak's "Optical Recognition of Handwritten Digits" (1998). A fifth of them no device has.
"""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedmq.demo_data import Samples
from fedmq.demo_signals import DemoDataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

SIDE = 8
DIGITS = 10
BRIGHTEST = 16.0
IMAGES = 1797
UNSEEN = IMAGES // 5
"""Nobody's, and what the federation is judged by."""
KINDS = 3
"""Digits that a device knows."""
APART = (0, 1, 3)
"""A device's digits, from its own place on: each of the ten is as common as the others, and no two of ten agree."""
MAX_DEVICES = 30
"""With more a device would be left with some forty images."""

_FILE = "datasets/data/digits.csv.gz"


def load_digits() -> Samples:
    """Return all images, shuffled, each a row of pixels from 0 to 1, line by line; raise ``DemoDataError``."""
    # Not imported: scikit-learn takes a second, and all that is wanted of it is one of its files.
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DemoDataError("the demo's digits are in the package scikit-learn: pip install 'fedmq[demo]'")
    path = Path(package.submodule_search_locations[0]) / _FILE
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    except (OSError, EOFError, ValueError, zlib.error) as exc:
        raise DemoDataError(f"cannot read the demo's digits: {path}: {exc}") from exc
    if table.shape != (IMAGES, SIDE * SIDE + 1):
        raise DemoDataError(f"{path} is not the file of digits that we know: its shape is {table.shape}")
    table = table[np.random.default_rng(0).permutation(IMAGES)]
    return Samples(name="digits", x=table[:, :-1] / np.float32(BRIGHTEST), y=table[:, -1].astype(np.int64))


def divide(digits: Samples, devices: int) -> tuple[list[Samples], Samples]:
    """Return what each of so many devices (1 to ``MAX_DEVICES``) holds, and what nobody does, no image twice."""
    if not 1 <= devices <= MAX_DEVICES:
        raise ValueError(f"{devices} devices; the digits suffice for 1 to {MAX_DEVICES}")
    unseen = Samples(name="unseen", x=digits.x[:UNSEEN], y=digits.y[:UNSEEN])
    x, y = digits.x[UNSEEN:], digits.y[UNSEEN:]
    # As if there were ten at least: a lone device has three digits as well, and not all images of them.
    places = max(devices, DIGITS)
    rows: list[list[np.ndarray[Any, Any]]] = [[] for _ in range(places)]
    for digit in range(DIGITS):
        holders = [place for place in range(places) if digit in kinds_of(place)]
        for place, part in zip(holders, np.array_split(np.flatnonzero(y == digit), len(holders)), strict=True):
            rows[place].append(part)
    fleet = []
    for place, parts in enumerate(rows[:devices]):
        own = np.sort(np.concatenate(parts))
        fleet.append(Samples(name=f"camera-{place + 1}", x=x[own], y=y[own]))
    return fleet, unseen


def kinds_of(place: int) -> Sequence[int]:
    """Return which digits the device at this place has."""
    return [(place + apart) % DIGITS for apart in APART]
