from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models import DataError, Dataset, build

CLASSES = build({"kind": "softmax", "inputs": 2, "outputs": 3})
VALUES = build({"kind": "linear", "inputs": 2, "outputs": 1})
PAIRS = build({"kind": "linear", "inputs": 2, "outputs": 2})
X = np.zeros((2, 2), np.float32)


def test_right_arrays_are_taken_as_they_are() -> None:
    y = np.array([0, 2], np.int64)
    data = Dataset.for_model(CLASSES, X, y)
    assert np.shares_memory(data.x, X)
    assert np.shares_memory(data.y, y)
    assert len(data) == 2


@pytest.mark.parametrize("y", [[0, 2], [0.0, 2.0], np.array([0, 2], np.uint8), np.array([False, True])])
def test_labels_may_come_in_any_type_of_whole_numbers(y: Any) -> None:
    data = Dataset.for_model(CLASSES, [[1, 2], [3, 4]], y)
    assert data.y.dtype == np.int64
    assert data.x.dtype == np.float32
    np.testing.assert_array_equal(data.y, np.asarray(y, dtype=np.int64))


def test_values_of_one_output_may_be_a_vector() -> None:
    data = Dataset.for_model(VALUES, X, [1.5, 2.5])
    assert data.y.dtype == np.float32
    np.testing.assert_array_equal(data.y, [[1.5], [2.5]])
    assert Dataset.for_model(PAIRS, X, X).y.shape == (2, 2)


def test_subsets_keep_examples_together() -> None:
    data = Dataset.for_model(VALUES, [[1, 1], [2, 2], [3, 3]], [1, 2, 3])
    np.testing.assert_array_equal(data.subset(np.array([2, 0])).x[:, 0], data.subset(np.array([2, 0])).y[:, 0])
    assert len(data.subset(slice(0, 1))) == 1


NAN, INF = float("nan"), float("inf")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("model", "x", "y", "words"),
    [
        (CLASSES, [[1, 2, 3]], [0], r"x has shape \(1, 3\), allowed is \(n, 2\)"),
        (CLASSES, [1, 2], [0], r"x has shape \(2,\)"),
        (CLASSES, X, [0], "x has 2 rows and y has 1"),
        (CLASSES, [[0, 0], [0, NAN]], [0, 1], "x is nan in row 1, column 1"),
        (CLASSES, [[0, 0], [-INF, 0]], [0, 1], "x is -inf in row 1, column 0"),
        (CLASSES, [[0, 0], [0, 1e39]], [0, 1], r"x is 1e\+39 in row 1, column 1"),
        (CLASSES, X, [0, 3], "y is 3 in row 1: allowed are whole numbers from 0 to 2"),
        (CLASSES, X, [-1, 0], "y is -1 in row 0"),
        (CLASSES, X, [0, 0.5], "y is 0.5 in row 1"),
        (CLASSES, X, [0, NAN], "y is nan in row 1"),
        (CLASSES, X, [1e300, 0], r"y is 1e\+300 in row 0"),
        (CLASSES, X, [[0], [1]], r"y has shape \(2, 1\), allowed is \(n,\)"),
        (CLASSES, X, ["a", "b"], "y is an array of <U1, allowed are real numbers"),
        (CLASSES, X, [None, 1], "y is an array of object"),
        (CLASSES, X, [1j, 0], "y is an array of complex128"),
        (CLASSES, [[1, 2], [3]], [0, 1], "x is no array"),
        (VALUES, X, [[1, 2], [3, 4]], r"y has shape \(2, 2\), allowed is \(n, 1\)"),
        (VALUES, X, [0, INF], "y is inf in row 1, column 0"),
        (PAIRS, X, [1, 2], r"y has shape \(2, 1\), allowed is \(n, 2\)"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(model: Any, x: Any, y: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Dataset.for_model(model, x, y)
