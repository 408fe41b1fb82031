"""Just enough MQTT 3.1.1 on the wire for a load generator that costs less than what it measures."""

from __future__ import annotations

import struct
from collections.abc import Iterator

CONNACK = 2
PUBLISH = 3
PUBACK = 4
SUBACK = 9


def connect(client_id: str) -> bytes:
    """Return CONNECT: clean session, no keep-alive (a load generator is never silent on purpose)."""
    return _packet(0x10, _text("MQTT") + b"\x04\x02\x00\x00" + _text(client_id))


def subscribe(packet_id: int, topic: str) -> bytes:
    """Return SUBSCRIBE for one topic at QoS 1."""
    return _packet(0x82, struct.pack(">H", packet_id) + _text(topic) + b"\x01")


def publish(topic: bytes, packet_id: int, payload: bytes) -> bytes:
    """Return PUBLISH at QoS 1; ``topic`` is encoded already (see ``topic_field``)."""
    return b"".join((b"\x32", _length(len(topic) + 2 + len(payload)), topic, struct.pack(">H", packet_id), payload))


def topic_field(topic: str) -> bytes:
    """Return the topic as it stands in a packet."""
    return _text(topic)


def puback(packet_id: bytes) -> bytes:
    """Return PUBACK for a packet id as it came."""
    return b"\x40\x02" + packet_id


def take(buffer: bytearray) -> Iterator[tuple[int, int, bytes]]:
    """Yield (type, flags, body) of each whole packet in the buffer, and take them out of it."""
    start = 0
    while True:
        length, body_start = _read_length(buffer, start + 1)
        end = body_start + length
        if body_start == 0 or end > len(buffer):
            break
        yield buffer[start] >> 4, buffer[start] & 0x0F, bytes(buffer[body_start:end])
        start = end
    del buffer[:start]


def published(flags: int, body: bytes) -> tuple[bytes, bytes]:
    """Return (packet id, payload) of a PUBLISH; the packet id is empty for QoS 0."""
    start = 2 + int.from_bytes(body[:2], "big")
    if flags & 0x06:
        return body[start : start + 2], body[start + 2 :]
    return b"", body[start:]


def _packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + _length(len(body)) + body


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def _length(length: int) -> bytes:
    encoded = bytearray()
    while True:
        length, low = divmod(length, 128)
        encoded.append(low | (0x80 if length else 0))
        if not length:
            return bytes(encoded)


def _read_length(buffer: bytearray, position: int) -> tuple[int, int]:
    """Return the remaining length and where the body begins; (0, 0) when the buffer ends before that."""
    length = shift = 0
    while position < len(buffer):
        byte = buffer[position]
        position += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length, position
        shift += 7
    return 0, 0
