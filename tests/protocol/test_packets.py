"""PUBLISH and PUBACK as bytes, whole or in any pieces; nothing but one exception comes of bytes that are neither."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from protocol.adapters import packets
from protocol.adapters.packets import MalformedPacketError, body_of, puback, publish_head, read_puback, read_publish
from protocol.adapters.wire import BufferedSocket, OversizedPacketError

MAX_PACKET = 300_000

TOPICS = st.text(st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1, max_size=40)
MIDS = st.integers(0, 65535)


def packet(topic: str, payload: bytes, mid: int, *, retain: bool, five: bool) -> bytes:
    return publish_head(topic.encode(), len(payload), mid=mid, retain=retain, five=five) + payload


@contextlib.contextmanager
def wired() -> Iterator[tuple[socket.socket, BufferedSocket]]:
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    with theirs, ours:
        yield theirs, BufferedSocket(ours, MAX_PACKET)


@given(TOPICS, st.binary(max_size=300), MIDS, st.booleans(), st.booleans())
def test_what_is_written_is_read(topic: str, payload: bytes, mid: int, retain: bool, five: bool) -> None:
    data = b"before" + packet(topic, payload, mid, retain=retain, five=five) + b"behind"
    found = body_of(data, 6)
    assert found
    body, end = found
    assert data[end:] == b"behind"
    assert read_publish(data[6], data, body, end, five=five) == (topic, payload, int(mid > 0), mid, retain)


@given(st.binary(max_size=40), st.integers(0, 255), st.booleans(), st.binary(max_size=20))
def test_any_bytes_are_a_message_or_malformed(data: bytes, header: int, five: bool, behind: bytes) -> None:
    with contextlib.suppress(MalformedPacketError):
        _, payload, qos, mid, _ = read_publish(header, data + behind, 0, len(data), five=five)
        assert data.endswith(payload)
        assert qos in (0, 1)
        assert 0 <= mid <= 65535


@given(st.binary(max_size=12))
def test_any_length_is_found_not_there_yet_or_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedPacketError):
        found = body_of(data, 0)
        if found is None:
            assert len(data) <= 4
            assert all(byte & 0x80 for byte in data[1:])
        else:
            assert found[0] <= found[1] <= found[0] + packets.MAX_REMAINING_BYTES


def test_properties_are_skipped() -> None:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.UserProperty = [("name", "x" * 200)]
    packed = bytes(properties.pack())  # type: ignore[no-untyped-call]
    body = b"\0\1t" + b"\0\7" + packed + b"payload"
    assert read_publish(0x32, body, 0, len(body), five=True) == ("t", b"payload", 1, 7, False)


@pytest.mark.parametrize(("body", "wanted"), [(b"\0\7", (7, 0)), (b"\0\7\x97\0", (7, 0x97)), (b"\1\0\0", (256, 0))])
def test_pubacks(body: bytes, wanted: tuple[int, int]) -> None:
    assert read_puback(body) == wanted
    assert read_puback(puback(wanted[0])[2:]) == (wanted[0], 0)


def test_a_puback_without_message_id() -> None:
    with pytest.raises(MalformedPacketError):
        read_puback(b"\0")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(st.integers(0, 200), st.integers(60_000, 150_000)), max_size=8),
    st.lists(st.integers(1, 90_000), min_size=1, max_size=30),
)
def test_packets_come_out_whole_however_they_come_in(sizes: list[int], pieces: list[int]) -> None:
    sent = [packet(f"t/{n}", bytes((n,)) * size, n + 1, retain=False, five=True) for n, size in enumerate(sizes)]
    stream = b"".join(sent)
    got: list[bytes] = []
    with wired() as (theirs, wire):
        while stream or len(got) < len(sent):
            # Byte by byte only a little: hundreds of thousands of passes prove no more than hundreds.
            piece = max(pieces[len(stream) % len(pieces)], len(stream) // 500)
            theirs.sendall(stream[:piece])
            stream = stream[piece:]
            wire.begin_pass()
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, start, body, end = wire.next_packet()
                    assert start < body <= end
                    got.append(data[start:end])
        assert not wire.more
    assert got == sent


def test_a_flood_is_read_in_large_blocks_but_only_so_much_at_a_time() -> None:
    one = packet("t", bytes(range(256)) * 157, 7, retain=False, five=True)
    waiting, whole, most = len(one) * 200, 0, 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with theirs, ours:
        theirs.setblocking(False)
        ours.setblocking(False)
        wire = BufferedSocket(ours, MAX_PACKET)
        stream = memoryview(one * 200)
        while whole < 200:
            with contextlib.suppress(BlockingIOError):
                while stream:
                    stream = stream[theirs.send(stream) :]
            before = whole
            wire.begin_pass()
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, start, _, end = wire.next_packet()
                    assert data[start:end] == one
                    whole += 1
            most = max(most, whole - before)
    assert waiting > 3 * most * len(one)


def test_a_packet_too_large_is_refused_before_it_is_held() -> None:
    with wired() as (theirs, wire):
        theirs.sendall(publish_head(b"t", 2**27, mid=1, retain=False, five=False))
        wire.begin_pass()
        with pytest.raises(OversizedPacketError, match="300000"):
            wire.next_packet()
        assert wire.oversized


def test_the_end_of_the_stream() -> None:
    with wired() as (theirs, wire):
        theirs.sendall(publish_head(b"t", 1000, mid=1, retain=False, five=False) + b"not all of it")
        wire.begin_pass()
        with pytest.raises(BlockingIOError):
            wire.next_packet()
        theirs.close()
        wire.begin_pass()
        with pytest.raises(ConnectionError):
            wire.next_packet()
        assert wire.error == "the broker closed the connection"
