"""Which parameters are a device's own: declared by name pattern, trained there, and never part of an update.

FedPer (Arivazhagan et al. 2019) keeps the last layers private, FedBN (Li et al. 2021) those that normalize; FedRep
(Collins et al. 2021) also keeps a private head, and trains it before the shared part instead of together with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import PlanError
from models.fields import Fields
from models.layers import is_standardize
from models.network import Model
from models.parameters import FloatArray, Layout
from models.plan import MAX_EPOCHS, TrainingPlan
from models.training import Turns

MAX_PATTERNS = 32
MAX_PATTERN = 64
_PATTERN = re.compile(r"[A-Za-z0-9_.*?]+", re.ASCII)

_Number = TypeVar("_Number", np.float32, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Personal:
    """What a federation leaves on its devices, as plain data in the manifest. Make one with ``from_data``."""

    private: tuple[str, ...] = ()
    """Patterns of names of parameters (``head.*``; ``*`` is any text, ``?`` any character). None: all is shared."""
    private_epochs: int = 0
    """FedRep: so many epochs for the private parameters alone, then the plan's for the others alone. 0: together."""
    fine_tune_epochs: int = 0
    """So many epochs on its own data a device trains all parameters of a version before it predicts with them; the
    result stays there. 0: none."""
    compare_local: bool = False
    """Whether devices also train a model on nothing but their own data, to compare with."""

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Personal:
        """Return what the data declare, or raise ``PlanError``; every key has a default."""
        fields = Fields(data, "personal", PlanError)
        found = cls(
            private=fields.texts("private", MAX_PATTERNS, MAX_PATTERN, (), fewest=0),
            private_epochs=fields.integer("private_epochs", 0, MAX_EPOCHS, 0),
            fine_tune_epochs=fields.integer("fine_tune_epochs", 0, MAX_EPOCHS, 0),
            compare_local=fields.boolean("compare_local", default=False),
        )
        fields.finish()
        for pattern in found.private:
            if not _PATTERN.fullmatch(pattern):
                raise fields.wrong("private", pattern, "letters, digits, _ and ., with * and ? for any")
        if found.private_epochs and not found.private:
            raise fields.wrong("private_epochs", found.private_epochs, "0 where nothing is private")
        return found

    def to_data(self) -> dict[str, Any]:
        """Return it as data, complete; ``from_data`` gives the same again."""
        return {
            "private": list(self.private),
            "private_epochs": self.private_epochs,
            "fine_tune_epochs": self.fine_tune_epochs,
            "compare_local": self.compare_local,
        }

    @property
    def keeps(self) -> bool:
        """Whether a device has anything to keep to itself."""
        return bool(self.private) or self.further

    @property
    def further(self) -> bool:
        """Whether a device trains other models beside the one of its update."""
        return bool(self.fine_tune_epochs or self.compare_local)

    def split(self, model: Model) -> Split:
        """Return which parameters of the model are private; raise ``PlanError`` when the patterns do not fit it.

        Each pattern has to match something, all together must leave something to share, and none may match the
        constants of a ``standardize`` layer: those are the federation's, and no device has others.
        """
        if self.private_epochs and not model.layers:
            raise PlanError("personal: private_epochs cannot be with a .tflite file: its train changes all at once")
        names = [name for name, _ in model.layout.entries]
        constants = _constants(model)
        private: set[str] = set()
        for pattern in self.private:
            matched = {name for name in names if fnmatchcase(name, pattern)}
            if not matched:
                raise PlanError(f"personal: private {pattern!r} matches no parameter; there are {', '.join(names)}")
            if taken := matched & constants:
                raise PlanError(f"personal: private {pattern!r} matches {min(taken)}, a constant of the federation's")
            private |= matched
        if not set(names) - private - constants:
            raise PlanError("personal: private matches every parameter, and nothing would be learned together")
        return Split(model.layout, private)

    def plan_of(self, plan: TrainingPlan) -> TrainingPlan:
        """Return the plan with all epochs of a training, those for the private parameters first.

        Raises ``PlanError`` for a plan that could end a training before the shared parameters have their turn.
        """
        if not self.private_epochs:
            return plan
        if plan.max_steps or (plan.deadline_s and plan.on_deadline == "send"):
            raise PlanError(
                "personal: private_epochs need a plan that is carried out: without max_steps, and with on_deadline "
                "'resume', or a training might end before the shared parameters have their turn"
            )
        return replace(plan, epochs=plan.epochs + self.private_epochs)

    def turns_of(self, split: Split) -> Turns | None:
        """Return what is trained when, for a ``Training`` with ``plan_of``; None: everything all the time."""
        if not self.private_epochs:
            return None
        return Turns(epochs=self.private_epochs, first=split.shared_slices, then=split.private_slices)


def with_constants(model: Model, parameters: FloatArray, source: FloatArray) -> FloatArray:
    """Return a copy of the parameters with the constants of the ``standardize`` layers of ``source``."""
    found, slices = parameters.copy(), model.layout.slices
    for name in _constants(model):
        found[slices[name]] = source[slices[name]]
    return found


def _constants(model: Model) -> set[str]:
    return {name for layer in model.layers if is_standardize(layer) for name, _ in layer.entries}


class Split:
    """A layout in two: what is shared, and what is private. Vectors of either part hold its entries in their order."""

    def __init__(self, whole: Layout, private: Iterable[str]) -> None:
        names = set(private)
        slices = whole.slices
        self.whole = whole
        self.shared = Layout(tuple(entry for entry in whole.entries if entry[0] not in names))
        """Layout of updates: its digest is theirs. The whole one where nothing is private."""
        self.private = Layout(tuple(entry for entry in whole.entries if entry[0] in names))
        self.shared_slices = tuple(slices[name] for name, _ in self.shared.entries)
        """Where the shared entries lie in a whole vector."""
        self.private_slices = tuple(slices[name] for name, _ in self.private.entries)

    def shared_of(self, vector: FloatArray) -> FloatArray:
        """Return the shared part of a whole vector: the vector itself where nothing is private."""
        return np.concatenate([vector[place] for place in self.shared_slices]) if self.private.size else vector

    def private_of(self, vector: FloatArray) -> FloatArray:
        """Return a copy of the private part of a whole vector."""
        parts = [vector[place] for place in self.private_slices]
        return np.concatenate([*parts, np.empty(0, np.float32)])

    def overlaid(self, vector: FloatArray, private: FloatArray) -> FloatArray:
        """Return a whole vector with these private parameters in it; ``vector`` stays as it is."""
        self.private.check(private)
        found = vector.copy()
        for place, part in zip(self.private_slices, self.private.slices.values(), strict=True):
            found[place] = private[part]
        return found

    def spread(self, shared: NDArray[_Number]) -> NDArray[_Number]:
        """Return a whole vector with these shared values in it, and 0 for the private ones."""
        if not self.private.size:
            return shared
        found = np.zeros(self.whole.size, shared.dtype)
        for place, part in zip(self.shared_slices, self.shared.slices.values(), strict=True):
            found[place] = shared[part]
        return found
