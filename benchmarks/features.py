"""The declared pipeline against a plain loop: nine channels at 50 Hz, windows of 128 rows, half overlapping."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.report import Options, Row, Target, paired, progress, run, spread
from models import Pipeline, Series

_RATE_HZ = 50.0
_MINUTES = 30
_WIDTH, _STRIDE = 128, 64
_CHANNELS = tuple("abcdefghi")
_BANDS = ((0.5, 3.0), (3.0, 10.0))
_NAMES = ["mean", "deviation", "minimum", "maximum", "median", "rms", "change", "mean_crossings"]
SPEC: dict[str, Any] = {
    "channels": list(_CHANNELS),
    "rate_hz": _RATE_HZ,
    "max_gap_s": 1.0,
    "window": _WIDTH,
    "stride": _STRIDE,
    "compute": [*_NAMES, *(f"fft:{low}-{high}Hz" for low, high in _BANDS)],
}
_LATEST_CALLS = 200


def naive(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the same features, window after window and channel after channel, by NumPy's own functions."""
    frequencies = np.fft.rfftfreq(_WIDTH, 1.0 / _RATE_HZ)
    rows = []
    for begin in range(0, len(values) - _WIDTH + 1, _STRIDE):
        row: list[Any] = []
        for x in values[begin : begin + _WIDTH].T.astype(np.float64):
            centered = x - x.mean()
            power = np.abs(np.fft.rfft(centered)) ** 2 / _WIDTH**2 * 2.0
            row += [x.mean(), x.std(), x.min(), x.max(), np.median(x), np.sqrt((x**2).mean())]
            row += [np.abs(np.diff(x)).mean(), (np.diff(centered >= 0.0) != 0).mean()]
            row += [power[(frequencies >= low) & (frequencies < high)].sum() for low, high in _BANDS]
        rows.append(row)
    return np.array(rows, np.float32)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that the call took, and what it gave."""
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def measure(options: Options) -> list[Row]:
    """Measure both over the same recording, in turns; then a single window, as predicting takes it."""
    rows = int(_RATE_HZ * 60 * _MINUTES)
    values = np.random.default_rng(0).normal(size=(rows, len(_CHANNELS))).astype(np.float32)
    series = Series(np.arange(rows, dtype=np.float64) / _RATE_HZ, values, np.full(rows, np.nan), _CHANNELS)
    grid = {name: value for name, value in SPEC.items() if name != "rate_hz"} | {"every_s": 0.02, "max_hold_s": 0.1}
    pipelines = {"rows": Pipeline.from_data(SPEC), "a grid": Pipeline.from_data(grid)}
    ours: dict[str, list[float]] = {name: [] for name in pipelines}
    theirs: list[float] = []
    latest: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(options.repeat):
        progress("features")
        seconds, wanted = timed(partial(naive, values))
        theirs.append(seconds / len(wanted) * 1e6)
        for name, pipeline in pipelines.items():
            seconds, found = timed(partial(pipeline.windows, series))
            if name == "rows":
                np.testing.assert_allclose(found.x, wanted, rtol=1e-4, atol=1e-6)
            ours[name].append(seconds / len(found) * 1e6)
            tail = series.tail(rows - 300)
            calls = [timed(partial(pipeline.latest, tail))[0] for _ in range(_LATEST_CALLS)]
            latest[name].append(statistics.median(calls) * 1e3)
    what = f"{len(_NAMES) + len(_BANDS)} features of {len(_CHANNELS)} channels, a window of {_WIDTH}"
    compared = [
        paired(f"{what}, {name}, against a loop", ours[name], theirs, "us", target=Target(0.1, of_ratio=True))
        for name in pipelines
    ]
    single = [
        Row(
            what=f"the newest window alone, {name}",
            value=statistics.median(latest[name]),
            unit="ms",
            spread=spread(latest[name]),
            # A board that is eight times slower still has most of its 10 ms left.
            target=Target(0.5),
        )
        for name in pipelines
    ]
    return [*compared, *single]


if __name__ == "__main__":
    run("features", "Windows and features against a plain loop", measure, repeat=5)
