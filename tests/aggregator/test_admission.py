from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.admission import Gate, Refused
from aggregator.configuration import AdmissionTable
from tests.aggregator.harness import EPOCH, SIZE, Bench, settings_with

NAN, INF = np.float32(np.nan), np.float32(np.inf)


def gate_of(bench: Bench, **fields: Any) -> Gate:
    limits = fields.pop("limits", AdmissionTable(max_update_norm=100.0, max_examples=1000))
    defaults: dict[str, Any] = {
        "federation": "bench",
        "epoch": EPOCH,
        "layout": bench.model.layout.digest,
        "size": SIZE,
        "version": 10,
        "max_staleness": 5,
        "withdrawn": ((7, 8),),
        "limits": limits,
    }
    return Gate(**defaults | fields)


def refusal(bench: Bench, gate: Gate | None = None, **fields: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        (gate or gate_of(bench)).admit(bench.update(**({"base_version": 10} | fields)))
    return caught.value


BENCH = Bench()


def spoiled(value: np.float32) -> np.ndarray[Any, np.dtype[np.float32]]:
    delta = np.zeros(SIZE, np.float32)
    delta[7] = value
    return delta


def test_a_good_delta_comes_back_as_it_was() -> None:
    delta = np.arange(SIZE, dtype=np.float32)

    found, norm = gate_of(BENCH).admit(BENCH.update(delta=delta, base_version=10))

    assert norm == pytest.approx(np.linalg.norm(delta.astype(np.float64)))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, delta)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [NAN, INF, -INF, np.float32(3e38), np.float32(1e25)])
def test_numbers_that_are_none(value: np.float32) -> None:
    found = refusal(BENCH, delta=spoiled(value).astype("<f4").tobytes())

    assert (found.status, found.code) == ("rejected", "not-finite")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_in_half_precision(value: float) -> None:
    delta = np.full(SIZE, value, "<f2").tobytes()

    assert refusal(BENCH, codec="f16", delta=delta).code == "not-finite"


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 3e38])
def test_scales_that_are_none(scale: float) -> None:
    delta = np.array([scale], "<f4").tobytes() + np.ones(SIZE, np.int8).tobytes()

    assert refusal(BENCH, codec="int8", delta=delta).code == "bad-delta"


def test_a_huge_norm() -> None:
    at_limit = spoiled(np.float32(100.0))

    gate_of(BENCH).admit(BENCH.update(delta=at_limit, base_version=10))
    found = refusal(BENCH, delta=spoiled(np.float32(100.1)))

    assert found.code == "norm"
    assert "100.1" in str(found)
    assert "100 allowed" in str(found)


def test_a_bound_on_the_norm_that_has_no_square() -> None:
    gate = gate_of(BENCH, limits=AdmissionTable(max_update_norm=1e200))

    gate.admit(BENCH.update(delta=spoiled(np.float32(1e15)), base_version=10))


@pytest.mark.parametrize("size", [0, 1, 4 * SIZE - 1, 4 * SIZE + 1, 4 * SIZE + 4, 8 * SIZE])
def test_a_delta_of_another_length(size: int) -> None:
    assert refusal(BENCH, delta=bytes(size)).code == "bad-delta"


@pytest.mark.parametrize("codec", ["zstd", "f64", "F32"[0].lower() + "33"])
def test_an_unknown_codec(codec: str) -> None:
    found = refusal(BENCH, codec=codec, delta=bytes(4 * SIZE))

    assert found.code == "bad-delta"
    assert repr(codec) in str(found)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"epoch": "a" * 16}, "rejected", "other-epoch"),
        ({"layout": "a" * 64}, "rejected", "other-layout"),
        ({"base_version": 11}, "rejected", "unknown-version"),
        ({"base_version": 2**52}, "rejected", "unknown-version"),
        ({"base_version": 4}, "stale", "too-old"),
        ({"base_version": 7}, "stale", "withdrawn-version"),
        ({"base_version": 8}, "stale", "withdrawn-version"),
        ({"num_examples": 1001}, "rejected", "examples"),
        ({"num_examples": 2**39}, "rejected", "examples"),
    ],
)
def test_updates_that_do_not_belong(fields: dict[str, Any], status: str, code: str) -> None:
    found = refusal(BENCH, **fields)

    assert (found.status, found.code) == (status, code)


@pytest.mark.parametrize("base_version", [5, 6, 9, 10])
def test_versions_that_may_still_be_built_on(base_version: int) -> None:
    gate_of(BENCH).admit(BENCH.update(base_version=base_version))


def test_another_epoch_comes_before_versions_that_mean_nothing_here() -> None:
    assert refusal(BENCH, epoch="a" * 16, base_version=99).code == "other-epoch"


@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=SIZE, max_size=SIZE))
def test_whatever_the_bits_say_what_enters_is_finite_and_bounded(bits: list[int]) -> None:
    payload = np.array(bits, "<u4").tobytes()
    try:
        delta, norm = gate_of(BENCH).admit(BENCH.update(delta=payload, base_version=10))
    except Refused as refused:
        assert refused.code in ("not-finite", "norm")  # noqa: PT017 - a refusal is one of two right answers
        return
    assert np.isfinite(delta).all()
    assert norm <= 100.0
    assert norm == pytest.approx(np.linalg.norm(delta.astype(np.float64)), rel=1e-5)


@pytest.mark.parametrize("codec", ["f32", "f16", "int8"])
def test_every_codec_of_the_protocol_is_taken(codec: str) -> None:
    bench = Bench(settings_with())

    assert bench.answer(bench.update(codec=codec)).status == "accepted"
