"""How much an update counts that started from an older version: ``s(tau)``, tau in versions, ``s(0) = 1``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from aggregator.configuration import AggregationTable

StalenessWeight: TypeAlias = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class ConstantStaleness:
    """``s = 1``: age does not matter (FedAvg, McMahan et al., 2017)."""

    def __call__(self, staleness: int) -> float:  # noqa: ARG002 - the signature is the family's
        """Return 1."""
        return 1.0


@dataclass(frozen=True, slots=True)
class PolynomialStaleness:
    """``(1 + tau) ** -a``, as in FedAsync (Xie et al., 2019) and FedBuff (Nguyen et al., 2022)."""

    exponent: float = 0.5

    def __call__(self, staleness: int) -> float:
        """Return the weight of an update that is ``staleness`` versions old."""
        return float((1 + staleness) ** -self.exponent)


@dataclass(frozen=True, slots=True)
class HingeStaleness:
    """``1`` up to ``b`` versions, ``1 / (1 + a (tau - b))`` beyond.

    After FedAsync (Xie et al., 2019), whose ``1 / (a (tau - b))`` exceeds 1 just past ``b``; the added 1 makes it
    continuous.
    """

    versions: float = 4.0
    slope: float = 0.5

    def __call__(self, staleness: int) -> float:
        """Return the weight of an update that is ``staleness`` versions old."""
        return 1.0 / (1.0 + self.slope * max(0.0, staleness - self.versions))


def staleness_weight(settings: AggregationTable) -> StalenessWeight:
    """Return the function that the settings name."""
    match settings.staleness:
        case "constant":
            return ConstantStaleness()
        case "polynomial":
            return PolynomialStaleness(settings.staleness_exponent)
        case "hinge":
            return HingeStaleness(settings.hinge_versions, settings.hinge_slope)
