"""Optimizers of local training: they change a parameter vector in place, and allocate only when made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from models.parameters import FloatArray


class Optimizer(Protocol):
    """Takes steps on one parameter vector."""

    def step(self, gradient: FloatArray) -> None:
        """Change the parameters by one step; ``gradient`` may be overwritten."""

    @property
    def state(self) -> Mapping[str, FloatArray]:
        """Its vectors by name, as they are: what it needs to go on, beside the parameters and the number of steps."""

    def restore(self, state: Mapping[str, FloatArray], steps: int) -> None:
        """Stand where another one stood after so many steps, from a ``state`` with the same names and sizes."""


class Sgd:
    """``w -= rate * v`` with ``v = momentum * v + gradient`` (Sutskever et al. 2013), as in PyTorch."""

    def __init__(self, parameters: FloatArray, rate: float, momentum: float) -> None:
        self._parameters = parameters
        self._rate = np.float32(-rate)
        self._momentum = np.float32(momentum)
        self._velocity = np.zeros_like(parameters) if momentum else None

    def step(self, gradient: FloatArray) -> None:
        """Take one step; ``gradient`` is overwritten."""
        if self._velocity is None:
            np.multiply(gradient, self._rate, out=gradient)
            np.add(self._parameters, gradient, out=self._parameters)
            return
        velocity = self._velocity
        np.multiply(velocity, self._momentum, out=velocity)
        np.add(velocity, gradient, out=velocity)
        np.multiply(velocity, self._rate, out=gradient)
        np.add(self._parameters, gradient, out=self._parameters)

    @property
    def state(self) -> Mapping[str, FloatArray]:
        """The velocity, where there is momentum."""
        return {} if self._velocity is None else {"velocity": self._velocity}

    def restore(self, state: Mapping[str, FloatArray], _steps: int) -> None:
        """Take over the velocity."""
        if self._velocity is not None:
            self._velocity[:] = state["velocity"]


class Adam:
    """Kingma and Ba 2015, with their ``beta1`` 0.9, ``beta2`` 0.999 and ``epsilon`` 1e-8."""

    BETA1 = 0.9
    BETA2 = 0.999
    EPSILON = 1e-8

    def __init__(self, parameters: FloatArray, rate: float) -> None:
        self._parameters = parameters
        self._rate = rate
        self._mean = np.zeros_like(parameters)
        self._square = np.zeros_like(parameters)
        self._work = np.empty_like(parameters)
        self._steps = 0

    def step(self, gradient: FloatArray) -> None:
        """Take one step; ``gradient`` is overwritten."""
        self._steps += 1
        mean, square, work = self._mean, self._square, self._work
        # m += (1 - b) * (g - m) is m = b * m + (1 - b) * g in one pass less.
        np.subtract(gradient, mean, out=work)
        np.multiply(work, np.float32(1.0 - self.BETA1), out=work)
        np.add(mean, work, out=mean)
        np.multiply(gradient, gradient, out=gradient)
        np.subtract(gradient, square, out=gradient)
        np.multiply(gradient, np.float32(1.0 - self.BETA2), out=gradient)
        np.add(square, gradient, out=square)
        # Both bias corrections as scalars: w -= rate / c1 * m / (sqrt(v) / sqrt(c2) + eps).
        root = math.sqrt(1.0 - self.BETA2**self._steps)
        rate = self._rate * root / (1.0 - self.BETA1**self._steps)
        np.sqrt(square, out=work)
        np.add(work, np.float32(self.EPSILON * root), out=work)
        np.divide(mean, work, out=work)
        np.multiply(work, np.float32(rate), out=work)
        np.subtract(self._parameters, work, out=self._parameters)

    @property
    def state(self) -> Mapping[str, FloatArray]:
        """Both moments."""
        return {"mean": self._mean, "square": self._square}

    def restore(self, state: Mapping[str, FloatArray], steps: int) -> None:
        """Take over both moments; their corrections follow from the number of steps."""
        self._mean[:], self._square[:] = state["mean"], state["square"]
        self._steps = steps
