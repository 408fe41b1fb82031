"""The server's step: from the buffer's weighted mean of deltas to new parameters.

Each optimizer is a frozen value; its state is a tuple of float64 vectors that the store keeps with the version.
Formulas after Reddi et al., "Adaptive Federated Optimization" (2021): the mean delta plays the negative gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aggregator.configuration import AggregationTable

Vector: TypeAlias = NDArray[np.float64]
State: TypeAlias = tuple[Vector, ...]


class ServerOptimizer(Protocol):
    """Turns a mean delta into a step."""

    @property
    def name(self) -> str:
        """Return the name under which its state is kept; another name's state is not taken over."""

    def initial(self, size: int) -> State:
        """Return the state before the first step."""

    def step(self, direction: Vector, state: State, scale: float) -> tuple[Vector, State]:
        """Return what is to be added to the parameters, and the next state; ``direction`` is left as it is."""


@dataclass(frozen=True, slots=True)
class Plain:
    """``w += lr * mean``; with ``lr = 1`` this is FedAvg."""

    learning_rate: float = 1.0
    name: str = "plain"

    def initial(self, size: int) -> State:  # noqa: ARG002 - it has none
        """Return no state."""
        return ()

    def step(self, direction: Vector, state: State, scale: float) -> tuple[Vector, State]:
        """Return the scaled mean."""
        return direction * (self.learning_rate * scale), state


@dataclass(frozen=True, slots=True)
class Momentum:
    """``m = beta m + mean``, ``w += lr * m`` (FedAvgM, Hsu et al., 2019)."""

    learning_rate: float
    momentum: float
    name: str = "momentum"

    def initial(self, size: int) -> State:
        """Return a velocity of zero."""
        return (np.zeros(size),)

    def step(self, direction: Vector, state: State, scale: float) -> tuple[Vector, State]:
        """Return the step along the velocity."""
        velocity = self.momentum * state[0] + direction
        return velocity * (self.learning_rate * scale), (velocity,)


@dataclass(frozen=True, slots=True)
class Adam:
    """``m = b1 m + (1-b1) d``, ``v = b2 v + (1-b2) d^2``, ``w += lr * m / (sqrt(v) + eps)`` (FedAdam)."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    name: str = "adam"

    def initial(self, size: int) -> State:
        """Return first and second moments of zero."""
        return np.zeros(size), np.zeros(size)

    def step(self, direction: Vector, state: State, scale: float) -> tuple[Vector, State]:
        """Return the adaptive step."""
        first = self.beta1 * state[0] + (1.0 - self.beta1) * direction
        second = self.beta2 * state[1] + (1.0 - self.beta2) * direction * direction
        return first * (self.learning_rate * scale) / (np.sqrt(second) + self.epsilon), (first, second)


def server_optimizer(settings: AggregationTable) -> ServerOptimizer:
    """Return the optimizer that the settings name."""
    match settings.server_optimizer:
        case "plain":
            return Plain(settings.server_learning_rate)
        case "momentum":
            return Momentum(settings.server_learning_rate, settings.server_momentum)
        case "adam":
            return Adam(
                settings.server_learning_rate, settings.server_momentum, settings.server_beta2, settings.server_epsilon
            )
