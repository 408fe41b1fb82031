from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.pace import MAX_RETRY_S, MIN_RETRY_S, Pace
from protocol.messages import Receipt
from protocol.packing import decode_receipt, encode


def test_a_fleet_without_a_rate_is_not_held_up() -> None:
    assert Pace(0.0).next_after_s(online=10_000, load=0.0) == 0.0


def test_a_rate_spreads_the_fleet() -> None:
    assert Pace(50.0).next_after_s(online=1000, load=0.0) == 20.0


def test_a_filling_inbox_slows_everybody_down() -> None:
    waits = [Pace(0.0).next_after_s(online=1, load=load) for load in (0.5, 0.75, 1.0)]

    assert waits == [0.0, 5.0, 10.0]


def test_the_retry_follows_the_pace_of_versions() -> None:
    pace = Pace(0.0)
    first = pace.retry_after_s()
    for i in range(60):
        pace.version_made(10.0 * i)

    assert first == 0.5
    assert pace.retry_after_s() == pytest.approx(5.0, rel=1e-3)


def test_the_retry_has_bounds() -> None:
    fast, slow = Pace(0.0), Pace(0.0)
    for i in range(100):
        fast.version_made(float(i) * 1e-6)
        slow.version_made(float(i) * 1e6)

    assert fast.retry_after_s() == MIN_RETRY_S
    assert slow.retry_after_s() == MAX_RETRY_S


@given(
    rate=st.floats(0.0, 1e9), online=st.integers(0, 10**7), load=st.floats(0.0, 1.0), times=st.lists(st.floats(0, 1e9))
)
def test_a_device_can_always_read_what_it_is_told(rate: float, online: int, load: float, times: list[float]) -> None:
    pace = Pace(rate)
    for now in sorted(times):
        pace.version_made(now)
    for wait in (pace.next_after_s(online, load), pace.retry_after_s()):
        receipt = Receipt(
            federation="f",
            epoch="e" * 16,
            device_id="d",
            incarnation="c" * 16,
            sequence=1,
            status="accepted",
            next_after_s=wait,
        )
        assert decode_receipt(encode(receipt)) == receipt
