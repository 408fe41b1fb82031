"""The layers that a network may have."""

from models.layers.base import BoundLayer, Buffers, Layer, Shape, Tie
from models.layers.binding import bind_all
from models.layers.convolution import Convolution
from models.layers.dense import Dense
from models.layers.normalization import GroupNorm, Standardize
from models.layers.pooling import GlobalAverage, Pooling
from models.layers.reading import CONSTANTS, KINDS, LayerReader
from models.layers.recurrent import Gru
from models.layers.residual import Residual
from models.layers.shaping import Dropout, Flatten, Reader

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
]
