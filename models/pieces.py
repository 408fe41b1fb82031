"""Work on long arrays in bounded pieces, so that who works can be told to stop between two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Between: TypeAlias = Callable[[], object]
"""Called between two pieces. What it raises ends the work: nothing of it is kept."""

PIECE_BYTES = 2**22
"""Milliseconds' worth on a small board, and the calls cost nothing beside it."""


def go_on() -> None:
    """For who is never told to stop."""


def pieces(rows: int, row_bytes: int, between: Between = go_on) -> Iterator[slice]:
    """Return slices of at most ``PIECE_BYTES``, or of one row, that cover so many rows of so many bytes each."""
    size = max(1, PIECE_BYTES // max(1, row_bytes))
    for begin in range(0, rows, size):
        between()
        yield slice(begin, min(begin + size, rows))


def pieces_of(array: NDArray[Any], between: Between = go_on) -> Iterator[slice]:
    """Return such slices of the array's rows."""
    return pieces(len(array), array.nbytes // max(1, len(array)), between)


def chosen(array: NDArray[Any], mask: NDArray[np.bool_], between: Between = go_on) -> NDArray[Any]:
    """Return ``array[mask]``, a copy: the rows of which the mask says so."""
    found = np.empty((int(np.count_nonzero(mask)), *array.shape[1:]), array.dtype)
    at = 0
    for part in pieces_of(array, between):
        rows = array[part][mask[part]]
        found[at : at + len(rows)] = rows
        at += len(rows)
    return found
