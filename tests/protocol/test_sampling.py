from __future__ import annotations

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.sampling import participates

EPOCH = "00" * 8


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9])
def test_the_fraction_is_respected_over_devices_and_versions(fraction: float) -> None:
    devices, versions = 500, 40
    taken = [
        [participates(f"device-{d}", EPOCH, version, fraction) for d in range(devices)] for version in range(versions)
    ]

    deviation = math.sqrt(fraction * (1 - fraction))
    share = sum(map(sum, taken)) / (devices * versions)
    assert abs(share - fraction) < 5 * deviation / math.sqrt(devices * versions)
    if fraction < 0.1:
        return  # so few are drawn that the normal distribution says nothing about one device
    for version in taken:
        assert abs(sum(version) / devices - fraction) < 5 * deviation / math.sqrt(devices)
    for device in zip(*taken, strict=True):
        assert abs(sum(device) / versions - fraction) < 6 * deviation / math.sqrt(versions)


def test_draws_of_versions_and_epochs_are_independent() -> None:
    devices = [f"device-{d}" for d in range(4000)]
    first = [participates(d, EPOCH, 1, 0.5) for d in devices]
    for epoch, version in ((EPOCH, 2), ("11" * 8, 1)):
        other = [participates(d, epoch, version, 0.5) for d in devices]
        agreement = sum(a == b for a, b in zip(first, other, strict=True)) / len(devices)
        assert abs(agreement - 0.5) < 5 * 0.5 / math.sqrt(len(devices))


@given(st.text(max_size=20), st.integers(0, 2**53), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_who_takes_part_at_a_fraction_does_at_every_larger_one(device: str, version: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    if participates(device, EPOCH, version, low):
        assert participates(device, EPOCH, version, high)
    assert participates(device, EPOCH, version, 1.0)
    assert not participates(device, EPOCH, version, 0.0)


def test_the_draw_is_the_documented_one() -> None:
    text = f"{EPOCH}/7/press-07".encode()
    draw = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64
    assert participates("press-07", EPOCH, 7, draw * 1.0001)
    assert not participates("press-07", EPOCH, 7, draw * 0.9999)
