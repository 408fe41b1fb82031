"""Figures that describe a window of a channel: what each is called, and its formula.

Every figure is computed window by window along the last, contiguous axis, so its bits do not depend on how many windows
are computed at once. ``x`` is a window of W values, ``m`` its mean, ``s`` its deviation; of a constant window
everything that is relative to ``s`` is 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Doubles: TypeAlias = NDArray[np.float64]

LEAST_POWER = 1e-12
"""Added before the logarithm of a band's power, so that silence has one."""

_ROUNDING = 1e-9
"""Borders of bands are decimal fractions; a bin that lies on one must not fall to rounding."""


class Block:
    """Windows of channels, float64 ``(windows, channels, W)``, contiguous; what several figures need is kept."""

    def __init__(self, values: Doubles, rate: float) -> None:
        self.values = values
        self.rate = rate
        """Rows per second; 1 where frequencies are in cycles per row."""
        self.width = values.shape[2]

    @cached_property
    def minimum(self) -> Doubles:
        """The smallest value of each window."""
        return np.asarray(np.minimum.reduce(self.values, axis=2))

    @cached_property
    def maximum(self) -> Doubles:
        """The largest value of each window."""
        return np.asarray(np.maximum.reduce(self.values, axis=2))

    @cached_property
    def constant(self) -> NDArray[np.bool_]:
        """Whether all values of a window are the same."""
        return np.asarray(self.minimum == self.maximum)

    @cached_property
    def mean(self) -> Doubles:
        """``m``."""
        return _mean(self.values)

    @cached_property
    def centered(self) -> Doubles:
        """``x - m``; exactly 0 in a constant window, whose mean may be off by rounding."""
        centered = self.values - self.mean[:, :, None]
        centered[self.constant] = 0.0
        return centered

    @cached_property
    def variance(self) -> Doubles:
        """``s ** 2 = mean((x - m) ** 2)``: of the window itself, divided by W."""
        return _mean(self.centered * self.centered)

    @cached_property
    def deviation(self) -> Doubles:
        """``s``."""
        return np.sqrt(self.variance)

    @cached_property
    def ordered(self) -> Doubles:
        """The values of each window by size."""
        return np.sort(self.values, axis=2)

    @cached_property
    def power(self) -> Doubles:
        """One-sided periodogram without a taper: bin k is the part of the variance at k / W cycles per row."""
        spectrum = np.fft.rfft(self.centered, axis=2)
        power = (spectrum.real**2 + spectrum.imag**2) / float(self.width) ** 2
        power[:, :, 1 : (self.width + 1) // 2] *= 2.0
        return power


Kernel: TypeAlias = Callable[[Block], Doubles]


@dataclass(frozen=True, slots=True)
class Feature:
    """One figure of a channel: ``kernel`` gives it as ``(windows, channels)``."""

    name: str
    kernel: Kernel


def feature(name: str, width: int, rate: float | None) -> Feature:
    """Return the feature of that name for windows of ``width`` rows, or raise ``ValueError`` saying what is allowed.

    ``rate`` is in rows per second; None when nobody said, and then there are no Hz.
    """
    if name in _PLAIN:
        return Feature(name, _PLAIN[name])
    if found := _BAND.fullmatch(name):
        first, last = _bins(found, width, rate)
        return Feature(name, partial(_band, first=first, last=last, logarithm=found["kind"] == "logfft"))
    if (found := _QUANTILE.fullmatch(name)) and float(found["share"]) <= 1.0:
        return Feature(name, partial(_quantile, share=float(found["share"])))
    raise ValueError("one of " + ", ".join(repr(known) for known in FEATURE_NAMES))


def correlations(block: Block) -> Doubles:
    """Return Pearson's correlation of every pair of channels, ``(windows, pairs)``: (0, 1), (0, 2), ... (1, 2), ..."""
    channels = block.values.shape[1]
    parts = [np.empty((len(block.values), 0))]
    for one in range(channels - 1):
        product = _mean(block.centered[:, one, None, :] * block.centered[:, one + 1 :, :])
        scale = block.deviation[:, one, None] * block.deviation[:, one + 1 :]
        parts.append(np.clip(_ratio(product, scale), -1.0, 1.0))
    return np.concatenate(parts, axis=1)


def _mean(values: Doubles) -> Doubles:
    return np.asarray(np.add.reduce(values, axis=2) / values.shape[2])


def _ratio(above: Doubles, below: Doubles) -> Doubles:
    """Return the quotient, 0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0.0)


def _energy(block: Block) -> Doubles:
    return _mean(block.values * block.values)


def _change(block: Block) -> Doubles:
    return _mean(np.abs(np.diff(block.values, axis=2)))


def _crossings(values: Doubles) -> Doubles:
    above = values >= 0.0
    changed = above[:, :, 1:] != above[:, :, :-1]
    return np.asarray(np.count_nonzero(changed, axis=2) / changed.shape[2])


def _slope(block: Block) -> Doubles:
    steps = np.arange(block.width) - (block.width - 1) / 2.0
    return np.asarray(_mean(block.centered * steps) / (float(np.add.reduce(steps * steps)) / block.width))


def _moment(block: Block, power: int, above_normal: float) -> Doubles:
    moment = block.centered * block.centered
    if power == 3:  # noqa: PLR2004 - skewness
        moment *= block.centered
        scale = block.variance * block.deviation
    else:
        moment *= moment
        scale = block.variance * block.variance
    return np.where(block.constant, 0.0, _ratio(_mean(moment), scale) - above_normal)


def _quantile(block: Block, share: float) -> Doubles:
    place = (block.width - 1) * share
    below = math.floor(place)
    above = min(below + 1, block.width - 1)
    low, high = block.ordered[:, :, below], block.ordered[:, :, above]
    return np.asarray(low + (high - low) * (place - below))


def _band(block: Block, *, first: int, last: int, logarithm: bool) -> Doubles:
    # Contiguous, so that the sum of a band is the same sum however many windows there are.
    power = np.asarray(np.add.reduce(np.ascontiguousarray(block.power[:, :, first:last]), axis=2))
    return np.asarray(np.log(power + LEAST_POWER)) if logarithm else power


def _frequencies(block: Block) -> Doubles:
    return np.asarray(np.arange(block.power.shape[2]) * (block.rate / block.width))


def _fft_mean(block: Block) -> Doubles:
    total = np.asarray(np.add.reduce(block.power, axis=2))
    return _ratio(np.asarray(np.add.reduce(block.power * _frequencies(block), axis=2)), total)


def _fft_peak(block: Block) -> Doubles:
    # A constant window's powers are all 0, of which the first, at frequency 0, is found.
    return np.asarray(_frequencies(block)[np.argmax(block.power, axis=2)])


_PLAIN: dict[str, Kernel] = {
    "mean": lambda block: block.mean,
    "deviation": lambda block: block.deviation,
    "minimum": lambda block: block.minimum,
    "maximum": lambda block: block.maximum,
    "range": lambda block: block.maximum - block.minimum,
    "median": partial(_quantile, share=0.5),
    "first": lambda block: block.values[:, :, 0],
    "last": lambda block: block.values[:, :, -1],
    "rms": lambda block: np.sqrt(_energy(block)),
    "energy": _energy,
    "change": _change,
    "slope": _slope,
    "zero_crossings": lambda block: _crossings(block.values),
    "mean_crossings": lambda block: _crossings(block.centered),
    "skewness": partial(_moment, power=3, above_normal=0.0),
    "kurtosis": partial(_moment, power=4, above_normal=3.0),
    "fft_mean": _fft_mean,
    "fft_peak": _fft_peak,
}

FEATURE_NAMES = (*_PLAIN, "quantile:SHARE", "fft:LOW-HIGH", "fft:LOW-HIGHHz", "logfft:LOW-HIGH", "logfft:LOW-HIGHHz")

_NUMBER = r"\d{1,6}(?:\.\d{1,6})?"
_QUANTILE = re.compile(rf"quantile:(?P<share>{_NUMBER})")
_BAND = re.compile(rf"(?P<kind>fft|logfft):(?P<low>{_NUMBER})-(?P<high>{_NUMBER})(?P<hertz>Hz)?")


def _bins(found: re.Match[str], width: int, rate: float | None) -> tuple[int, int]:
    """Return the first bin of the band and the one behind its last: LOW <= frequency < HIGH; half the rate is in."""
    low, high = float(found["low"]), float(found["high"])
    if found["hertz"] and rate is None:
        raise ValueError("cycles per row, such as 'fft:0.1-0.2', unless every_s or rate_hz says how many rows a second")
    unit = rate if found["hertz"] and rate is not None else 1.0
    if not low < high <= unit / 2.0:
        raise ValueError(f"LOW-HIGH with LOW below HIGH and HIGH at most {unit / 2.0:g} (half the rate)")
    first = math.ceil(low / unit * width - _ROUNDING)
    last = math.ceil(high / unit * width - _ROUNDING)
    if high >= unit / 2.0:
        last = width // 2 + 1
    if last <= first or last == 1:
        raise ValueError(f"a band with a multiple of {unit / width:g} in it: finer a window of {width} rows cannot see")
    return first, last
