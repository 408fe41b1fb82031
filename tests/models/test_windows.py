"""Windows against plain ones, and the same bits whatever was evicted before, appended behind, or computed at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import DataError, Pipeline, Series, Windows
from models import windows as windows_module
from tests.models import plain_windows

NAN = float("nan")
BEGIN = 1_700_000_000.0

ROWS: dict[str, Any] = {"channels": ["a", "b"], "max_gap_s": 2.5, "window": 4, "compute": "raw", "max_missing": 0.5}
GRID: dict[str, Any] = ROWS | {"every_s": 0.7, "max_hold_s": 1.5}
SPECS: list[dict[str, Any]] = [
    ROWS | {"stride": 2},
    ROWS | {"stride": 3, "fill": "interpolate", "label": "majority", "label_share": 0.6},
    ROWS | {"stride": 1, "fill": "value", "fill_value": -7.0, "max_missing": 1.0, "label": "any"},
    ROWS | {"stride": 7, "channels": ["b"], "label": "mean", "drop_constant": True},
    ROWS | {"stride": 2, "target": "next", "forecast_steps": 2, "forecast_channels": ["b"]},
    ROWS | {"stride": 1, "window": 5, "compute": ["mean", "deviation", "median", "slope", "kurtosis", "fft:0.1-0.5"]},
    ROWS | {"stride": 2, "compute": ["skewness"], "correlation": True, "magnitudes": {"m": ["a", "b"]}},
    GRID | {"stride": 2},
    GRID | {"stride": 3, "fill": "interpolate", "label": "mean"},
    GRID | {"stride": 1, "label": "majority", "max_missing": 1.0, "fill": "value", "fill_value": 0.0},
    GRID | {"stride": 2, "target": "next", "forecast_steps": 1},
    GRID | {"stride": 1, "compute": ["rms", "change", "fft_peak"], "target": "self"},
    GRID | {"stride": 5, "every_s": 0.1, "max_hold_s": 0.1, "label": "any", "max_missing": 1.0},
]
PIPELINES = [Pipeline.from_data(spec) for spec in SPECS]


def series(
    times: Sequence[float], values: Sequence[Sequence[float]], labels: Sequence[float] | None = None, first_id: int = 0
) -> Series:
    rows = len(times)
    return Series(
        np.array(times, np.float64) + BEGIN,
        np.array(values, np.float32).reshape(rows, -1),
        np.array([NAN] * rows if labels is None else labels, np.float64),
        ("a", "b", "c")[: np.array(values).reshape(rows, -1).shape[1]],
        np.arange(first_id, first_id + rows, dtype=np.int64),
    )


VALUES = st.sampled_from([0.0, 1.0, 1.0, -2.5, 1e-3, 77.25, 3e38, NAN, NAN, math.inf]) | st.floats(-9, 9, width=32)


@st.composite
def any_series(draw: st.DrawFn) -> Series:
    rows = draw(st.integers(0, 30))
    steps = draw(st.lists(st.sampled_from([0.0, 0.3, 0.7, 0.7, 1.0, 2.5, 2.6, 9.0]), min_size=rows, max_size=rows))
    values = draw(st.lists(st.lists(VALUES, min_size=2, max_size=2), min_size=rows, max_size=rows))
    labels = draw(st.lists(st.sampled_from([NAN, 0.0, 1.0, 1.0, 2.0]), min_size=rows, max_size=rows))
    holes = draw(st.lists(st.sampled_from([1, 1, 1, 2, 6]), min_size=rows, max_size=rows))
    return Series(
        np.cumsum(np.array(steps, np.float64)) + BEGIN,
        np.array(values, np.float32).reshape(rows, 2),
        np.array(labels, np.float64),
        ("a", "b"),
        np.cumsum(np.array(holes, np.int64)) + draw(st.integers(-5, 50)),
    )


def part(whole: Series, begin: int, end: int) -> Series:
    return Series(
        whole.times[begin:end],
        whole.values[begin:end],
        whole.labels[begin:end],
        whole.channels,
        whole.ids[begin:end],
    )


def rows_of(windows: Windows) -> list[tuple[float, bytes, bytes]]:
    return [
        (start, x.tobytes(), y.tobytes() if isinstance(y, np.ndarray) else np.float64(y).tobytes())
        for start, x, y in zip(windows.starts.tolist(), windows.x, windows.y, strict=True)
    ]


@pytest.mark.parametrize("pipeline", PIPELINES, ids=range(len(PIPELINES)))
@settings(max_examples=25, deadline=None)
@given(data=any_series())
def test_windows_are_those_that_the_plain_way_finds(pipeline: Pipeline, data: Series) -> None:
    found = pipeline.windows(data)
    wanted = [window for window in plain_windows.windows(pipeline, data) if plain_windows.kept(pipeline, window)]
    if pipeline.drop_constant:
        wanted = [w for w in wanted if (np.ptp(plain_windows.filled(pipeline, w), axis=0) > 0).all()]
    assert found.starts.tolist() == [window.start for window in wanted]
    assert found.ends.tolist() == [window.end for window in wanted]
    assert found.counts.kept == len(found) == len(found.y)
    assert np.isfinite(found.x).all()
    assert found.x.dtype == np.float32
    assert found.x.shape == (len(wanted), pipeline.inputs)
    if pipeline.raw:
        values = [plain_windows.filled(pipeline, window).ravel() for window in wanted]
        np.testing.assert_allclose(found.x, np.reshape(values, found.x.shape), rtol=1e-6)
    if pipeline.target == "label":
        np.testing.assert_allclose(found.y, [plain_windows.label(pipeline, window) for window in wanted], rtol=1e-12)
        assert found.counts.unlabelled == np.isnan(found.y).sum() == len(found) - len(found.labelled())
    if pipeline.target == "next":
        columns = [pipeline.channels.index(name) for name in pipeline.forecast_channels]
        values = [window.ahead[:, columns].ravel() for window in wanted]
        np.testing.assert_allclose(found.y, np.reshape(values, found.y.shape), rtol=1e-6)
        assert found.y.shape == (len(wanted), pipeline.outputs)


@pytest.mark.parametrize("pipeline", PIPELINES, ids=range(len(PIPELINES)))
@settings(max_examples=25, deadline=None)
@given(data=any_series(), cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_neither_eviction_nor_what_comes_later_changes_a_window(
    pipeline: Pipeline, data: Series, cuts: tuple[float, float]
) -> None:
    begin, end = sorted(int(share * len(data)) for share in cuts)
    whole = rows_of(pipeline.windows(data))
    assert set(rows_of(pipeline.windows(part(data, begin, end)))) <= set(whole)
    early = rows_of(pipeline.windows(part(data, 0, end)))
    assert early == whole[: len(early)]
    late = rows_of(pipeline.windows(part(data, begin, len(data))))
    assert late == whole[len(whole) - len(late) :]
    # Only those that reach back to what is no longer there, or may, are left out.
    if begin < len(data) and (pipeline.every_s or (np.diff(data.ids) == 1).all()):
        assert len(late) >= sum(row[0] - data.times[begin] > pipeline.max_hold_s for row in whole)


@pytest.mark.parametrize("pipeline", PIPELINES, ids=range(len(PIPELINES)))
@settings(max_examples=15, deadline=None)
@given(data=any_series())
def test_blocks_of_any_size_and_the_latest_alone_have_the_same_bits(pipeline: Pipeline, data: Series) -> None:
    whole = pipeline.windows(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows_module, "BLOCK_VALUES", 1)
        assert rows_of(pipeline.windows(data)) == rows_of(whole)
    if pipeline.target == "next":
        return
    newest = pipeline.windows(data, most=1)
    latest = pipeline.latest(data)
    if latest is not None:
        assert latest.shape == (1, pipeline.inputs)
        assert rows_of(newest)[0][:2] == (whole.starts[-1], latest.tobytes())
    elif len(newest) and pipeline.every_s:
        assert newest.starts[0] < data.times[-1] - pipeline.span_s + pipeline.max_hold_s + pipeline.every_s
    elif len(newest):
        assert newest.starts[0] <= data.times[max(0, len(data) - pipeline.rows_needed)]
    tail = data.tail(max(0, len(data) - pipeline.rows_needed) if pipeline.rows_needed else 0)
    if pipeline.every_s and len(data):
        first = int(np.searchsorted(data.times, data.times[-1] - pipeline.span_s))
        tail = data.tail(max(0, first - 1))
    again = pipeline.latest(tail)
    assert (again is None) == (latest is None)
    assert again is None or latest is None or again.tobytes() == latest.tobytes()


@pytest.mark.parametrize("pipeline", PIPELINES, ids=range(len(PIPELINES)))
@settings(max_examples=12, deadline=None)
@given(data=any_series(), wait=st.sampled_from([0.0, 0.7, 1.4, 30.0]))
def test_who_knows_that_no_row_is_missing_need_not_wait_for_the_next(
    pipeline: Pipeline, data: Series, wait: float
) -> None:
    until = (float(data.times[-1]) if len(data) else BEGIN) + wait
    early = rows_of(pipeline.windows(data, until=until))
    wanted = [w for w in plain_windows.windows(pipeline, data, until) if plain_windows.kept(pipeline, w)]
    if not pipeline.drop_constant:
        assert [row[0] for row in early] == [window.start for window in wanted]
    later = Series(
        np.append(data.times, until + 0.001),
        np.append(data.values, np.full((1, 2), 5.0, np.float32), axis=0),
        np.append(data.labels, NAN),
        data.channels,
        np.append(data.ids, data.ids.max(initial=0) + 1),
    )
    assert early == rows_of(pipeline.windows(later))[: len(early)]


def simple(**changed: Any) -> Pipeline:
    return Pipeline.from_data({"channels": ["a"], "max_gap_s": 10, "window": 2, "compute": "raw"} | changed)


def test_a_window_is_laid_out_row_after_row() -> None:
    pipeline = simple(channels=["b", "a"])
    found = pipeline.windows(series([0, 1, 2, 3], [[1, 10], [2, 20], [3, 30], [4, 40]]))
    assert found.x.tolist() == [[10, 1, 20, 2], [30, 3, 40, 4]]
    assert pipeline.input_shape == (2, 2)
    assert pipeline.names == ("b 0", "a 0", "b 1", "a 1")


def test_sensors_that_report_at_different_moments_line_up_on_a_grid() -> None:
    pipeline = simple(channels=["a", "b"], every_s=10.0, max_hold_s=25.0, max_gap_s=100.0, window=3, max_missing=0.4)
    data = series([0, 4, 28, 31, 47, 58, 61], [[1, NAN], [NAN, 5], [2, NAN], [NAN, 6], [3, NAN], [4, NAN], [0, 0]])
    found = pipeline.windows(data)
    # 1,700,000,000 + 40 is a multiple of 3 steps; at 60 the 6 is 29 s old: missing, and filled by hold.
    assert (found.starts - BEGIN).tolist() == [40.0]
    assert found.x.tolist() == [[2, 6, 3, 6, 4, 6]]
    assert found.counts.filled == 1


def test_counts_say_what_was_dropped_and_why() -> None:
    pipeline = simple(channels=["a", "b"], max_missing=0.5, drop_constant=True, fill="value", fill_value=0.0)
    times = [0, 1, 2, 3, 30, 31, 32, 60, 61, 62, 63, 64]
    values: list[list[float]] = [
        [1, 2],
        [2, 3],
        [NAN, 1],
        [NAN, 2],
        [5, 6],
        [6, 7],
        [7, 8],
        [9, 9],
        [1, 1],
        [1, 2],
        [1, NAN],
        [2, 3],
    ]
    counts = pipeline.windows(series(times, values, [0] * 11 + [NAN])).counts
    # Rows 0-1 are kept; 2-3 miss a; 4-5 are kept; 6-7 lie across a gap; 8-9 are constant in a; 10-11 have b filled.
    assert counts.to_data() == {
        "kept": 3, "gap": 1, "missing": 1, "constant": 1, "no_target": 0, "older": 0, "unlabelled": 0, "filled": 1,
        "still": 0,
    }  # fmt: skip
    assert (counts + counts).kept == 6


def test_a_sensor_that_froze_is_counted() -> None:
    found = simple().windows(series([0, 1, 2, 3], [[1.0], [1.0], [1.0], [2.0]]))
    assert (len(found), found.counts.still) == (2, 1)


def test_a_forecast_without_its_target_is_dropped_and_the_latest_needs_none() -> None:
    pipeline = simple(target="next", stride=1)
    data = series([0, 1, 2, 3, 4], [[1], [2], [NAN], [4], [5]])
    found = pipeline.windows(data)
    assert (found.x.tolist(), found.y.tolist(), found.counts.no_target) == ([], [], 1)
    latest = pipeline.latest(data)
    assert latest is not None
    assert latest.tolist() == [[4, 5]]


def test_a_target_of_itself_follows_its_inputs() -> None:
    found = simple(target="self").windows(series([0, 1], [[1], [2]]))
    found.x[...] = 9.0
    assert found.y.tolist() == [[9, 9]]


@pytest.mark.parametrize(
    ("rule", "labels", "wanted"),
    [
        ({"label": "last"}, [1, 2, NAN, 3], 3.0),
        ({"label": "last"}, [1, 2, NAN, NAN], 2.0),
        ({"label": "last"}, [NAN, NAN, NAN, NAN], NAN),
        ({"label": "majority"}, [1, 1, 1, 2], 1.0),
        ({"label": "majority"}, [1, 1, 2, 2], NAN),
        ({"label": "majority"}, [0, NAN, NAN, NAN], 0.0),
        ({"label": "majority"}, [0, 0, 1, 2], 0.0),
        ({"label": "majority", "label_share": 0.6}, [0, 0, 1, 2], NAN),
        ({"label": "majority", "label_share": 1.0}, [2, 2, NAN, 2], 2.0),
        ({"label": "any"}, [0, 1, 0, 0], 1.0),
        ({"label": "any"}, [0, NAN, 0, 0], 0.0),
        ({"label": "any"}, [NAN, NAN, NAN, NAN], NAN),
        ({"label": "mean"}, [1, 2, NAN, 6], 3.0),
        ({"label": "mean"}, [NAN, NAN, NAN, math.inf], NAN),
    ],
)
def test_labels_by_rule(rule: dict[str, Any], labels: list[float], wanted: float) -> None:
    data = series([0, 1, 2, 3, 4], [[1], [2], [3], [4], [5]], [*labels, 8])
    found = simple(window=4, **rule).windows(data)
    assert found.y.dtype == np.float64
    np.testing.assert_equal(found.y.tolist(), [wanted])


def test_a_label_that_comes_later_is_found_then() -> None:
    data = series([0, 1], [[1], [2]])
    assert math.isnan(simple().windows(data).y.item())
    data.labels[1] = 1.0
    assert simple().windows(data).y.item() == 1.0


def test_a_majority_among_measured_values_is_refused() -> None:
    data = series(list(range(1001)), [[0.0]] * 1001, list(range(1001)))
    with pytest.raises(DataError, match=r"1001 different ones.*label = 'last' or 'mean'"):
        simple(label="majority").windows(data)


def test_a_channel_that_nobody_gives_is_named() -> None:
    with pytest.raises(DataError, match="no channel 'humidity': there are 'a', 'b'"):
        simple(channels=["a", "humidity"]).windows(series([0], [[1, 2]]))


def test_what_float32_cannot_hold_becomes_its_largest() -> None:
    found = simple(compute=["energy"]).windows(series([0, 1], [[3e38], [3e38]]))
    assert found.x.item() == np.finfo(np.float32).max


def test_times_that_stand_still_are_no_gap_and_on_a_grid_the_last_value_counts() -> None:
    assert simple().windows(series([5, 5, 5, 5], [[1], [2], [3], [4]])).x.tolist() == [[1, 2], [3, 4]]
    pipeline = simple(every_s=1.0, max_hold_s=1.0, window=1)
    found = pipeline.windows(series([0, 2, 2, 2, 3], [[1], [2], [3], [NAN], [4]]))
    assert found.x.ravel().tolist() == [3.0]


def test_a_clock_that_jumps_by_fifty_years_makes_no_windows_in_between() -> None:
    data = series([-1.7e9, -1.7e9 + 1, -1.7e9 + 2, 0, 1, 2, 3], [[1], [2], [3], [4], [5], [6], [7]])
    pipeline = simple(every_s=0.01, max_hold_s=1.0, window=100, stride=100, max_gap_s=5.0, compute=["mean"])
    found = pipeline.windows(data)
    # Nothing to hold in the first second, nor a second after a row; after the gap there is no need to wait.
    assert (found.starts - BEGIN).tolist() == [-1_700_000_000 + 2, 0, 1, 2]


def test_no_more_windows_than_there_is_room_for_are_ever_written_down() -> None:
    data = series([0, 9e6, 9e6 + 1], [[1], [2], [3]])
    pipeline = simple(every_s=1e-4, max_hold_s=9e6, max_gap_s=9.5e6, window=1)
    found = pipeline.windows(data, most=5)
    assert len(found) == 5
    assert found.counts.older > 9_000
    assert found.x.ravel().tolist() == [2.0] * 5


def test_a_long_series_needs_few_copies() -> None:
    import tracemalloc  # noqa: PLC0415 - used by this test alone

    rows = 100_000
    data = Series(
        np.arange(rows, dtype=np.float64), np.zeros((rows, 9), np.float32), np.full(rows, NAN), tuple("abcdefghi")
    )
    spec = {"channels": list("abcdefghi"), "window": 128, "stride": 64, "max_gap_s": 1, "compute": ["mean", "fft_peak"]}
    for changed in ({}, {"every_s": 1.0, "max_hold_s": 1.0}):
        pipeline = Pipeline.from_data(spec | changed)
        tracemalloc.start()
        pipeline.windows(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * data.values.nbytes
