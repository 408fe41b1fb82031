"""A model described by data: what a manifest carries, so that devices build a model without being sent code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias, cast

from models.errors import SpecError
from models.fields import Fields

Task: TypeAlias = Literal["classification", "regression"]
Kind: TypeAlias = Literal["softmax", "linear", "mlp"]
Activation: TypeAlias = Literal["relu", "tanh"]
LossName: TypeAlias = Literal["cross_entropy", "mse", "huber"]

MAX_PARAMETERS = 64 * 2**20
"""256 MB of float32: more than any board trains, and as much as one update may hold."""

MAX_INPUTS = 2**20
MAX_WIDTH = 2**16
MAX_HIDDEN = 32
"""Layers: deeper than anything that learns without skip connections; a bound on what one step may cost."""

_KINDS: dict[Kind, tuple[Task, ...]] = {
    "softmax": ("classification",),
    "linear": ("regression",),
    "mlp": ("classification", "regression"),
}
_LOSSES: dict[Task, tuple[LossName, ...]] = {"classification": ("cross_entropy",), "regression": ("mse", "huber")}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """Dense layers from ``inputs`` over ``hidden`` to ``outputs``; checked, with every default filled in."""

    kind: Kind
    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    """Classes, or values per example."""
    activation: Activation
    """Of the hidden layers; the last is linear."""
    task: Task
    loss: LossName
    huber_delta: float
    """Where Huber's loss turns from quadratic to linear."""
    l2: float
    """Adds ``l2 / 2 * sum(weights ** 2)``, biases left out, to the loss that is trained."""

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> NetworkSpec:
        """Return the checked spec, or raise ``SpecError``.

        A key that has no meaning for the kind (``hidden`` for ``softmax``, ``huber_delta`` without ``huber``) is
        unknown there: a spec says nothing that is not so.
        """
        fields = Fields(data, "model", SpecError)
        kind = cast("Kind", fields.choice("kind", list(_KINDS)))
        tasks = _KINDS[kind]
        task = cast("Task", fields.choice("task", tasks, tasks[0]))
        losses = _LOSSES[task]
        loss = cast("LossName", fields.choice("loss", losses, losses[0]))
        is_mlp = kind == "mlp"
        spec = cls(
            kind=kind,
            inputs=fields.integer("inputs", 1, MAX_INPUTS),
            hidden=fields.integers("hidden", 1, MAX_WIDTH, MAX_HIDDEN) if is_mlp else (),
            outputs=fields.integer("outputs", 2 if task == "classification" else 1, MAX_WIDTH),
            activation=cast("Activation", fields.choice("activation", ("relu", "tanh"), "relu")) if is_mlp else "relu",
            task=task,
            loss=loss,
            huber_delta=fields.number("huber_delta", 0.0, 1e6, 1.0, above=True) if loss == "huber" else 1.0,
            l2=fields.number("l2", 0.0, 1e3, 0.0),
        )
        fields.finish()
        if spec.size > MAX_PARAMETERS:
            raise SpecError(f"model: size is {spec.size} parameters, allowed is at most {MAX_PARAMETERS}")
        return spec

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden widths, outputs."""
        return (self.inputs, *self.hidden, self.outputs)

    @property
    def size(self) -> int:
        """Number of parameters, computed before anything is allocated for them."""
        widths = self.widths
        return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))

    def to_data(self) -> dict[str, Any]:
        """Return the spec as data, with every default that applies; ``from_data`` gives the same spec again."""
        data: dict[str, Any] = {"kind": self.kind, "inputs": self.inputs, "outputs": self.outputs}
        if self.kind == "mlp":
            data |= {"hidden": list(self.hidden), "activation": self.activation}
        data |= {"task": self.task, "loss": self.loss}
        if self.loss == "huber":
            data["huber_delta"] = self.huber_delta
        return data | {"l2": self.l2}
