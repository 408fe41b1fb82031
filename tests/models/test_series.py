"""Rows of sensors: what they may look like, checked once."""

from __future__ import annotations

import numpy as np
import pytest

from models import DataError, Series

NAN = float("nan")


def series(times: list[float], **changed: object) -> Series:
    rows = len(times)
    parts = {
        "times": np.array(times, np.float64),
        "values": np.zeros((rows, 2), np.float32),
        "labels": np.full(rows, NAN),
        "channels": ("a", "b"),
    }
    return Series(**(parts | changed))  # type: ignore[arg-type]


def test_rows_may_share_a_moment_and_there_may_be_none() -> None:
    assert len(series([1.0, 1.0, 2.0])) == 3
    assert len(series([])) == 0


def test_rows_are_numbered_from_zero_unless_told() -> None:
    assert series([1.0, 2.0]).ids.tolist() == [0, 1]
    assert series([1.0, 2.0], ids=np.array([7, 9], np.int64)).ids.tolist() == [7, 9]


def test_a_tail_keeps_times_and_numbers() -> None:
    tail = series([1.0, 2.0, 3.0], ids=np.array([4, 5, 6], np.int64)).tail(1)

    assert (tail.times.tolist(), tail.ids.tolist(), tail.channels) == ([2.0, 3.0], [5, 6], ("a", "b"))


@pytest.mark.parametrize("times", [[2.0, 1.0], [1.0, NAN], [NAN], [np.inf], [1.0, np.inf], [-np.inf, 1.0]])
def test_times_are_finite_and_do_not_decrease(times: list[float]) -> None:
    with pytest.raises(DataError, match="time"):
        series(times)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": np.zeros((2, 2))}, r"values is float64 of shape \(2, 2\), allowed is float32"),
        ({"values": np.zeros((2, 3), np.float32)}, r"allowed is float32 of shape \(2, 2\)"),
        ({"values": [[1.0, 2.0]]}, "values is list"),
        ({"labels": np.zeros(3)}, r"labels is float64 of shape \(3,\)"),
        ({"ids": np.array([3, 3], np.int64)}, "ids do not grow"),
        ({"ids": np.array([3.0, 4.0])}, "ids is float64"),
        ({"channels": ("a", "a")}, "occurs twice"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changed: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        series([1.0, 2.0], **changed)
