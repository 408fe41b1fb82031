"""The features once more, in plain Python and as their formulas stand: what the fast ones are compared with."""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Callable, Sequence
from statistics import correlation, fmean, median, pstdev

Window = Sequence[float]


def powers(window: Window) -> list[float]:
    """Return the one-sided periodogram by the definition of the discrete Fourier transform."""
    width, mean = len(window), math.fsum(window) / len(window)
    found = []
    for k in range(width // 2 + 1):
        turns = [cmath.exp(-2j * math.pi * k * i / width) for i in range(width)]
        total = sum((x - mean) * turn for x, turn in zip(window, turns, strict=True))
        doubled = 1 if k == 0 or 2 * k == width else 2
        found.append(doubled * abs(total) ** 2 / width**2)
    return found


def band(window: Window, low: float, high: float) -> float:
    """Return the power at frequencies from low up to, but without, high; in cycles per row. Half the rate is in."""
    return math.fsum(
        power
        for k, power in enumerate(powers(window))
        if low <= k / len(window) < high or (high == 0.5 and 2 * k == len(window))
    )


def slope(window: Window) -> float:
    middle, mean = (len(window) - 1) / 2, fmean(window)
    above = math.fsum((i - middle) * (x - mean) for i, x in enumerate(window))
    return above / math.fsum((i - middle) ** 2 for i in range(len(window)))


def moment(window: Window, power: int) -> float:
    mean, deviation = fmean(window), pstdev(window)
    return fmean([((x - mean) / deviation) ** power for x in window])


def crossings(window: Window, level: float) -> float:
    above = [x >= level for x in window]
    return fmean([float(one != other) for one, other in itertools.pairwise(above)])


def quantile(window: Window, share: float) -> float:
    ordered, place = sorted(window), share * (len(window) - 1)
    low = ordered[math.floor(place)]
    return low + (ordered[math.ceil(place)] - low) * (place - math.floor(place))


def mean_frequency(window: Window) -> float:
    found = powers(window)
    return math.fsum(k / len(window) * power for k, power in enumerate(found)) / math.fsum(found)


def peak(window: Window) -> float:
    found = powers(window)
    return found.index(max(found)) / len(window)


PLAIN: dict[str, Callable[[Window], float]] = {
    "mean": fmean,
    "deviation": pstdev,
    "minimum": min,
    "maximum": max,
    "range": lambda window: max(window) - min(window),
    "median": median,
    "first": lambda window: window[0],
    "last": lambda window: window[-1],
    "rms": lambda window: math.sqrt(fmean([x * x for x in window])),
    "energy": lambda window: fmean([x * x for x in window]),
    "change": lambda window: fmean([abs(b - a) for a, b in itertools.pairwise(window)]),
    "slope": slope,
    "zero_crossings": lambda window: crossings(window, 0.0),
    "mean_crossings": lambda window: crossings(window, fmean(window)),
    "skewness": lambda window: moment(window, 3),
    "kurtosis": lambda window: moment(window, 4) - 3.0,
    "fft_mean": mean_frequency,
    "fft_peak": peak,
    "quantile:0.1": lambda window: quantile(window, 0.1),
    "quantile:1": max,
    "fft:0-0.25": lambda window: band(window, 0.0, 0.25),
    "fft:0.25-0.5": lambda window: band(window, 0.25, 0.5),
    "logfft:0.1-0.3": lambda window: math.log(band(window, 0.1, 0.3) + 1e-12),
}

pearson = correlation
