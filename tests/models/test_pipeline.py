"""A declared pipeline: what it may say, what it says with every default, and what changes its meaning."""

from __future__ import annotations

from typing import Any

import pytest

from models import FeaturesError, Pipeline

SMALLEST: dict[str, Any] = {"channels": ["t", "h"], "max_gap_s": 60, "window": 10, "compute": ["mean"]}
GRID: dict[str, Any] = SMALLEST | {"every_s": 10, "max_hold_s": 30}
FORECAST: dict[str, Any] = SMALLEST | {"target": "next"}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in SMALLEST.items() if name != key}


@pytest.mark.parametrize(
    "spec",
    [
        SMALLEST,
        GRID | {"standardize": "device", "fill": "value", "fill_value": -1, "label": "majority"},
        SMALLEST | {"compute": "raw", "target": "self", "magnitudes": {"both": ["t", "h"]}},
        FORECAST | {"forecast_steps": 3, "forecast_channels": ["h"], "rate_hz": 50},
        SMALLEST | {"compute": {"h": ["last", "fft:0.1-0.3"]}, "correlation": True},
    ],
)
def test_as_data_it_says_every_default_and_is_the_same_again(spec: dict[str, Any]) -> None:
    pipeline = Pipeline.from_data(spec)
    data = pipeline.to_data()
    assert Pipeline.from_data(data) == pipeline
    assert Pipeline.from_data(data).to_data() == data
    assert Pipeline.from_data(data).digest == pipeline.digest
    assert len(pipeline.names) == pipeline.inputs == len(set(pipeline.names))


def test_inputs_and_outputs_come_about_so() -> None:
    assert Pipeline.from_data(SMALLEST).names == ("t mean", "h mean")
    several = SMALLEST | {"compute": ["mean", "last"], "correlation": True, "magnitudes": {"m": ["t", "h"]}}
    assert Pipeline.from_data(several).names == (
        "t mean", "t last", "h mean", "h last", "m mean", "m last",
        "t h correlation", "t m correlation", "h m correlation",
    )  # fmt: skip
    assert Pipeline.from_data(SMALLEST).outputs is None
    assert Pipeline.from_data(FORECAST | {"forecast_steps": 3}).outputs == 6
    raw = Pipeline.from_data(SMALLEST | {"compute": "raw", "target": "self"})
    assert (raw.inputs, raw.outputs, raw.input_shape) == (20, 20, (10, 2))


def test_seconds_are_steps_of_the_grid() -> None:
    spec = {name: value for name, value in GRID.items() if name != "window"}
    pipeline = Pipeline.from_data(spec | {"window_s": 3600, "stride_s": 600})
    assert (pipeline.window, pipeline.stride, pipeline.rows_needed) == (360, 60, 0)
    assert pipeline.span_s == 421 * 10 + 30
    assert Pipeline.from_data(SMALLEST).rows_needed == 20


def test_the_digest_is_that_of_the_meaning() -> None:
    digest = Pipeline.from_data(GRID).digest
    same: dict[str, Any]
    for same in ({"stride": 3}, {"max_gap_s": 90}, {"max_hold_s": 20}, {"max_missing": 0.5}, {"label": "any"}):
        assert Pipeline.from_data(GRID | same).digest == digest
    others: list[dict[str, Any]] = [
        {"window": 11},
        {"channels": ["h", "t"]},
        {"compute": ["last"]},
        {"every_s": 20},
        {"fill": "interpolate"},
        {"standardize": "device"},
        {"target": "next"},
        {"magnitudes": {"m": ["t"]}},
    ]
    assert len({digest, *(Pipeline.from_data(GRID | other).digest for other in others)}) == 9


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([], r"features: found a list of 0, allowed is a table"),
        (without("channels"), "channels is missing"),
        (SMALLEST | {"channels": []}, "channels is a list of 0, allowed is a list of 1 to 64 different texts"),
        (SMALLEST | {"channels": ["a", "a"]}, "channels is 'a', allowed is a list of 1 to 64 different"),
        (SMALLEST | {"channels": ["a", 3]}, "channels is 3"),
        (SMALLEST | {"channels": [str(i) for i in range(65)]}, "channels is a list of 65"),
        (without("max_gap_s"), "max_gap_s is missing"),
        (SMALLEST | {"max_gap_s": 0}, "max_gap_s is 0, allowed is a number above 0"),
        (without("window"), "window is missing"),
        (SMALLEST | {"window": 1}, "window is 1, allowed is at least 2 rows or steps, unless compute = 'raw'"),
        (SMALLEST | {"window": 2**17}, "window is 131072, allowed is an integer from 1 to 65536"),
        (SMALLEST | {"window": 2**15, "channels": [str(i) for i in range(64)]}, "has 2097152 values"),
        (SMALLEST | {"window_s": 5}, "window_s is 5, allowed is window, in rows, unless there is a grid"),
        (SMALLEST | {"stride": 0}, "stride is 0"),
        (SMALLEST | {"max_hold_s": 5}, "unknown key 'max_hold_s'"),
        (SMALLEST | {"every_s": 5}, "max_hold_s is missing"),
        (SMALLEST | {"every_s": 1e-9}, "every_s is 1e-09, allowed is a number from 0.0001"),
        (GRID | {"max_hold_s": 5}, "max_hold_s is 5, allowed is a number from 10 to"),
        (GRID | {"max_hold_s": 90}, "max_gap_s is 60.0, allowed is at least max_hold_s, 90: nothing is held over"),
        (GRID | {"rate_hz": 5}, "unknown key 'rate_hz'"),
        (GRID | {"stride_s": 15}, "stride_s is 15.0, allowed is a multiple of every_s, 10"),
        (GRID | {"window_s": 100}, "unknown key 'window'"),
        (SMALLEST | {"max_missing": 1.1}, "max_missing is 1.1"),
        (SMALLEST | {"fill": "zero"}, "fill is 'zero', allowed is one of 'hold', 'interpolate', 'value'"),
        (SMALLEST | {"fill": "value"}, "fill_value is missing"),
        (SMALLEST | {"fill_value": 0.0}, "unknown key 'fill_value'"),
        (SMALLEST | {"drop_constant": 1}, "drop_constant is 1, allowed is true or false"),
        (without("compute"), "compute is missing"),
        (SMALLEST | {"compute": "all"}, "compute is 'all', allowed is 'raw', a list of features, or a table"),
        (SMALLEST | {"compute": []}, "compute is a list of 0"),
        (SMALLEST | {"compute": ["average"]}, "compute has 'average', allowed is one of 'mean', 'deviation'"),
        (SMALLEST | {"compute": ["fft:1-2Hz"]}, "compute has 'fft:1-2Hz', allowed is cycles per row"),
        (SMALLEST | {"compute": {"t": ["mean"], "x": ["mean"]}}, "compute: unknown key 'x', allowed are 't'"),
        (SMALLEST | {"compute": {"t": ["no"]}}, "t has 'no', allowed is one of"),
        (SMALLEST | {"compute": {}}, "allowed is a table that names the features of at least one channel"),
        (SMALLEST | {"compute": "raw", "correlation": True}, "unknown key 'correlation'"),
        (SMALLEST | {"channels": ["t"], "correlation": True}, "correlation is True, allowed is false with a single"),
        (SMALLEST | {"magnitudes": {}}, "magnitudes is a table of 0"),
        (SMALLEST | {"magnitudes": {"t": ["h"]}}, "magnitudes is 't'.*under a name that no channel has"),
        (SMALLEST | {"magnitudes": {"m": ["x"]}}, "magnitudes: m is 'x', allowed is one of the channels 't', 'h'"),
        (SMALLEST | {"target": "y"}, "target is 'y', allowed is one of 'label', 'next', 'self'"),
        (SMALLEST | {"label": "first"}, "label is 'first', allowed is one of 'last', 'majority'"),
        (SMALLEST | {"label_share": 0.5}, "unknown key 'label_share'"),
        (FORECAST | {"label": "last"}, "unknown key 'label'"),
        (FORECAST | {"forecast_channels": ["x"]}, "forecast_channels is 'x', allowed is some of the channels"),
        (SMALLEST | {"forecast_steps": 1}, "unknown key 'forecast_steps'"),
        (SMALLEST | {"standardize": "yes"}, "standardize is 'yes', allowed is one of 'none', 'device'"),
        (SMALLEST | {"windows": 3}, "unknown key 'windows'"),
    ],
)
def test_what_cannot_be_is_refused_with_key_found_and_allowed(spec: Any, message: str) -> None:
    with pytest.raises(FeaturesError, match=message):
        Pipeline.from_data(spec)


def test_columns_of_statistics_have_names_where_they_are_inputs_or_channels() -> None:
    raw = {"channels": ["x", "y"], "rate_hz": 10, "window": 3, "stride": 3, "max_gap_s": 1.0, "compute": "raw"}
    pipeline = Pipeline.from_data(raw | {"magnitudes": {"size": ["x", "y"]}})
    assert pipeline.columns(3) == ("x", "y", "size")
    assert pipeline.columns(9) == pipeline.names
    assert pipeline.columns(4) == ()
    assert Pipeline.from_data(SMALLEST).columns(2) == ("t mean", "h mean")
