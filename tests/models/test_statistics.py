from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.errors import DataError
from models.statistics import GRID, FeatureStatistics

CLASSES = 3
numbers = st.one_of(st.floats(-1e6, 1e6, width=32), st.just(math.nan))
tables = hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.just(2)), elements=numbers)


def of(x: np.ndarray, labels: np.ndarray | None = None) -> FeatureStatistics:
    return FeatureStatistics.of(x, labels, CLASSES)


def same(one: FeatureStatistics, other: FeatureStatistics, rel: float = 1e-9) -> None:
    assert one.rows == other.rows
    for name in ("present", "minimum", "maximum", "buckets", "classes"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.mean == pytest.approx(other.mean, rel=rel, abs=1e-9)
    assert one.squares == pytest.approx(other.squares, rel=1e-6, abs=1e-3)


@given(tables)
def test_the_figures_are_those_of_numpy(x: np.ndarray) -> None:
    found = of(x)

    for column in range(2):
        there = x[:, column][np.isfinite(x[:, column])].astype(np.float64)
        assert found.present[column] == len(there)
        assert found.rows - found.present[column] == int(np.isnan(x[:, column]).sum())
        if len(there):
            assert found.mean[column] == pytest.approx(math.fsum(there) / len(there), rel=1e-9, abs=1e-9)
            assert found.deviation[column] == pytest.approx(there.std(), rel=1e-6, abs=1e-6)
            assert (found.minimum[column], found.maximum[column]) == (there.min(), there.max())


@given(tables, st.integers(0, 40))
def test_two_parts_add_up_to_the_whole(x: np.ndarray, cut: int) -> None:
    labels = np.arange(len(x)) % CLASSES

    same(of(x[:cut], labels[:cut]) + of(x[cut:], labels[cut:]), of(x, labels))


@given(tables)
def test_nothing_is_neutral(x: np.ndarray) -> None:
    nothing = FeatureStatistics.none(2, CLASSES)

    same(nothing + of(x), of(x))
    same(of(x) + nothing, of(x))


@given(tables, tables, tables)
def test_the_order_does_not_matter(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    same((of(a) + of(b)) + of(c), of(c) + (of(b) + of(a)), rel=1e-7)


def test_what_is_large_and_hardly_varies_keeps_its_deviation() -> None:
    pressure = 101_325.0 + np.random.default_rng(0).normal(0, 0.5, (20_000, 1))

    parts = [FeatureStatistics.of(part) for part in np.array_split(pressure, 50)]
    whole = sum(parts[1:], parts[0])

    assert whole.deviation[0] == pytest.approx(pressure.std(), rel=1e-9)


def test_a_column_that_never_changes_is_not_scaled() -> None:
    x = np.column_stack([np.full(1000, 0.1, np.float32), np.full(1000, np.nan), np.arange(1000.0)])

    scale = FeatureStatistics.of(x).scale()

    assert scale[:2].tolist() == [1.0, 1.0]
    assert scale[2] == pytest.approx(np.arange(1000.0).std())


def test_quantiles_stay_within_what_was_seen() -> None:
    x = np.random.default_rng(1).normal(3.0, 2.0, (5000, 1))

    lowest, median, high, highest = FeatureStatistics.of(x).quantiles(0, [0.0, 0.5, 0.95, 1.0])

    assert lowest == pytest.approx(x.min(), rel=0.06)
    assert lowest >= x.min()
    assert highest <= x.max()
    assert median == pytest.approx(float(np.median(x)), rel=0.06)
    assert high == pytest.approx(float(np.quantile(x, 0.95)), rel=0.06)
    assert math.isnan(FeatureStatistics.none(1).quantiles(0, [0.5])[0])


@given(tables)
def test_figures_come_back_from_what_travels(x: np.ndarray) -> None:
    found = of(x, np.zeros(len(x), np.int64))

    travelled = msgpack.unpackb(msgpack.packb(found.to_data()))

    same(FeatureStatistics.from_data(travelled, 2, CLASSES), found, rel=0)


def data(**changes: object) -> dict[str, Any]:
    x = np.array([[1.0, 5.0], [2.0, math.nan], [4.0, 7.0]])
    return {**of(x, np.array([0, 1, 1])).to_data(), **changes}


def packed(*values: float) -> bytes:
    return np.array(values, "<f8").tobytes()


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        data(more=1),
        data(rows=-1),
        data(rows=True),
        data(rows=2**60),
        data(rows=2),
        data(present=[3]),
        data(present=[3, 3]),
        data(present=[3, 2.0]),
        data(present=[3, 9]),
        data(classes=[1, 2]),
        data(classes=[2, 2, 0]),
        data(buckets=[]),
        data(buckets=[[0, [3]], [0, [1]]]),
        data(mean=packed(2.0)),
        data(mean="texts"),
        data(mean=packed(9.0, 6.0)),
        data(mean=packed(math.nan, 6.0)),
        data(squares=packed(-1.0, 2.0)),
        data(squares=packed(1e9, 2.0)),
        data(squares=packed(math.inf, 2.0)),
        data(minimum=packed(-math.inf, 5.0)),
        data(maximum=packed(math.inf, 7.0)),
    ],
)
def test_figures_that_are_wrong_or_contradict_each_other_are_refused(wrong: object) -> None:
    with pytest.raises(DataError):
        FeatureStatistics.from_data(wrong, 2, CLASSES)


def test_of_nothing_seen_nothing_may_be_claimed() -> None:
    claims = FeatureStatistics.none(1).to_data()
    claims["mean"] = packed(1e30)

    with pytest.raises(DataError, match="column 0"):
        FeatureStatistics.from_data(claims, 1, 0)


def test_a_report_stays_small() -> None:
    x = np.random.default_rng(2).lognormal(size=(2000, 117))

    assert len(msgpack.packb(FeatureStatistics.of(x).to_data())) < 117 * 250
    assert GRID.size < 800
