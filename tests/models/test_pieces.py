"""Long work goes in bounded pieces, with a call between them, and comes to the same."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from models import Dataset, Pipeline, Series, Standardization, build
from models import pieces as cutting
from models.answering import statistics_of
from models.labelling import labels_of
from models.pieces import chosen, pieces
from models.windows import BLOCK_VALUES

RNG = np.random.default_rng(4)
CLASSES = build({"kind": "softmax", "inputs": 3, "outputs": 4})


class _EnoughError(Exception):
    pass


class Calls:
    """Counts, and raises with the call after so many."""

    def __init__(self, most: int = 10**9) -> None:
        self.count = 0
        self._most = most

    def __call__(self) -> None:
        self.count += 1
        if self.count > self._most:
            raise _EnoughError


def test_pieces_cover_all_rows_once_and_none_is_larger_than_allowed() -> None:
    calls = Calls()
    found = list(pieces(10_000_001, 40, calls))
    assert (found[0].start, found[-1].stop) == (0, 10_000_001)
    assert all(one.stop == following.start for one, following in pairwise(found))
    assert max(40 * (part.stop - part.start) for part in found) <= cutting.PIECE_BYTES
    assert calls.count == len(found)
    assert list(pieces(0, 40)) == []
    assert list(pieces(2, 10**9)) == [slice(0, 1), slice(1, 2)], "a row is not cut"


def test_chosen_rows_are_those_of_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "PIECE_BYTES", 100)
    array, mask = RNG.normal(size=(300, 3)), RNG.random(300) < 0.3
    np.testing.assert_array_equal(chosen(array, mask), array[mask])
    assert chosen(array, np.zeros(300, np.bool_)).shape == (0, 3)


def _series() -> Series:
    times = np.arange(4000) / 10.0
    values = RNG.normal(size=(4000, 1)).astype(np.float32)
    return Series(times, values, np.floor(times / 7.0) % 3, ("a",))


def _pipeline(**changes: Any) -> Pipeline:
    declared = {"channels": ["a"], "max_gap_s": 5.0, "window": 16, "stride": 1, "compute": ["mean", "deviation", "rms"]}
    return Pipeline.from_data(declared | changes)


SERIES = _series()
X, Y = RNG.normal(size=(2000, 3)), RNG.integers(0, 4, 2000)
FIRST = np.arange(3000)

WORK: dict[str, tuple[Callable[[Calls], Any], int]] = {
    # The work, and how often it has to ask at least with pieces of 1,000 bytes.
    "checking, from float64": (lambda calls: Dataset.for_model(CLASSES, X, Y.astype(float), calls).x, 24 + 16),
    "checking, as it is": (lambda calls: Dataset.for_model(CLASSES, X.astype(np.float32), Y, calls).y, 24 + 16),
    "splitting": (lambda calls: Dataset.for_model(CLASSES, X, Y).parted(Y > 1, calls).x, 24 + 16),
    "constants": (lambda calls: Standardization.of(X.astype(np.float32), calls).mean, 1),
    "statistics": (
        lambda calls: statistics_of(CLASSES, Dataset.for_model(CLASSES, np.tile(X, (5, 1)), np.tile(Y, 5)), calls).mean,
        3,
    ),
    "windows": (lambda calls: _pipeline().windows(SERIES, between=calls).x, 1),
    "windows on a grid": (
        lambda calls: _pipeline(every_s=0.1, max_hold_s=1.0, window=160).windows(SERIES, between=calls).x,
        10,
    ),
    "labels, largest": (lambda calls: labels_of("any", 0.5, SERIES.labels, FIRST, FIRST + 100, calls), 3000),
    "labels, mean": (lambda calls: labels_of("mean", 0.5, SERIES.labels, FIRST, FIRST + 100, calls), 3000),
    "labels, most": (lambda calls: labels_of("majority", 0.5, SERIES.labels, FIRST, FIRST + 100, calls), 3),
}


@pytest.mark.parametrize("name", WORK)
def test_one_is_asked_between_pieces_and_the_result_does_not_depend_on_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, least = WORK[name]
    wanted = work(Calls())
    monkeypatch.setattr(cutting, "PIECE_BYTES", 1000)
    calls = Calls()
    np.testing.assert_array_equal(work(calls), wanted)
    assert calls.count >= least
    for most in {0, calls.count // 2, calls.count - 1}:
        with pytest.raises(_EnoughError):
            work(Calls(most))


def test_a_fault_is_named_by_its_row_wherever_the_pieces_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "PIECE_BYTES", 1000)
    x, y = X.copy(), Y.copy()
    x[1234, 1], y[1777] = np.nan, 4
    with pytest.raises(ValueError, match=r"x is nan in row 1234, column 1: not a finite float32"):
        Dataset.for_model(CLASSES, x, y)
    with pytest.raises(ValueError, match=r"y is 4 in row 1777: allowed are whole numbers from 0 to 3"):
        Dataset.for_model(CLASSES, X, y)


def test_every_piece_of_many_rows_is_bounded_for_windows() -> None:
    """However many windows there are: each call is followed by a block of so many values at most."""
    calls = Calls()
    found = _pipeline(window=1000).windows(SERIES, between=calls)
    assert calls.count >= len(found) * 1000 // BLOCK_VALUES
