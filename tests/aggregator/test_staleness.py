from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.configuration import AggregationTable
from aggregator.staleness import ConstantStaleness, HingeStaleness, PolynomialStaleness, staleness_weight
from protocol.settings import ConfigurationError, settings_from

FAMILY = [ConstantStaleness(), PolynomialStaleness(0.5), PolynomialStaleness(0.0), HingeStaleness(4.0, 0.5)]


@pytest.mark.parametrize("weight", FAMILY)
def test_a_fresh_update_has_full_weight(weight: ConstantStaleness) -> None:
    assert weight(0) == 1.0


@pytest.mark.parametrize("weight", FAMILY)
@given(tau=st.integers(0, 10_000))
def test_weights_never_rise_with_age_and_never_reach_zero(weight: ConstantStaleness, tau: int) -> None:
    assert 0.0 < weight(tau + 1) <= weight(tau) <= 1.0


def test_the_papers_values() -> None:
    assert PolynomialStaleness(0.5)(3) == 0.5
    assert PolynomialStaleness(1.0)(4) == pytest.approx(0.2)
    assert [HingeStaleness(4.0, 0.5)(tau) for tau in (4, 6, 14)] == [1.0, 0.5, 1.0 / 6.0]


def test_settings_choose_the_function() -> None:
    assert staleness_weight(AggregationTable(staleness="constant")) == ConstantStaleness()
    assert staleness_weight(AggregationTable(staleness_exponent=0.3)) == PolynomialStaleness(0.3)
    hinge = AggregationTable(staleness="hinge", hinge_versions=2.0, hinge_slope=3.0)
    assert staleness_weight(hinge) == HingeStaleness(2.0, 3.0)


@pytest.mark.parametrize(
    "table",
    [{"staleness": "polynomial", "staleness_exponent": 10.0}, {"staleness": "hinge", "hinge_slope": 1e6}],
)
def test_the_steepest_that_can_be_configured_still_weighs_something(table: dict[str, object]) -> None:
    weight = staleness_weight(settings_from(table, AggregationTable, "test"))

    assert weight(2**31) > 0.0
    assert math.isfinite(1.0 / weight(2**31))


@pytest.mark.parametrize("table", [{"staleness_exponent": 1000.0}, {"hinge_slope": 1e300}, {"staleness": "exotic"}])
def test_what_would_round_weights_to_zero_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        settings_from(table, AggregationTable, "test")
