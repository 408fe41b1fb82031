"""Layers in a row, bound one after the other, and two as one where that gives the same bits sooner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeGuard

from models.layers.base import BoundLayer, Layer, Tie

if TYPE_CHECKING:
    from models.layers.convolution import Convolution
    from models.layers.normalization import Standardize
    from models.layers.pooling import Pooling


def bind_all(layers: Sequence[Layer], tie: Tie) -> list[BoundLayer]:
    """Return the layers for batches of ``tie.rows``; ``tie.first`` says whether nothing before them is trained."""
    bound: list[BoundLayer] = []
    first, position = tie.first, 0
    while position < len(layers):
        layer = layers[position]
        following = layers[position + 1] if position + 1 < len(layers) else None
        own = replace(tie, first=first)
        if _is_convolution(layer) and _is_pooled_with(following):
            bound.append(layer.bind_with_pooling(own, following.size))
            position += 1
        else:
            bound.append(layer.bind(own))
        first = first and (not layer.entries or is_standardize(layer))
        position += 1
    return bound


# By kind, not by class: an agent whose network has none of these never loads them.


def is_standardize(layer: Layer | None) -> TypeGuard[Standardize]:
    """Return whether the layer holds the constants of the data."""
    return layer is not None and layer.kind == "standardize"


def _is_convolution(layer: Layer) -> TypeGuard[Convolution]:
    return layer.kind in ("conv1d", "conv2d")


def _is_pooled_with(following: Layer | None) -> TypeGuard[Pooling]:
    if following is None or following.kind != "max_pool":
        return False
    from models.layers.convolution import MOST_POOLED_LINES  # noqa: PLC0415 - see above
    from models.layers.pooling import Pooling  # noqa: PLC0415 - see above

    return isinstance(following, Pooling) and following.size[0] <= MOST_POOLED_LINES
