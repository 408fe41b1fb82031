"""Examples in the form that training reads them, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.errors import DataError
from models.parameters import FloatArray, IntArray
from models.pieces import Between, chosen, go_on, pieces
from models.spec import Task

_NUMBERS = "biuf"
_LARGEST_LABEL = 2.0**31
"""Beyond what float64 labels can be compared with exactly, and beyond any number of classes."""


class Shaped(Protocol):
    """What of a model decides which examples fit it."""

    @property
    def inputs(self) -> int:
        """Width of an example."""

    @property
    def outputs(self) -> int:
        """Classes, or values per example."""

    @property
    def task(self) -> Task:
        """Classes or values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleShape:
    """Which samples fit where something else than a model decides that, as a backbone before it does (``Shaped``)."""

    inputs: int
    outputs: int
    task: Task


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Examples ``x``, float32 ``(n, inputs)``, with ``y``: int64 ``(n,)`` labels or float32 ``(n, outputs)`` values.

    For reconstruction ``y`` is ``x`` itself. Make one with ``for_model``: training relies on what it checks.
    """

    x: FloatArray
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def for_model(cls, model: Shaped, x: ArrayLike, y: ArrayLike | None = None, between: Between = go_on) -> Dataset:
        """Return the examples if they fit the model, else raise ``DataError`` naming row and column.

        Labels may come as floats that are whole numbers (CSV files know no other); values of a single output as
        ``(n,)``. Arrays that are already right are not copied. No examples at all is a legal data set. Where the task
        is reconstruction, ``y`` is ``x``, whatever labels there are. ``between`` is called between bounded pieces.
        """
        features = _matrix("x", _numbers("x", x), model.inputs, between)
        if model.task == "reconstruction":
            return cls(features, features)
        if y is None:
            raise DataError(f"y is missing: {model.task} needs it")
        if model.task == "classification":
            targets: NDArray[Any] = _labels(_numbers("y", y), model.outputs, between)
        else:
            values = _numbers("y", y)
            targets = _matrix("y", values.reshape(-1, 1) if values.ndim == 1 else values, model.outputs, between)
        if len(features) != len(targets):
            raise DataError(f"x has {len(features)} rows and y has {len(targets)}")
        return cls(features, targets)

    @staticmethod
    def features(inputs: int, x: ArrayLike) -> FloatArray:
        """Return the features alone, if they are so many, as ``for_model`` does."""
        return _matrix("x", _numbers("x", x), inputs)

    def subset(self, rows: NDArray[np.intp] | slice) -> Dataset:
        """Return the examples in ``rows`` (views where ``rows`` is a slice)."""
        return Dataset(self.x[rows], self.y[rows])

    def parted(self, mask: NDArray[np.bool_], between: Between = go_on) -> Dataset:
        """Return copies of the examples of which the mask says so, made in bounded pieces."""
        x = chosen(self.x, mask, between)
        return Dataset(x, x if self.y is self.x else chosen(self.y, mask, between))


def _numbers(name: str, values: ArrayLike) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as exc:
        raise DataError(f"{name} is no array: {exc}") from exc
    if array.dtype.kind not in _NUMBERS:
        raise DataError(f"{name} is an array of {array.dtype}, allowed are real numbers")
    return array


def _matrix(name: str, values: NDArray[Any], width: int, between: Between = go_on) -> FloatArray:
    if values.ndim != 2 or values.shape[1] != width:  # noqa: PLR2004 - rows and columns
        raise DataError(f"{name} has shape {values.shape}, allowed is (n, {width})")
    right = values.dtype == np.float32 and values.flags.c_contiguous
    matrix = values if right else np.empty(values.shape, np.float32)
    for part in pieces(len(values), 4 * width, between):
        rows = matrix[part]
        if not right:
            with np.errstate(over="ignore"):
                rows[...] = values[part]
        finite = np.isfinite(rows)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise DataError(
                f"{name} is {values[part][row, column]} in row {part.start + row}, column {column}: "
                "not a finite float32"
            )
    return matrix


def _labels(values: NDArray[Any], classes: int, between: Between) -> IntArray:
    if values.ndim != 1:
        raise DataError(f"y has shape {values.shape}, allowed is (n,)")
    right = values.dtype == np.int64 and values.flags.c_contiguous
    labels = values if right else np.empty(values.shape, np.int64)
    for part in pieces(len(values), 8, between):
        found = values[part]
        # NaN fails both comparisons, and a float is cast only when it is in range.
        in_range = (found >= 0) & (found <= min(classes - 1, _LARGEST_LABEL))
        wrong = ~in_range
        if values.dtype.kind == "f":
            wrong |= found != np.floor(found)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"y is {found[row]} in row {part.start + row}: allowed are whole numbers from 0 to {classes - 1}"
            )
        if not right:
            labels[part] = found
    return labels
