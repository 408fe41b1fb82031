"""Minimal filtering: two outputs of a sliding window with fewer products than taps ask for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from models.parameters import FloatArray

OUTPUTS = 2
"""That a tile has along the axis. More would spare more products, and lose digits."""

_POINTS = {3: (0.0, 1.0, -1.0), 5: (0.0, 1.0, -1.0, 0.5, -2.0)}
"""By the window's size: where the polynomials are evaluated, beside infinity.

Of the sets of such small numbers those whose sums had the least error in float32: 0.8 and 1.5 times that of the
products themselves, over 64 channels.
"""

SIZES = tuple(_POINTS)


@dataclass(frozen=True, slots=True, eq=False)
class Filtering:
    """``outputs @ ((weights @ g) * (inputs @ d))`` is what a window with taps ``g`` gives at two positions of ``d``.

    Winograd 1980, "Arithmetic Complexity of Computations", F(2, r), by Cook's and Toom's way through polynomials; for
    convolutional networks Lavin and Gray 2016. A window of r taps needs r + 1 products for its two outputs instead
    of 2 r. As all three are linear, the gradient goes back through their transposes.
    """

    outputs: FloatArray
    """``(2, r + 1)``."""
    weights: FloatArray
    """``(r + 1, r)``."""
    inputs: FloatArray
    """``(r + 1, r + 1)``."""


@cache
def filtering(taps: int) -> Filtering:
    """Return the matrices for a window of so many taps, one of ``SIZES``."""
    points = np.array(_POINTS[taps])
    others = [np.delete(points, at) for at in range(len(points))]
    # By the points and infinity: the polynomial through the values, of the degree that the product of both has.
    outputs = np.zeros((OUTPUTS, taps + 1))
    outputs[:, :-1] = np.vander(points, OUTPUTS, increasing=True).T
    outputs[-1, -1] = 1.0
    weights = np.zeros((taps + 1, taps))
    weights[:-1] = np.vander(points, taps, increasing=True)
    weights[:-1] /= np.array([np.prod(point - rest) for point, rest in zip(points, others, strict=True)])[:, None]
    weights[-1, -1] = 1.0
    inputs = np.zeros((taps + 1, taps + 1))
    for row, rest in enumerate(others):
        inputs[row, :-1] = np.poly(rest)[::-1]
    inputs[-1] = np.poly(points)[::-1]
    return Filtering(*(np.ascontiguousarray(matrix, np.float32) for matrix in (outputs, weights, inputs)))
