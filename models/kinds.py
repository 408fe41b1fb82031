"""Ready-made networks: short forms in a spec, and the layers that each stands for."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from models.layers import Dense, Layer, LayerReader, Shape
from models.layers.base import Activation, Start

Kind: TypeAlias = Literal["softmax", "linear", "mlp", "autoencoder", "image_cnn", "series_cnn", "gru", "network"]
Table: TypeAlias = dict[str, Any]

KEYS: Mapping[Kind, tuple[str, ...]] = {
    "softmax": ("inputs", "outputs", "standardize"),
    "linear": ("inputs", "outputs", "standardize"),
    "mlp": ("inputs", "outputs", "hidden", "activation", "dropout", "standardize"),
    "autoencoder": ("inputs", "hidden", "activation", "standardize"),
    "image_cnn": ("input_shape", "outputs", "filters", "kernel", "hidden", "dropout", "standardize"),
    "series_cnn": ("input_shape", "outputs", "filters", "kernel", "hidden", "dropout", "standardize"),
    "gru": ("input_shape", "outputs", "units", "dropout", "standardize"),
    "network": ("input_shape", "layers"),
}
"""What a spec of each kind says of its layers; all say ``kind``, ``task``, ``loss`` and ``l2`` besides."""


def dense_layers(
    widths: tuple[int, ...], activation: Activation, *, standardize: bool, dropout: float, plain: bool
) -> tuple[Layer, ...]:
    """Return dense layers from one width to the next, the last one linear; with a ``plain`` one all begins at zero."""
    last = len(widths) - 2
    layers: list[Layer] = list(LayerReader().read([{"kind": "standardize"}], widths[:1])) if standardize else []
    for position, (fan_in, fan_out) in enumerate(pairwise(widths)):
        hidden = position < last
        start: Start = "zero" if plain else "he" if hidden and activation == "relu" else "glorot"
        layers.append(Dense(f"dense{position}", fan_in, fan_out, activation if hidden else "none", start))
        if hidden and dropout:
            layers.extend(LayerReader().read([{"kind": "dropout", "rate": dropout}], (fan_out,)))
    return tuple(layers)


def image_cnn(filters: tuple[int, ...], kernel: int, hidden: tuple[int, ...], dropout: float) -> list[Table]:
    """Return convolutions with pooling by two after each, and dense layers, as in McMahan et al. 2017."""
    return [*_stages("conv2d", filters, kernel, len(filters)), {"kind": "flatten"}, *_hidden(hidden, dropout)]


def series_cnn(filters: tuple[int, ...], kernel: int, hidden: tuple[int, ...], dropout: float) -> list[Table]:
    """Return convolutions over time with pooling by two between them, the mean over what time is left, dense layers."""
    stages = _stages("conv1d", filters, kernel, len(filters) - 1)
    return [*stages, {"kind": "global_average_pool"}, *_hidden(hidden, dropout)]


def gru(units: tuple[int, ...], dropout: float) -> list[Table]:
    """Return recurrent layers, of which the last gives its last state."""
    last = len(units)
    tables: list[Table] = [
        {"kind": "gru", "name": f"gru{number}", "units": count, "sequence": number < last}
        for number, count in enumerate(units, start=1)
    ]
    return [*tables, *_hidden((), dropout)]


def read_short(tables: list[Table], shape: Shape, outputs: int, *, standardize: bool) -> tuple[Layer, ...]:
    """Return the layers of a short form: constants if wanted, the tables, and the linear ``head``."""
    before = [{"kind": "standardize"}] if standardize else []
    return LayerReader().read([*before, *tables, {"kind": "dense", "name": "head", "outputs": outputs}], shape)


def _stages(kind: str, filters: tuple[int, ...], kernel: int, pooled: int) -> list[Table]:
    tables: list[Table] = []
    for number, count in enumerate(filters, start=1):
        name = f"conv{number}"
        tables.append({"kind": kind, "name": name, "filters": count, "kernel": kernel, "activation": "relu"})
        if number <= pooled:
            tables.append({"kind": "max_pool", "size": 2})
    return tables


def _hidden(widths: tuple[int, ...], dropout: float) -> list[Table]:
    drop: list[Table] = [{"kind": "dropout", "rate": dropout}] if dropout else []
    tables: list[Table] = []
    for number, width in enumerate(widths, start=1):
        tables += [*drop, {"kind": "dense", "name": f"hidden{number}", "outputs": width, "activation": "relu"}]
    return [*tables, *drop]
