"""A bundle comes back as it was written, or one exception says why not, and quotes nothing of it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import bundles
from protocol.errors import ProtocolError

SECRET = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----\n"
BUNDLE = bundles.Bundle(
    role="device",
    name="press-07",
    federation="plant",
    host="broker.plant",
    port=8883,
    files={"certificate": "c", "key": SECRET, "ca": "a", "federation": "{}", "configuration": "[device]\n"},
)
CONTENT = bundles.encode(BUNDLE)


def changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(CONTENT) | changes).encode()


def test_a_bundle_comes_back() -> None:
    found = bundles.decode(CONTENT)

    assert found.files == BUNDLE.files
    assert (found.role, found.name, found.host, found.port) == ("device", "press-07", "broker.plant", 8883)
    assert bundles.encode(found) == CONTENT


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no bundle of fedmq"),
        (b"{}", "no bundle of fedmq"),
        (b"PK\x03\x04 a zip file", "no bundle of fedmq"),
        (b"\xff" * 100, "no bundle of fedmq"),
        (b"[" * 100_000, "no bundle of fedmq"),
        (b" " * (bundles.MAX_BUNDLE_BYTES + 1), "larger than"),
        (CONTENT[:-100], "no bundle of fedmq"),
        (changed(fedmq_bundle=2), "install a newer one"),
        (changed(fedmq_bundle=0), "no bundle of fedmq"),
        (changed(name="press-08"), "checksum"),
        (changed(host="evil.plant"), "checksum"),
        (changed(name="../../etc"), "no bundle of fedmq"),
        (changed(extra=1), "no bundle of fedmq"),
        (changed(port=0), "no bundle of fedmq"),
        (changed(role="aggregator"), "no bundle of fedmq"),
        (changed(files={"../../etc/passwd": "x"}), "no bundle of fedmq"),
        (changed(files={"key": SECRET}), "there is no certificate in it"),
        (changed(files=BUNDLE.files | {"ca": "x" * (bundles.MAX_TEXT + 1)}), "no bundle of fedmq"),
        (changed(files=BUNDLE.files | {"ca": "b"}), "checksum"),
        (changed(files=BUNDLE.files | {"ca": 7, "key": SECRET}), "no bundle of fedmq"),
    ],
)
def test_what_is_no_bundle_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says) as raised:
        bundles.decode(content)
    assert "MIGHAgEAMBMGByqGSM49" not in str(raised.value)


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_damaged_byte_anywhere_is_noticed_or_means_nothing(at: int, flip: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[at] ^= flip
    with contextlib.suppress(ProtocolError):
        assert bundles.decode(bytes(damaged)).files == BUNDLE.files  # white space, say


@given(st.binary(max_size=300))
def test_any_bytes_give_the_one_exception(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        bundles.decode(content)
