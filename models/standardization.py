"""Running mean and deviation of each input, and examples in their terms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError
from models.fields import Fields
from models.parameters import FloatArray
from models.pieces import Between, chosen, go_on
from models.windows import Windows

Doubles = NDArray[np.float64]

LIMIT = 20.0
"""Deviations: what lies further out is cut. One broken reading must not throw a training."""

_RESOLUTION = 1e-7
"""Of float32: an input that moves less than this share of its mean does not move."""

_BLOCK_VALUES = 2**16
_LARGEST_COUNT = 2**53


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standardization:
    """Mean and deviation of all examples so far, without keeping them. Those of two sets add up with ``+``.

    Welford 1962; sets are joined as in Chan, Golub and LeVeque 1983.
    """

    count: int
    mean: Doubles
    """``(inputs,)``"""
    spread: Doubles
    """``(inputs,)``, sum of squared differences from the mean."""
    until: float = -math.inf
    """End of the last window that was counted: no window counts twice."""

    @classmethod
    def nothing(cls, inputs: int) -> Standardization:
        """Return the one of no examples, which changes nothing."""
        return cls(count=0, mean=np.zeros(inputs), spread=np.zeros(inputs))

    @classmethod
    def of(cls, x: FloatArray, between: Between = go_on) -> Standardization:
        """Return the one of the examples ``(n, inputs)``."""
        found = cls.nothing(x.shape[1])
        for rows in _blocks(x):
            between()
            block = x[rows].astype(np.float64)
            mean = np.add.reduce(block, axis=0) / len(block)
            block -= mean
            found += cls(count=len(block), mean=mean, spread=np.add.reduce(block * block, axis=0))
        return found

    def __add__(self, other: Standardization) -> Standardization:
        count = self.count + other.count
        share = other.count / count if count else 0.0
        difference = other.mean - self.mean
        return Standardization(
            count=count,
            mean=self.mean + difference * share,
            spread=self.spread + other.spread + difference * difference * (self.count * share),
            until=max(self.until, other.until),
        )

    def including(self, windows: Windows, between: Between = go_on) -> Standardization:
        """Return the one that also counts those windows that end after the last one counted; before ``apply``."""
        fresh = windows.ends > self.until
        if not fresh.any():
            return self
        found = self + Standardization.of(windows.x if fresh.all() else chosen(windows.x, fresh, between), between)
        return Standardization(
            count=found.count, mean=found.mean, spread=found.spread, until=float(windows.ends[fresh].max())
        )

    @property
    def deviation(self) -> Doubles:
        """Of the examples so far, divided by their number; 0 for none."""
        return np.sqrt(self.spread / max(1, self.count))

    def apply(self, x: FloatArray, between: Between = go_on) -> None:
        """Turn ``x`` ``(n, inputs)``, in place, into deviations from the mean, at most ``LIMIT`` either way.

        An input that did not move is only moved by its mean: it has no deviation to be measured in.
        """
        deviation = self.deviation
        scale = np.where(deviation > _RESOLUTION * np.abs(self.mean), deviation, 1.0)
        for rows in _blocks(x):
            between()
            x[rows] = np.clip((x[rows] - self.mean) / scale, -LIMIT, LIMIT)

    def revert(self, x: FloatArray) -> None:
        """Undo ``apply`` in place, up to rounding; what was beyond the limit stays there."""
        deviation = self.deviation
        scale = np.where(deviation > _RESOLUTION * np.abs(self.mean), deviation, 1.0)
        with np.errstate(
            over="ignore"
        ):  # what is as large as float32 can be may come back as infinite; ``apply`` limits it
            for rows in _blocks(x):
                x[rows] = x[rows] * scale + self.mean

    def to_data(self) -> dict[str, Any]:
        """Return it as data, exactly: ``from_data`` gives the same bits again."""
        until = {} if math.isinf(self.until) else {"until": self.until}
        return {"count": self.count, "mean": self.mean.tolist(), "spread": self.spread.tolist(), **until}

    @classmethod
    def from_data(cls, data: Mapping[str, Any], inputs: int) -> Standardization:
        """Return what the data say, or raise ``DataError``: they are no constants for so many inputs."""
        fields = Fields(data, "standardization", DataError)
        found = cls(
            count=fields.integer("count", 0, _LARGEST_COUNT),
            mean=_numbers(fields, "mean", inputs, -math.inf),
            spread=_numbers(fields, "spread", inputs, 0.0),
            until=fields.number("until", -1e12, 1e12) if fields.has("until") else -math.inf,
        )
        fields.finish()
        return found


def _numbers(fields: Fields, key: str, count: int, low: float) -> Doubles:
    found = fields.anything(key)
    allowed = f"a list of {count} finite numbers" + (" from 0 up" if low == 0.0 else "")
    if not isinstance(found, list | tuple) or len(found) != count:
        raise fields.wrong(key, found, allowed)
    for entry in found:
        if not isinstance(entry, int | float) or isinstance(entry, bool) or not math.isfinite(entry) or entry < low:
            raise fields.wrong(key, entry, allowed)
    return np.array(found, np.float64)


def _blocks(x: FloatArray) -> Iterator[slice]:
    size = max(1, _BLOCK_VALUES // max(1, x.shape[1]))
    for begin in range(0, len(x), size):
        yield slice(begin, begin + size)
