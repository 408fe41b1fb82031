"""Codecs: a flat float32 vector as bytes, and back, by name; all numbers are little-endian.

A codec is a pair of pure functions. One that needs memory on the device (an error-feedback residual) needs no other
shape: the residual is ``vector - decode(encode(vector))``, and whoever owns the outbox adds it to the next vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocol.errors import ProtocolError

FloatArray: TypeAlias = NDArray[np.float32]

BLOCK = 256
"""Values that share a scale in ``int8``. Real deltas are heavy-tailed: with one scale for the whole vector its largest
value would round nearly all others to zero. A scale for 256 values costs 1.6 % of the bytes."""

_LITTLE_F4 = np.dtype("<f4")
_F16_LARGEST = np.float32(65504.0)
_LEVELS = np.float32(127.0)

# With scales in these bounds nothing that decoding computes is infinite, and nothing that encoding divides by is
# subnormal (hence imprecise). Values from 1.5e-36 to 3.37e38 fit; smaller ones become 0, larger ones are clipped.
_LARGEST_SCALE = np.finfo(np.float32).max / np.float32(128.0)
_SMALLEST_SCALE = np.finfo(np.float32).tiny
_LARGEST_SCALE_BITS = int(_LARGEST_SCALE.view(np.uint32))


@dataclass(frozen=True, slots=True)
class Codec:
    """How one name of the registry encodes, decodes and measures."""

    encode: Callable[[FloatArray, np.random.Generator], bytes]
    """From a finite vector; chance comes from the generator alone."""
    decode: Callable[[bytes, int], FloatArray]
    """From bytes of the right length to a vector of the given size, perhaps read-only."""
    encoded_bytes: Callable[[int], int]
    """Length of an encoded vector of the given size."""


def encode(name: str, vector: FloatArray, rng: np.random.Generator) -> bytes:
    """Return ``vector``, float32 ``(n,)``, in the codec of that name.

    Raises ``ProtocolError`` for an unknown codec, ``ValueError`` for another type or shape or a value that is not
    finite (a training that diverged must not reach the network).
    """
    codec = _codec(name)
    if vector.dtype != np.float32 or vector.ndim != 1:
        raise ValueError(f"found {vector.dtype} of shape {vector.shape}, wanted float32 (n,)")
    if not is_finite(vector):
        raise ValueError("the vector holds values that are not finite")
    return codec.encode(np.ascontiguousarray(vector), rng)


def decode(name: str, data: bytes, size: int) -> FloatArray:
    """Return the vector, float32 ``(size,)`` and perhaps a read-only view of ``data``; ``ProtocolError`` if it is none.

    What ``f32`` and ``f16`` carry may be NaN or infinite: the caller checks the vector as a whole (``is_finite``).
    """
    codec = _codec(name)
    expected = codec.encoded_bytes(size)
    if len(data) != expected:
        raise ProtocolError(f"{len(data)} bytes where {size} values in {name} take {expected}")
    return codec.decode(data, size)


def is_finite(vector: FloatArray) -> bool:
    """Return whether no value is NaN or infinite: in one pass and without a temporary, unless values are huge."""
    return math.isfinite(squared_norm(vector)) or bool(np.isfinite(vector).all())


def squared_norm(vector: FloatArray) -> float:
    """Return the dot product with itself, in float32: NaN or infinite if any value is, and where it overflows."""
    # Not np.dot, which warns of an overflow that is an answer here; to silence it costs as much as the product.
    return float(np.vdot(vector, vector))


def _numbers(data: bytes, kind: np.dtype[np.float32], count: int = -1) -> FloatArray:
    """Return a view of the bytes; a copy where they lie across words: 32-bit ARM ends a process that computes there."""
    found = np.frombuffer(data, kind, count)
    return found if found.flags.aligned else found.copy()


def _codec(name: str) -> Codec:
    codec = CODECS.get(name)
    if codec is None:
        raise ProtocolError(f"unknown codec {name[:40]!r}, known are {', '.join(CODECS)}")
    return codec


def _encode_f32(vector: FloatArray, _rng: np.random.Generator) -> bytes:
    return vector.astype("<f4", copy=False).tobytes()


def _decode_f32(data: bytes, _size: int) -> FloatArray:
    return _numbers(data, _LITTLE_F4).astype(np.float32, copy=False)


def _encode_f16(vector: FloatArray, _rng: np.random.Generator) -> bytes:
    # Clipped: one value past the range would make the whole update infinite, and so refused.
    return np.clip(vector, -_F16_LARGEST, _F16_LARGEST).astype("<f2").tobytes()


def _decode_f16(data: bytes, _size: int) -> FloatArray:
    return np.frombuffer(data, "<f2").astype(np.float32)


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _encode_int8(vector: FloatArray, rng: np.random.Generator) -> bytes:
    """Scales (float32 each: largest magnitude of the block / 127), then one signed byte per value.

    Rounded at random, up with the probability of the fraction, so that the mean of many updates is not biased
    (Alistarh et al. 2017, QSGD).
    """
    peaks = np.maximum.reduceat(np.abs(vector), np.arange(0, len(vector), BLOCK)) if len(vector) else vector
    scales = np.minimum(peaks / _LEVELS, _LARGEST_SCALE)
    scales[scales < _SMALLEST_SCALE] = 0.0
    levels = vector / _spread(np.where(scales > 0.0, scales, np.float32(np.inf)), len(vector))
    levels += rng.random(len(vector), dtype=np.float32)
    np.floor(levels, out=levels)
    # The sum above may round up to 128 where the level is 127.
    np.clip(levels, -_LEVELS, _LEVELS, out=levels)
    return scales.astype("<f4").tobytes() + levels.astype(np.int8).tobytes()


def _decode_int8(data: bytes, size: int) -> FloatArray:
    blocks = _blocks(size)
    scales = _numbers(data, _LITTLE_F4, blocks)
    # One comparison of bits says no to NaN, infinity, every negative and whatever would overflow.
    if blocks and int(scales.view("<u4").max()) > _LARGEST_SCALE_BITS:
        raise ProtocolError("an int8 scale is negative, not finite or too large")
    values = np.frombuffer(data, np.int8, size, 4 * blocks).astype(np.float32)
    full = size // BLOCK
    whole = values[: full * BLOCK].reshape(full, BLOCK)
    np.multiply(whole, scales[:full, None], out=whole)
    if full < blocks:
        values[full * BLOCK :] *= scales[full]
    return values


def _spread(scales: FloatArray, size: int) -> FloatArray:
    return np.repeat(scales, BLOCK)[:size]


CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        "f32": Codec(_encode_f32, _decode_f32, lambda size: 4 * size),
        "f16": Codec(_encode_f16, _decode_f16, lambda size: 2 * size),
        "int8": Codec(_encode_int8, _decode_int8, lambda size: size + 4 * _blocks(size)),
    }
)
"""Every codec by its name on the wire."""
