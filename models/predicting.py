"""Who answers questions with a model: whatever computes it, in goes ``x``, out comes what ``Model.predict`` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from models.network import Model
from models.parameters import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which version of which federation predicts; identifiers as in the protocol."""

    federation: str = ""
    epoch: str = ""
    version: int = 0


NOBODYS = Origin()


class Predictor(Protocol):
    """A model with parameters, ready to be asked; one thread at a time."""

    @property
    def by(self) -> str:
        """What computes, for people: ``numpy``, or a runtime's name and version."""

    def predict(self, x: FloatArray) -> FloatArray:
        """Return probabilities ``(n, classes)`` or values ``(n, outputs)``, float32, for ``x (n, inputs)``.

        Raises ``DataError`` for examples that do not fit.
        """


class NumpyPredictor:
    """Predicts as ``Model.predict`` does. The parameters must not change meanwhile."""

    by = "numpy"

    def __init__(self, model: Model, parameters: FloatArray) -> None:
        model.layout.check(parameters)
        self._model = model
        self._parameters = parameters

    def predict(self, x: FloatArray) -> FloatArray:
        """See ``Predictor``."""
        return self._model.predict(self._parameters, x)
