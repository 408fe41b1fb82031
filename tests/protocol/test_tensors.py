from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protocol.errors import ProtocolError
from protocol.tensors import BLOCK, CODECS, FloatArray, decode, encode, is_finite, squared_norm

LARGEST = float(np.finfo(np.float32).max)
SIZES = [0, 1, 2, 255, 256, 257, 511, 512, 513, 10_000]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(size: int, seed: int = 0) -> FloatArray:
    return rng(seed).standard_normal(size, dtype=np.float32)


def vectors(largest: float = LARGEST) -> st.SearchStrategy[FloatArray]:
    floats = st.floats(-largest, largest, width=32)
    return hnp.arrays(np.float32, st.integers(0, 600), elements=floats, fill=floats)


@given(vectors())
def test_f32_keeps_every_bit(vector: FloatArray) -> None:
    data = encode("f32", vector, rng())
    assert data == struct.pack(f"<{len(vector)}f", *vector)
    assert decode("f32", data, len(vector)).tobytes() == vector.tobytes()


@given(vectors())
def test_f16_is_within_half_a_step_and_clips(vector: FloatArray) -> None:
    found = decode("f16", encode("f16", vector, rng()), len(vector))

    clipped = np.clip(vector, -65504, 65504)
    assert found.dtype == np.float32
    # 10 bits of mantissa; below 2**-14 steps of 2**-24.
    np.testing.assert_array_less(np.abs(found - clipped), np.abs(clipped) * 2.0**-11 + 2.0**-25 + 1e-30)


@given(vectors(2.0**127), st.integers(0, 2**32 - 1))
def test_int8_is_within_one_step_of_its_block(vector: FloatArray, seed: int) -> None:
    found = decode("int8", encode("int8", vector, rng(seed)), len(vector)).astype(np.float64)

    assert np.isfinite(found).all()
    for start in range(0, len(vector), BLOCK):
        block = vector[start : start + BLOCK].astype(np.float64)
        step = np.abs(block).max() / 127
        # One step, the last digits of float32, and what is too small to be sent.
        assert np.abs(found[start : start + BLOCK] - block).max() <= step * 1.0001 + 1.5e-36


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("size", SIZES)
def test_lengths_are_as_announced(name: str, size: int) -> None:
    data = encode(name, normal(size), rng())
    assert len(data) == CODECS[name].encoded_bytes(size)
    found = decode(name, data, size)
    assert (found.dtype, found.shape) == (np.dtype(np.float32), (size,))


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("size", [1, 256, 300])
@pytest.mark.parametrize("change", [-4, -1, 1, 4])
def test_another_length_is_refused(name: str, size: int, change: int) -> None:
    data = encode(name, normal(size), rng())
    wrong = data[:change] if change < 0 else data + bytes(change)
    with pytest.raises(ProtocolError, match="bytes where"):
        decode(name, wrong, size)


def test_int8_is_a_quarter_of_float32() -> None:
    assert CODECS["int8"].encoded_bytes(10_000) / CODECS["f32"].encoded_bytes(10_000) < 0.27


def test_int8_wire_form_is_scales_then_values() -> None:
    vector = np.zeros(BLOCK + 2, np.float32)
    vector[0], vector[1] = 127.0, -127.0
    vector[BLOCK] = 254.0

    data = encode("int8", vector, rng())

    assert data[:8] == struct.pack("<2f", 1.0, 2.0)
    assert struct.unpack(f"{BLOCK + 2}b", data[8:]) == (127, -127, *[0] * (BLOCK - 2), 127, 0)


def test_int8_is_unbiased() -> None:
    vector = np.concatenate([normal(400), np.float32(1e-3) * normal(300, 1)])
    chance = rng(2)
    repeats = 4000

    total = np.zeros(len(vector))
    for _ in range(repeats):
        total += decode("int8", encode("int8", vector, chance), len(vector))

    steps = np.repeat([np.abs(vector[i : i + BLOCK]).max() / 127 for i in range(0, len(vector), BLOCK)], BLOCK)
    error = (total / repeats - vector) / steps[: len(vector)]
    # One rounding has a deviation of at most half a step; 5 of the mean's bound 700 values.
    assert np.abs(error).max() < 5 * 0.5 / math.sqrt(repeats)
    assert abs(error.mean()) < 5 * 0.5 / math.sqrt(repeats * len(vector))


def test_blocks_beat_one_scale_on_heavy_tails() -> None:
    vector = rng(3).standard_t(1.5, 20_000).astype(np.float32)

    found = decode("int8", encode("int8", vector, rng(4)), len(vector))

    step = np.abs(vector).max() / 127
    one_scale = np.floor(vector / step + rng(5).random(len(vector))) * step
    blocks_error, one_error = (np.linalg.norm(other - vector) for other in (found, one_scale))
    assert blocks_error < 0.3 * one_error


def test_chance_comes_from_the_generator_alone() -> None:
    vector = normal(1000)
    assert encode("int8", vector, rng(1)) == encode("int8", vector, rng(1))
    assert encode("int8", vector, rng(1)) != encode("int8", vector, rng(2))


@pytest.mark.parametrize("name", CODECS)
def test_zeros_stay_zeros(name: str) -> None:
    vector = np.zeros(700, np.float32)
    vector[:10] = 1.0
    found = decode(name, encode(name, vector, rng()), 700)
    np.testing.assert_array_equal(found, vector)
    assert not decode(name, encode(name, vector[10:], rng()), 690).any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("value", [1e-45, 1e-40, 1.2e-38, 1e38, LARGEST])
def test_extremes_stay_finite(name: str, value: float) -> None:
    vector = np.full(300, value, np.float32)
    vector[::2] *= -1
    found = decode(name, encode(name, vector, rng()), 300)
    assert np.isfinite(found).all()
    assert (found * np.sign(vector) >= 0).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 256, 299])
def test_what_is_not_finite_is_not_encoded(name: str, value: float, place: int) -> None:
    vector = normal(300)
    vector[place] = value
    with pytest.raises(ValueError, match="not finite"):
        encode(name, vector, rng())


@pytest.mark.parametrize("vector", [np.zeros(3), np.zeros((1, 3), np.float32), np.zeros(3, np.int8)])
def test_only_flat_float32_is_encoded(vector: FloatArray) -> None:
    with pytest.raises(ValueError, match="wanted float32"):
        encode("f32", vector, rng())


@pytest.mark.parametrize("name", CODECS)
def test_a_strided_vector_is_encoded_as_what_it_shows(name: str) -> None:
    vector = normal(1200)[::2]
    assert encode(name, vector, rng()) == encode(name, vector.copy(), rng())


@pytest.mark.parametrize("name", ["", "F32", "int4", "f32\n", "x" * 1000])
def test_unknown_codecs_are_named(name: str) -> None:
    with pytest.raises(ProtocolError, match=r"unknown codec .* known are f32, f16, int8") as caught:
        decode(name, b"", 0)
    assert len(str(caught.value)) < 120
    with pytest.raises(ProtocolError, match="unknown codec"):
        encode(name, normal(1), rng())


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, -1.0, -0.0, 3e38, -1e-40])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_impossible_scales_are_refused(scale: float, block: int) -> None:
    data = bytearray(encode("int8", normal(600), rng()))
    data[4 * block : 4 * block + 4] = struct.pack("<f", scale)
    with pytest.raises(ProtocolError, match="scale"):
        decode("int8", bytes(data), 600)


@given(st.sampled_from(sorted(CODECS)), st.integers(0, 600), st.data())
def test_any_bytes_decode_or_are_refused(name: str, size: int, data: st.DataObject) -> None:
    length = CODECS[name].encoded_bytes(size)
    raw = data.draw(st.binary(min_size=length, max_size=length))
    try:
        found = decode(name, raw, size)
    except ProtocolError:
        assert name == "int8", "only scales can be wrong where the length is right"
        return
    assert (found.dtype, found.shape) == (np.dtype(np.float32), (size,))
    if name == "int8":
        assert np.isfinite(found).all()


@pytest.mark.parametrize("name", CODECS)
def test_decoding_leaves_the_payload_alone(name: str) -> None:
    vector = normal(600)
    data = encode(name, vector, rng())
    kept = bytes(bytearray(data))
    decode(name, data, 600)
    assert data == kept


@pytest.mark.filterwarnings("error")
def test_a_squared_norm_that_overflows_or_is_none_is_no_warning() -> None:
    found = [squared_norm(np.array(values, np.float32)) for values in ([3, 4], [1e30, 1], [np.inf, -np.inf], [np.nan])]
    np.testing.assert_array_equal(found, [25.0, np.inf, np.inf, np.nan])


@pytest.mark.filterwarnings("error")
def test_finiteness_is_seen_past_the_range_of_squares() -> None:
    assert is_finite(np.full(10, 1e30, np.float32))
    assert is_finite(np.zeros(0, np.float32))
    assert not is_finite(np.array([1e30, np.inf], np.float32))
    assert not is_finite(np.array([0.0, np.nan], np.float32))


def test_int8_sends_zero_for_what_is_too_small_to_scale() -> None:
    vector = np.concatenate([np.full(BLOCK, 1e-37, np.float32), np.full(BLOCK, 1e-35, np.float32)])
    found = decode("int8", encode("int8", vector, rng()), len(vector))
    assert not found[:BLOCK].any()
    np.testing.assert_allclose(found[BLOCK:], vector[BLOCK:], rtol=0.01)
