"""Token buckets: what one device may ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.allowance import ANSWER_EVERY_S, Allowances, TokenBucket
from aggregator.configuration import AdmissionTable
from aggregator.uploads import ENVELOPE_BYTES
from tests.aggregator.harness import SIZE, Bench, settings_with

LIMITS = AdmissionTable(messages_per_s=2.0, message_burst=5.0, bytes_per_s=1000.0)


def allowed(allowances: Allowances, count: int, now: float, payload_bytes: int = 1) -> int:
    return sum(allowances.spend("a", payload_bytes, now) <= 0.0 for _ in range(count))


@given(
    steps=st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.1, 4.0)), max_size=50),
    rate=st.floats(0.1, 10.0),
    burst=st.floats(1.0, 20.0),
)
def test_never_more_than_the_burst_and_the_rate(steps: list[tuple[float, float]], rate: float, burst: float) -> None:
    bucket, now, taken = TokenBucket(rate, burst, 0.0), 0.0, 0.0
    for wait, cost in steps:
        now += wait
        wanted = min(cost, burst)
        if bucket.wait_s(wanted, now) <= 0.0:
            bucket.take(wanted)
            taken += wanted
        assert taken <= burst + rate * now + 1e-6


def test_who_waits_as_told_is_let_in() -> None:
    bucket = TokenBucket(2.0, 5.0, 0.0)
    bucket.take(5.0)
    wait_s = bucket.wait_s(3.0, 0.0)
    assert wait_s == pytest.approx(1.5)
    assert bucket.wait_s(3.0, 1.49) > 0.0
    assert bucket.wait_s(3.0, 1.51) == 0.0


def test_a_cost_above_the_burst_is_taken_when_the_bucket_is_full() -> None:
    bucket = TokenBucket(1.0, 5.0, 0.0)
    assert bucket.wait_s(100.0, 0.0) == 0.0
    bucket.take(100.0)
    assert bucket.wait_s(1.0, 0.5) > 0.0
    assert bucket.wait_s(100.0, 5.0) == 0.0


def test_rate_zero_means_no_limit() -> None:
    bucket = TokenBucket(0.0, 1.0, 0.0)
    for _ in range(1000):
        assert bucket.wait_s(1.0, 0.0) == 0.0
        bucket.take(1.0)


def test_a_burst_and_then_the_rate() -> None:
    allowances = Allowances(LIMITS, max_update_bytes=0)
    assert allowed(allowances, 100, 0.0) == 5
    assert allowed(allowances, 100, 1.0) == 2
    assert allowed(allowances, 100, 100.0) == 5


def test_bytes_count_too_and_the_largest_update_fits_twice() -> None:
    allowances = Allowances(LIMITS, max_update_bytes=50_000)
    assert allowed(allowances, 4, 0.0, payload_bytes=50_000) == 2
    assert allowed(allowances, 1, 49.0, payload_bytes=50_000) == 0
    assert allowed(allowances, 1, 51.0, payload_bytes=50_000) == 1


def test_devices_do_not_share() -> None:
    allowances = Allowances(LIMITS, max_update_bytes=0)
    allowed(allowances, 100, 0.0)
    assert allowances.spend("b", 1, 0.0) == 0.0


def test_what_is_refunded_can_be_spent_again() -> None:
    allowances = Allowances(LIMITS, max_update_bytes=0)
    for _ in range(100):
        assert allowances.spend("a", 1, 0.0) == 0.0
        allowances.refund("a")
    allowances.refund("nobody")


def test_quiet_devices_are_forgotten_and_flooding_ones_are_not() -> None:
    allowances = Allowances(LIMITS, max_update_bytes=0)
    allowances.spend("a", 1, 0.0)
    allowed(allowances, 100, 0.0)
    allowances.spend("b", 1, 9.0)
    allowances.expire(9.1)
    assert len(allowances) == 1
    allowances.expire(20.0)
    assert len(allowances) == 0


def test_a_flood_is_answered_once_a_second() -> None:
    bench = Bench(settings_with(admission=LIMITS))
    receipts = [bench.receipts(bench.send(bench.update("a"), "a")) for _ in range(200)]

    answered = [found[0] for found in receipts if found]
    assert [receipt.status for receipt in answered] == ["accepted"] * 5 + ["retry"]
    assert answered[-1].reason.startswith("too-many")
    assert 0.0 < answered[-1].next_after_s <= 0.5
    assert bench.core.fleet.counters.refusals == {"too-many": 195}

    bench.now += ANSWER_EVERY_S
    assert [receipt.status for receipt in bench.receipts(bench.send(bench.update("a"), "a"))] == ["accepted"]


def test_chunks_that_bring_an_upload_on_are_free_and_others_are_not() -> None:
    bench = Bench(settings_with(admission=LIMITS))
    update = bench.update("a")
    chunks = bench.chunks(update, chunk_bytes=16)
    assert len(chunks) > 10
    commands = [command for chunk in chunks for command in bench.send(chunk, "a")]
    assert [receipt.status for receipt in bench.receipts(commands)] == ["accepted"]

    again = bench.chunks(bench.update("a"), chunk_bytes=16)
    for _ in range(50):
        bench.send(again[0], "a")
    assert bench.core.fleet.counters.refusals["too-many"] >= 44


def test_the_bytes_of_a_burst_hold_any_honest_update() -> None:
    bench = Bench(settings_with(admission=AdmissionTable(bytes_per_s=1.0)))
    update = bench.update("a")
    assert bench.answer(update, "a").status == "accepted"
    largest = 5 * SIZE + ENVELOPE_BYTES
    assert Allowances(AdmissionTable(bytes_per_s=1.0), largest).spend("a", largest, 0.0) == 0.0
