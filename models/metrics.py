"""Figures about predictions, as sums: those of two parts of a data set combine with ``+`` to those of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


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


Metrics: TypeAlias = ClassificationMetrics | RegressionMetrics
