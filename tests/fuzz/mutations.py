"""Damaging bytes the way an attacker would: knowing the format, but not caring for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

DICTIONARY: tuple[bytes, ...] = (
    # msgpack: the starts of all kinds of values, and lengths that lie
    *(bytes([start]) for start in (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xC3, 0xE0, 0xFF)),
    b"\xc4\xff", b"\xc5\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc7\xff\x00", b"\xc9\xff\xff\xff\xff\x00",
    b"\xca\x7f\xc0\x00\x00", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"\xcc\x00", b"\xcd\xff\xff", b"\xce\xff\xff\xff\xff", b"\xcf" + b"\xff" * 8, b"\xd0\x80", b"\xd3\x80" + b"\0" * 7,
    b"\xd4\x05\x00", b"\xd6\xff\xff\xff\xff\xff", b"\xd9\xff", b"\xda\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x91" * 64, b"\x81\xa0" * 64,
    # JSON, TOML and text
    b"{", b"}", b"[" * 64, b"]", b'"', b"\\", b"\\ud800", b"\\u0000", b"1e999", b"-1", b"NaN", b"Infinity", b"null",
    b"true", b"9" * 400, b"\xf0\x9f\x92\xa9", b"\xed\xa0\x80", b"\x00", b"\n", b"=", b"[[", b"'''", b"/", b"+",
    b"#", b"$",
    # float32
    b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\xff\xff\x7f\x7f", b"\x01\x00\x00\x00",
)  # fmt: skip
"""What a byte-wise mutation would take for ever to find."""


def _flip(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _replace(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _insert(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> None:
    place = rng.randrange(len(data) + 1)
    data[place:place] = rng.choice(DICTIONARY)


def _overwrite(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> None:
    word = rng.choice(DICTIONARY)
    place = rng.randrange(len(data) + 1)
    data[place : place + len(word)] = word


def _remove(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.choice((1, 2, 4, 16, 256))]


def _truncate(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _repeat(data: bytearray, rng: random.Random, _others: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    piece = bytes(data[start : start + rng.choice((1, 4, 16, 64))])
    data[start:start] = piece * rng.choice((1, 2, 16, 100))


def _splice(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    other = rng.choice(others)
    start, place = rng.randrange(len(other) + 1), rng.randrange(len(data) + 1)
    data[place:] = other[start:]


_WAYS: tuple[Callable[[bytearray, random.Random, Sequence[bytes]], None], ...] = (
    _flip, _replace, _insert, _overwrite, _remove, _truncate, _repeat, _splice,
)  # fmt: skip

MAX_BYTES = 64 * 1024
"""Of a mutant: larger ones only cost time. What size itself does is ``bombs``' matter."""


def mutant(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """Return one of the seeds, damaged in one to eight places."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 8)):
        rng.choice(_WAYS)(data, rng, seeds)
    return bytes(data[:MAX_BYTES])


def bombs() -> dict[str, bytes]:
    """Return inputs that are small to send and would be expensive to believe, by name."""
    return {
        "empty": b"",
        "arrays in arrays": b"\x91" * 100_000,
        "maps in maps": b"\x81\xa1a" * 40_000,
        "wide arrays in arrays": (b"\xdc\xff\xff" + b"\x90" * 20) * 4_000,
        "array said to be 4 G long": b"\xdd\xff\xff\xff\xff",
        "map said to be 4 G long": b"\xdf\xff\xff\xff\xff",
        "text said to be 4 GB": b"\xdb\xff\xff\xff\xff",
        "bytes said to be 4 GB": b"\xc6\xff\xff\xff\xff",
        "many empty maps": b"\xdd\x00\x01\xff\x00" + b"\x80" * 0x1FF00,
        "one map, many equal keys": b"\xdf\x00\x00\x7f\xff" + b"\xa1a\x00" * 0x7FFF,
        "one map, many keys": b"\xdf\x00\x00\x4e\x20"
        + b"".join(b"\xcd%b\x00" % i.to_bytes(2, "big") for i in range(20_000)),
        "JSON arrays in arrays": b"[" * 100_000,
        "JSON objects in objects": b'{"a":' * 20_000,
        "JSON, a number of many digits": b'{"version":' + b"9" * 100_000 + b"}",
        "JSON, a large exponent": b'{"uptime_s": 1e' + b"9" * 5_000 + b"}",
        "TOML tables in tables": b"[" + b".".join([b"a"] * 5_000) + b"]\n",
        "TOML arrays in arrays": b"a = " + b"[" * 50_000,
        "TOML, a number of many digits": b"a = " + b"9" * 100_000,
        "zeros": bytes(120_000),
        "all ones": b"\xff" * 120_000,
    }
