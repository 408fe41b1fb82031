"""Figures about predictions, as sums: those of two parts of a data set combine with ``+`` to those of the whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.sketch import LARGEST, Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationMetrics:
    """Sums over ``count`` examples; ``ClassificationMetrics()`` is the neutral element of ``+``."""

    count: int = 0
    correct: int = 0
    """Examples whose most probable class is the right one (the first of equals)."""
    loss_sum: float = 0.0
    """Of the data alone, without an L2 penalty."""

    def __add__(self, other: ClassificationMetrics) -> ClassificationMetrics:
        return ClassificationMetrics(
            count=self.count + other.count,
            correct=self.correct + other.correct,
            loss_sum=self.loss_sum + other.loss_sum,
        )

    def summary(self) -> dict[str, float]:
        """Return ``accuracy`` (0 to 1) and ``loss``, means over the examples; nothing when there are none."""
        if not self.count:
            return {}
        return {"accuracy": self.correct / self.count, "loss": self.loss_sum / self.count}


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionMetrics:
    """Sums over ``count`` examples of what is a mean over an example's outputs; ``RegressionMetrics()`` is neutral."""

    count: int = 0
    squared_error_sum: float = 0.0
    absolute_error_sum: float = 0.0
    loss_sum: float = 0.0
    """Of the data alone, without an L2 penalty."""

    def __add__(self, other: RegressionMetrics) -> RegressionMetrics:
        return RegressionMetrics(
            count=self.count + other.count,
            squared_error_sum=self.squared_error_sum + other.squared_error_sum,
            absolute_error_sum=self.absolute_error_sum + other.absolute_error_sum,
            loss_sum=self.loss_sum + other.loss_sum,
        )

    def summary(self) -> dict[str, float]:
        """Return ``mse``, ``mae`` and ``loss``, means over the examples; nothing when there are none."""
        if not self.count:
            return {}
        return {
            "mse": self.squared_error_sum / self.count,
            "mae": self.absolute_error_sum / self.count,
            "loss": self.loss_sum / self.count,
        }


_GRID = Grid(0.025)
_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


def empty_errors() -> NDArray[np.int64]:
    """Return the counts of no errors."""
    return np.zeros(_GRID.size, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReconstructionMetrics:
    """Sums over ``count`` examples, and how their errors are distributed; ``ReconstructionMetrics()`` is neutral.

    An example's error is the mean of the squared differences between its values and their reconstruction.
    """

    count: int = 0
    error_sum: float = 0.0
    loss_sum: float = 0.0
    """Of the data alone, without an L2 penalty."""
    errors: NDArray[np.int64] = field(default_factory=empty_errors)
    """How many examples have an error in each bucket, see ``models.sketch``."""

    @classmethod
    def of(cls, errors: NDArray[np.float64], loss_sum: float) -> ReconstructionMetrics:
        """Return the metrics of examples with these errors; what is infinite or no number counts as the largest."""
        finite = np.nan_to_num(errors, nan=LARGEST, posinf=LARGEST)
        counts = _GRID.count(finite.reshape(-1, 1))[0]
        return cls(count=len(errors), error_sum=float(errors.sum()), loss_sum=loss_sum, errors=counts)

    def __add__(self, other: ReconstructionMetrics) -> ReconstructionMetrics:
        return ReconstructionMetrics(
            count=self.count + other.count,
            error_sum=self.error_sum + other.error_sum,
            loss_sum=self.loss_sum + other.loss_sum,
            errors=self.errors + other.errors,
        )

    def quantile(self, share: float) -> float:
        """Return the error below which such a share (0 to 1) of the examples is, within 2.5 %; NaN of none."""
        return _GRID.quantiles(self.errors, [share])[0]

    def summary(self) -> dict[str, float]:
        """Return ``error`` and ``loss``, means over the examples, and quantiles; nothing when there are no examples.

        The quantiles of the errors are ``error_p50``, ``error_p90``, ``error_p99`` and ``error_p999``, within 2.5 %.
        A threshold for anomalies is one of the last two, or some way above.
        """
        if not self.count:
            return {}
        found = {"error": self.error_sum / self.count, "loss": self.loss_sum / self.count}
        quantiles = _GRID.quantiles(self.errors, list(_SHARES.values()))
        return found | {f"error_{name}": value for name, value in zip(_SHARES, quantiles, strict=True)}


Metrics: TypeAlias = ClassificationMetrics | RegressionMetrics | ReconstructionMetrics
