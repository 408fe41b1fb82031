"""A model described by data: what a manifest carries, so that devices build a model without being sent code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from models import kinds
from models.errors import SpecError
from models.fields import Fields
from models.kinds import KEYS, Kind
from models.layers import Layer, LayerReader, Shape
from models.layers.base import Activation
from models.layers.reading import MAX_LAYERS, MAX_WIDTH, shown

Task: TypeAlias = Literal["classification", "regression", "reconstruction"]
LossName: TypeAlias = Literal["cross_entropy", "mse", "huber"]

MAX_PARAMETERS = 64 * 2**20
"""256 MB of float32: more than any board trains, and as much as one update may hold."""

MAX_INPUTS = 2**20
MAX_HIDDEN = 32
"""Layers: deeper than anything that learns without skip connections; a bound on what one step may cost."""

MAX_KEPT = 2**23
"""Values that one example may leave behind on its way through the network: 32 MB."""

MAX_WORK = 2**32
"""Multiplications of one example's forward pass: some seconds on a board."""

_MOST_FILTERS = 8
_MOST_UNITS = 4
_FLAT = 1

_BOTH: tuple[Task, ...] = ("classification", "regression")
_TASKS: dict[Kind, tuple[Task, ...]] = {
    "softmax": ("classification",),
    "linear": ("regression",),
    "mlp": _BOTH,
    "autoencoder": ("reconstruction",),
    "image_cnn": _BOTH,
    "series_cnn": _BOTH,
    "gru": _BOTH,
    "network": ("classification", "regression", "reconstruction"),
}
_LOSSES: dict[Task, tuple[LossName, ...]] = {
    "classification": ("cross_entropy",),
    "regression": ("mse", "huber"),
    "reconstruction": ("mse", "huber"),
}
_QUIET: dict[str, object] = {"standardize": False, "dropout": 0.0}
"""Keys that a spec as data leaves out where they say nothing: some kinds are older than they."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A network from flat examples to outputs; checked, with every default filled in."""

    kind: Kind
    input_shape: Shape
    """How an example is read, channels last."""
    inputs: int
    """Values of an example: the product of its shape."""
    hidden: tuple[int, ...]
    filters: tuple[int, ...]
    kernel: int
    units: tuple[int, ...]
    dropout: float
    standardize: bool
    layers: tuple[Layer, ...]
    """Of every kind: what the network is made of."""
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
        kind = cast("Kind", fields.choice("kind", list(_TASKS)))
        tasks = _TASKS[kind]
        task = cast("Task", fields.choice("task", tasks, tasks[0]))
        losses = _LOSSES[task]
        loss = cast("LossName", fields.choice("loss", losses, losses[0]))
        shape, values = _shape(fields, kind), _Values(fields, kind, task)
        huber_delta = fields.number("huber_delta", 0.0, 1e6, 1.0, above=True) if loss == "huber" else 1.0
        l2 = fields.number("l2", 0.0, 1e3, 0.0)
        layers = _layers(fields, kind, shape, values)
        fields.finish()
        spec = cls(
            kind=kind,
            input_shape=shape,
            inputs=math.prod(shape),
            hidden=values.hidden,
            filters=values.filters,
            kernel=values.kernel,
            units=values.units,
            dropout=values.dropout,
            standardize=values.standardize,
            layers=layers,
            outputs=layers[-1].output_shape[0],
            activation=values.activation,
            task=task,
            loss=loss,
            huber_delta=huber_delta,
            l2=l2,
        )
        spec._check()
        return spec

    def _check(self) -> None:
        output = self.layers[-1].output_shape
        if len(output) != _FLAT:
            raise SpecError(
                f"model: its last layer gives {shown(output)}, allowed is one row of outputs: "
                "end with 'dense', or with 'flatten' or 'global_average_pool'"
            )
        fewest = 2 if self.task == "classification" else 1
        if not fewest <= self.outputs <= MAX_WIDTH and self.task != "reconstruction":
            raise SpecError(
                f"model: its last layer gives {self.outputs} outputs, "
                f"allowed for {self.task} are {fewest} to {MAX_WIDTH}"
            )
        if self.task == "reconstruction" and self.outputs != self.inputs:
            raise SpecError(f"model: its last layer gives {self.outputs} outputs, allowed are the {self.inputs} inputs")
        if not self.size:
            raise SpecError("model: its layers have no parameters: there is nothing to learn")
        for what, found, allowed in (
            ("size", f"{self.size} parameters", MAX_PARAMETERS if self.size > MAX_PARAMETERS else 0),
            ("memory", f"{self.kept} values per example", MAX_KEPT if self.kept > MAX_KEPT else 0),
            ("work", f"{self.work} multiplications per example", MAX_WORK if self.work > MAX_WORK else 0),
        ):
            if allowed:
                raise SpecError(f"model: {what} is {found}, allowed is at most {allowed}")

    @property
    def size(self) -> int:
        """Number of parameters, computed before anything is allocated for them."""
        return sum(math.prod(shape) for layer in self.layers for _, shape in layer.entries)

    @property
    def kept(self) -> int:
        """Values that a training step holds for every example of its batch."""
        widest = max(math.prod(layer.input_shape) for layer in self.layers)
        return self.inputs + sum(layer.kept for layer in self.layers) + 2 * widest

    @property
    def work(self) -> int:
        """Multiplications of one example's forward pass, about."""
        return sum(layer.work for layer in self.layers)

    def to_data(self) -> dict[str, Any]:
        """Return the spec as data, with every default that applies; ``from_data`` gives the same spec again."""
        data: dict[str, Any] = {"kind": self.kind}
        for key in KEYS[self.kind]:
            value = getattr(self, key)
            if key == "layers":
                value = [layer.to_data() for layer in self.layers]
            if key not in _QUIET or value != _QUIET[key]:
                data[key] = list(value) if isinstance(value, tuple) else value
        data |= {"task": self.task, "loss": self.loss}
        if self.loss == "huber":
            data["huber_delta"] = self.huber_delta
        return data | {"l2": self.l2}


class _Values:
    """What a short form says of its layers; defaults where the kind has no such key."""

    def __init__(self, fields: Fields, kind: Kind, task: Task) -> None:
        keys = KEYS[kind]
        deep = kind in {"mlp", "autoencoder"}
        fewest = 2 if task == "classification" else 1
        none: tuple[int, ...] = ()
        hidden_default = None if deep else none
        self.hidden = (
            fields.integers("hidden", 1, MAX_WIDTH, MAX_HIDDEN, fewest=int(deep), default=hidden_default)
            if "hidden" in keys
            else none
        )
        self.outputs = fields.integer("outputs", fewest, MAX_WIDTH) if "outputs" in keys else 0
        self.activation: Activation = "relu"
        if "activation" in keys:
            self.activation = cast("Activation", fields.choice("activation", ("relu", "tanh"), "relu"))
        usual = _FILTERS.get(kind, none)
        self.filters = (
            fields.integers("filters", 1, MAX_WIDTH, _MOST_FILTERS, default=usual) if "filters" in keys else none
        )
        self.kernel = fields.integer("kernel", 1, 15, _KERNEL[kind]) if "kernel" in keys else 0
        self.units = fields.integers("units", 1, MAX_WIDTH, _MOST_UNITS, default=(64,)) if "units" in keys else none
        self.dropout = fields.number("dropout", 0.0, 0.95, 0.0) if "dropout" in keys else 0.0
        self.standardize = fields.boolean("standardize", default=False) if "standardize" in keys else False


_KERNEL: dict[Kind, int] = {"image_cnn": 3, "series_cnn": 5}
_FILTERS: dict[Kind, tuple[int, ...]] = {"image_cnn": (16, 32), "series_cnn": (32, 64, 64)}


def _shape(fields: Fields, kind: Kind) -> Shape:
    if "inputs" in KEYS[kind]:
        return (fields.integer("inputs", 1, MAX_INPUTS),)
    axes = {"image_cnn": (3, 3), "series_cnn": (2, 2), "gru": (2, 2)}.get(kind, (1, 3))
    default = (28, 28, 1) if kind == "image_cnn" else None
    shape = fields.integers("input_shape", 1, MAX_INPUTS, axes[1], fewest=axes[0], default=default)
    if math.prod(shape) > MAX_INPUTS:
        raise fields.wrong("input_shape", list(shape), f"at most {MAX_INPUTS} values in all")
    return shape


def _layers(fields: Fields, kind: Kind, shape: Shape, values: _Values) -> tuple[Layer, ...]:
    if kind == "network":
        return LayerReader().read(fields.tables("layers", MAX_LAYERS), shape)
    if kind in {"softmax", "linear", "mlp", "autoencoder"}:
        outputs = values.outputs if kind != "autoencoder" else shape[0]
        widths = (*shape, *values.hidden, outputs)
        standardize, plain = values.standardize, not values.hidden
        return kinds.dense_layers(
            widths, values.activation, standardize=standardize, dropout=values.dropout, plain=plain
        )
    tables = _TABLES[kind](values)
    return kinds.read_short(tables, shape, values.outputs, standardize=values.standardize)


_TABLES = {
    "image_cnn": lambda values: kinds.image_cnn(values.filters, values.kernel, values.hidden, values.dropout),
    "series_cnn": lambda values: kinds.series_cnn(values.filters, values.kernel, values.hidden, values.dropout),
    "gru": lambda values: kinds.gru(values.units, values.dropout),
}
