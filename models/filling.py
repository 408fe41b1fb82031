"""Missing values of windows: which windows have too many, and what stands in for the others."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.features import Doubles

Fill: TypeAlias = Literal["hold", "interpolate", "value"]


def too_many(present: NDArray[np.bool_], allowed: int, fill: Fill) -> NDArray[np.bool_]:
    """Return which windows ``(windows, channels, W)`` have a channel of which more than ``allowed`` values are missing.

    A channel without any value can be filled with a stated one only.
    """
    width = present.shape[2]
    least = width - allowed if fill == "value" else max(1, width - allowed)
    return np.asarray(np.count_nonzero(present, axis=2).min(axis=1) < least)


def filled(values: Doubles, present: NDArray[np.bool_], fill: Fill, fill_value: float) -> Doubles:
    """Return the windows with every gap filled from the same window and channel.

    ``hold``: by the value before, at the beginning by the first one; ``interpolate``: by the straight line from the
    value before to the one after, at the ends by the nearest; ``value``: by ``fill_value``.
    """
    if fill == "value":
        return np.where(present, values, fill_value)
    places = np.arange(values.shape[2])
    before = np.maximum.accumulate(np.where(present, places, -1), axis=2)
    before = np.where(before < 0, np.argmax(present, axis=2)[:, :, None], before)
    held = np.take_along_axis(values, before, axis=2)
    if fill == "hold":
        return held
    last = len(places)
    after = np.minimum.accumulate(np.where(present, places, last)[:, :, ::-1], axis=2)[:, :, ::-1]
    after = np.where(after == last, before, after)
    share = (places - before) / np.maximum(after - before, 1)
    # At the beginning "before" lies behind the gap, as "after" does: the difference is 0.
    return np.asarray(held + (np.take_along_axis(values, after, axis=2) - held) * share)
