"""The layers that a network may have. A kind is loaded when a spec names it: together they are half a megabyte."""

from importlib import import_module
from typing import TYPE_CHECKING

from models.layers.base import BoundLayer, Buffers, Layer, Shape, Tie
from models.layers.binding import bind_all, is_standardize
from models.layers.dense import Dense
from models.layers.reading import CONSTANTS, KINDS, LayerReader

if TYPE_CHECKING:
    from models.layers.convolution import Convolution
    from models.layers.normalization import GroupNorm, Standardize
    from models.layers.pooling import GlobalAverage, Pooling
    from models.layers.recurrent import Gru
    from models.layers.residual import Residual
    from models.layers.shaping import Dropout, Flatten, Reader

_LATER = {
    "Convolution": "convolution",
    "Dropout": "shaping",
    "Flatten": "shaping",
    "GlobalAverage": "pooling",
    "GroupNorm": "normalization",
    "Gru": "recurrent",
    "Pooling": "pooling",
    "Reader": "shaping",
    "Residual": "residual",
    "Standardize": "normalization",
}

__all__ = [
    "CONSTANTS",
    "KINDS",
    "BoundLayer",
    "Buffers",
    "Convolution",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAverage",
    "GroupNorm",
    "Gru",
    "Layer",
    "LayerReader",
    "Pooling",
    "Reader",
    "Residual",
    "Shape",
    "Standardize",
    "Tie",
    "bind_all",
    "is_standardize",
]


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"models.layers.{_LATER[name]}"), name)
