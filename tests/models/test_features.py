"""Every feature against the same in plain Python; constant windows; what is no feature."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.features import FEATURE_NAMES, Block, correlations, feature
from tests.models.plain_features import PLAIN, pearson


def block(seed: int, width: int, rate: float = 1.0) -> Block:
    values = np.random.default_rng(seed).normal(0.5, 2.0, (4, 3, width))
    return Block(values.astype(np.float32).astype(np.float64), rate)


def test_every_plain_feature_is_compared_with_its_formula() -> None:
    assert {name for name in FEATURE_NAMES if ":" not in name} <= set(PLAIN)


@pytest.mark.parametrize("width", [8, 9, 16, 31])
@pytest.mark.parametrize("name", PLAIN)
def test_a_feature_is_what_its_formula_says(name: str, width: int) -> None:
    windows = block(width, width)
    found = feature(name, width, None).kernel(windows)
    wanted = [[PLAIN[name](values.tolist()) for values in window] for window in windows.values]
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_bands_in_hertz_are_those_in_cycles_per_row() -> None:
    windows = block(1, 64, rate=50.0)
    in_hertz = feature("fft:5-12.5Hz", 64, 50.0).kernel(windows)
    assert in_hertz.tolist() == feature("fft:0.1-0.25", 64, 50.0).kernel(windows).tolist()


def test_frequencies_are_in_hertz_where_the_rate_is_known() -> None:
    wave = np.sin(2 * np.pi * 6.25 * np.arange(64) / 50.0)[None, None, :]
    assert feature("fft_peak", 64, 50.0).kernel(Block(wave, 50.0)).item() == pytest.approx(6.25)
    assert feature("fft_mean", 64, 50.0).kernel(Block(wave, 50.0)).item() == pytest.approx(6.25)


@pytest.mark.parametrize("width", [15, 16])
def test_all_bands_together_hold_the_variance(width: int) -> None:
    windows = block(2, width)
    total = feature("fft:0-0.5", width, None).kernel(windows)
    np.testing.assert_allclose(total, windows.variance, rtol=1e-12)


def test_correlations_of_every_pair() -> None:
    windows = block(3, 20)
    pairs = [(0, 1), (0, 2), (1, 2)]
    wanted = [[pearson(window[a].tolist(), window[b].tolist()) for a, b in pairs] for window in windows.values]
    np.testing.assert_allclose(correlations(windows), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("level", [0.0, 0.1, -1e30, 1.1754942e-38])
@pytest.mark.parametrize("name", [name for name in FEATURE_NAMES if ":" not in name])
def test_a_constant_window_has_finite_features_and_no_spread(name: str, level: float) -> None:
    value = float(np.float32(level))
    still = Block(np.full((1, 2, 7), value), 1.0)
    found = feature(name, 7, None).kernel(still)
    same = {"mean", "minimum", "maximum", "median", "first", "last"}
    wanted = {"rms": abs(value), "energy": value * value}.get(name, value if name in same else 0.0)
    np.testing.assert_allclose(found, np.full((1, 2), wanted), rtol=1e-12)
    assert not correlations(still).any()


@pytest.mark.parametrize("name", list(PLAIN))
def test_the_largest_and_the_smallest_numbers_give_finite_features(name: str) -> None:
    largest, smallest = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)
    for scale in (largest, smallest):
        values = np.array([[[1.0, -1.0, 1.0, 1.0, -1.0, 0.0, 0.0, 1.0]]]) * scale
        assert np.isfinite(feature(name, 8, None).kernel(Block(values, 1.0))).all()


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [
        ("average", None, "one of 'mean', 'deviation'"),
        ("quantile:1.5", None, "one of"),
        ("quantile:-1", None, "one of"),
        ("fft", None, "one of"),
        ("fft:1e5-2", None, "one of"),
        ("fft:1-2Hz", None, "cycles per row"),
        ("fft:0.2-0.1", None, "LOW below HIGH and HIGH at most 0.5"),
        ("fft:0.2-0.6", None, "HIGH at most 0.5"),
        ("fft:5-30Hz", 50.0, "HIGH at most 25"),
        ("fft:0.26-0.27", None, "a band with a multiple of 0.125 in it"),
        ("fft:0-0.1", None, "a band with a multiple of 0.125 in it"),
    ],
)
def test_what_is_no_feature_is_refused_with_what_is_allowed(name: str, rate: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature(name, 8, rate)


def test_a_border_of_a_band_that_is_a_bin_belongs_to_the_upper_band() -> None:
    for width in (10, 50, 70, 100, 128):
        for k in range(1, width // 2):
            wave = Block(np.cos(2 * math.pi * k * np.arange(width) / width)[None, None, :], 1.0)
            border = f"{k / width:.6f}"
            if float(border) != k / width:
                continue
            assert feature(f"fft:{border}-0.5", width, None).kernel(wave).item() == pytest.approx(0.5)
            if k > 1:
                assert feature(f"fft:0-{border}", width, None).kernel(wave).item() == pytest.approx(0.0, abs=1e-12)
