"""What is predicted, row by row, is what training makes of the same rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.sensing.adapters.serving import cut_of, series_of
from device_agent.sensing.recent import MOST_ROWS, Cut, Recent
from device_agent.sensing.rows import Row
from models import Pipeline, Series

T0 = 1_780_000_000.0

BY_ROWS: dict[str, Any] = {
    "channels": ["a", "b"],
    "window": 6,
    "stride": 2,
    "max_gap_s": 5.0,
    "compute": ["mean", "maximum"],
}
BY_STEPS: dict[str, Any] = BY_ROWS | {"every_s": 0.5, "max_hold_s": 2.0}


def row(time: float, values: tuple[float, ...], channels: tuple[str, ...] = ("a", "b")) -> Row:
    return Row(source="s", channels=channels, values=values, time=time)


def asked(pipeline: Pipeline, rows: list[Row]) -> dict[float, bytes]:
    """Return the inputs of every window that is seen when rows come one by one, by its end."""
    recent = Recent(cut_of(pipeline))
    found: dict[float, bytes] = {}
    for each in rows:
        if recent.add(each):
            windows = pipeline.newest(series_of(recent))
            if len(windows):
                end = float(windows.ends[0])
                found[end] = windows.x[0].tobytes()
    return found


def whole(pipeline: Pipeline, rows: list[Row]) -> dict[float, bytes]:
    values = np.array([each.values for each in rows], np.float32).reshape(len(rows), 2)
    series = Series(np.array([each.time for each in rows]), values, np.full(len(rows), np.nan), ("a", "b"))
    windows = pipeline.windows(series)
    return {float(end): x.tobytes() for end, x in zip(windows.ends, windows.x, strict=True)}


numbers = st.one_of(st.floats(-100, 100, width=32), st.just(math.nan))


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 1.0, 9.0]), numbers, numbers), max_size=60), st.integers(1, 8))
def test_windows_of_rows_are_those_of_training(steps: list[tuple[float, float, float]], stride: int) -> None:
    pipeline = Pipeline.from_data(BY_ROWS | {"stride": stride})
    times = np.cumsum([T0] + [step for step, _, _ in steps])[1:]
    rows = [row(float(time), (a, b)) for time, (_, a, b) in zip(times, steps, strict=True)]

    assert asked(pipeline, rows) == whole(pipeline, rows)


@given(st.lists(st.tuples(st.sampled_from([0.05, 0.3, 0.5, 0.9]), numbers, numbers), max_size=80), st.integers(1, 4))
def test_windows_on_a_grid_are_those_of_training(steps: list[tuple[float, float, float]], stride: int) -> None:
    pipeline = Pipeline.from_data(BY_STEPS | {"stride": stride})
    times = np.cumsum([T0] + [step for step, _, _ in steps])[1:]
    rows = [row(float(time), (a, b)) for time, (_, a, b) in zip(times, steps, strict=True)]

    found, wanted = asked(pipeline, rows), whole(pipeline, rows)

    # A row may complete two short windows at once: the older of the two is of no interest any more.
    assert found.items() <= wanted.items()
    if wanted and times[-1] - times[0] > 20.0:
        assert found


def test_rows_of_several_sources_fill_one_table() -> None:
    recent = Recent(cut_of(Pipeline.from_data(BY_ROWS)))

    recent.add(row(T0, (1.0,), ("a",)))
    recent.add(row(T0 + 1, (2.0, 9.0), ("b", "else")))
    recent.add(row(T0 + 2, (3.0,), ("else",)))

    series = series_of(recent)
    assert np.array_equal(series.values, [[1.0, math.nan], [math.nan, 2.0]], equal_nan=True)
    assert series.times.tolist() == [T0, T0 + 1]


def test_a_row_from_before_the_newest_is_left_out() -> None:
    recent = Recent(cut_of(Pipeline.from_data(BY_ROWS)))

    recent.add(row(T0 + 1, (1.0, 1.0)))
    assert not recent.add(row(T0, (2.0, 2.0)))

    assert recent.times == [T0 + 1]


@pytest.mark.parametrize("every_s", [0.0, 0.1])
def test_memory_is_bounded(every_s: float) -> None:
    recent = Recent(
        Cut(channels=("a",), window=10, stride=5, every_s=every_s, rows_needed=0 if every_s else 15, span_s=3.0)
    )

    for number in range(5000):
        recent.add(row(T0 + number * 0.1, (0.0,), ("a",)))

    assert len(recent.times) < 50
    assert len(recent.times) <= MOST_ROWS
