"""Layers in a row, bound one after the other, and two as one where that gives the same bits sooner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from models.layers.base import BoundLayer, Layer, Tie
from models.layers.convolution import MOST_POOLED_LINES, Convolution
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
        if isinstance(layer, Convolution) and isinstance(following, Pooling) and _together(following):
            bound.append(layer.bind_with_pooling(own, following.size))
            position += 1
        else:
            bound.append(layer.bind(own))
        first = first and (not layer.entries or isinstance(layer, Standardize))
        position += 1
    return bound


def _together(pooling: Pooling) -> bool:
    return pooling.largest and pooling.size[0] <= MOST_POOLED_LINES
