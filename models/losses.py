"""Losses, bound to buffers for one batch size: they turn a network's output into the loss by that output, in place."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.parameters import FloatArray, IntArray
from models.spec import NetworkSpec


class BoundLoss(Protocol):
    """A loss for batches of one size."""

    def __call__(self, output: FloatArray, wanted: NDArray[Any]) -> float:
        """Return the mean loss over the batch, and overwrite ``output`` with the gradient of that mean by itself."""


def bind_loss(spec: NetworkSpec, rows: int, class_weights: FloatArray | None = None) -> BoundLoss:
    """Return the loss that the spec names, for batches of ``rows``; ``class_weights`` are of a cross-entropy's."""
    if spec.loss == "cross_entropy":
        if class_weights is not None:
            return _WeightedCrossEntropy(rows, spec.outputs, class_weights)
        return _CrossEntropy(rows, spec.outputs)
    if spec.loss == "huber":
        return _Huber(rows, spec.outputs, spec.huber_delta)
    return _MeanSquaredError(rows, spec.outputs)


def softmax(scores: FloatArray) -> FloatArray:
    """Overwrite ``scores``, shape ``(rows, classes)``, with the probabilities they stand for, and return them."""
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


class _CrossEntropy:
    """Mean of ``log(sum(exp(s))) - s[label]``, with the largest score taken off first so that ``exp`` cannot overflow.

    The gradient is ``(softmax(s) - one_hot(label)) / rows``.
    """

    def __init__(self, rows: int, classes: int) -> None:
        self._rows = rows
        self._share = np.float32(1.0 / rows)
        self._first = np.arange(rows, dtype=np.intp) * classes
        self._index = np.empty(rows, np.intp)
        self._picked = np.empty(rows, np.float32)
        self._peak = np.empty((rows, 1), np.float32)
        self._total = np.empty(rows, np.float32)
        self._total_column = self._total.reshape(rows, 1)
        self._ones = np.ones(classes, np.float32)
        self._rows_ones = np.ones(rows, np.float32)
        self._scale = np.float32(rows)

    def __call__(self, output: FloatArray, wanted: IntArray) -> float:
        np.maximum.reduce(output, axis=1, keepdims=True, out=self._peak)
        np.subtract(output, self._peak, out=output)
        index = np.add(wanted, self._first, out=self._index)
        flat = output.reshape(-1)
        # "clip" spares a buffered copy; labels are known to be in range.
        flat.take(index, out=self._picked, mode="clip")
        np.exp(output, out=output)
        total = np.dot(output, self._ones, out=self._total)
        loss = -float(np.dot(self._picked, self._rows_ones))
        column = np.multiply(self._total_column, self._scale, out=self._peak)
        np.divide(output, column, out=output)
        flat[index] -= self._share
        loss += float(np.dot(np.log(total, out=total), self._rows_ones))
        return loss / self._rows


class _WeightedCrossEntropy:
    """Mean over the rows of ``weight[label]`` times the cross-entropy: divided by the rows, not by their weights.

    PyTorch's ``weight=`` divides by the sum of the batch's weights. Then a batch of one class has the gradient that it
    has without weights, and a device that holds one class alone is not weighted at all. Divided by the rows, an
    average of devices by their numbers of examples is the weighted loss of all examples together.
    """

    def __init__(self, rows: int, classes: int, weights: FloatArray) -> None:
        self._shares = (weights / rows).astype(np.float32)
        self._first = np.arange(rows, dtype=np.intp) * classes
        self._index = np.empty(rows, np.intp)
        self._picked = np.empty(rows, np.float32)
        self._share = np.empty(rows, np.float32)
        self._peak = np.empty((rows, 1), np.float32)
        self._total = np.empty(rows, np.float32)
        self._total_column = self._total.reshape(rows, 1)
        self._share_column = self._share.reshape(rows, 1)
        self._ones = np.ones(classes, np.float32)

    def __call__(self, output: FloatArray, wanted: IntArray) -> float:
        np.maximum.reduce(output, axis=1, keepdims=True, out=self._peak)
        np.subtract(output, self._peak, out=output)
        index = np.add(wanted, self._first, out=self._index)
        flat = output.reshape(-1)
        flat.take(index, out=self._picked, mode="clip")
        share = self._shares.take(wanted.astype(np.intp, copy=False), out=self._share, mode="clip")
        np.exp(output, out=output)
        total = np.dot(output, self._ones, out=self._total)
        column = np.divide(self._share_column, self._total_column, out=self._peak)
        np.multiply(output, column, out=output)
        flat[index] -= share
        np.log(total, out=total)
        return float(np.dot(np.subtract(total, self._picked, out=total), share))


class _MeanSquaredError:
    """Mean of the squared errors over rows and outputs."""

    def __init__(self, rows: int, outputs: int) -> None:
        self._share = 1.0 / (rows * outputs)
        self._slope = np.float32(2.0 * self._share)

    def __call__(self, output: FloatArray, wanted: FloatArray) -> float:
        error = np.subtract(output, wanted, out=output)
        flat = error.reshape(-1)
        loss = float(np.dot(flat, flat)) * self._share
        np.multiply(error, self._slope, out=error)
        return loss


class _Huber:
    """Mean over rows and outputs of Huber's loss (1964): ``e ** 2 / 2`` up to ``delta``, linear beyond.

    With ``c`` the error clipped to ``+-delta`` the loss is ``c * e - c ** 2 / 2`` and its slope ``c``.
    """

    def __init__(self, rows: int, outputs: int, delta: float) -> None:
        self._share = 1.0 / (rows * outputs)
        self._delta = np.float32(delta)
        self._error = np.empty((rows, outputs), np.float32)

    def __call__(self, output: FloatArray, wanted: FloatArray) -> float:
        error = np.subtract(output, wanted, out=self._error)
        clipped = np.minimum(error, self._delta, out=output)
        np.maximum(clipped, -self._delta, out=clipped)
        flat = clipped.reshape(-1)
        loss = float(np.dot(flat, error.reshape(-1))) - 0.5 * float(np.dot(flat, flat))
        np.multiply(clipped, np.float32(self._share), out=clipped)
        return loss * self._share
