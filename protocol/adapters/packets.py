"""MQTT packets as bytes: found in the stream, and the two that travel most, PUBLISH and PUBACK, written and read.

Both are the same in MQTT 3.1.1 and 5, save for the properties (sections 3.3, 3.4 and 2.2.2 of the standard for 5).
"""

from __future__ import annotations

import struct
from typing import TypeAlias

PUBLISH = 3
PUBACK = 4

PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"

MAX_REMAINING_BYTES = 268_435_455
"""What four bytes of length can say."""

_MAX_LENGTH_BYTES = 4
_MAX_QOS = 1
_RETAIN = 1
_SUCCESS = 0
_PUBACK = struct.Struct("!BBH")
_MID = struct.Struct("!H")


class MalformedPacketError(ValueError):
    """The peer sent what no packet of MQTT looks like."""


Incoming: TypeAlias = tuple[str, bytes, int, int, bool]
"""A PUBLISH as it arrived: topic, payload, QoS, message id (0 without), whether it was retained."""


def puback(mid: int) -> bytes:
    """Return the acknowledgement of a QoS 1 message: "success" in both versions of MQTT."""
    return _PUBACK.pack(0x40, 2, mid)


def read_puback(body: bytes) -> tuple[int, int]:
    """Return message id and reason code."""
    if len(body) < _MID.size:
        raise MalformedPacketError("a PUBACK without message id")
    return _MID.unpack_from(body)[0], body[_MID.size] if len(body) > _MID.size else _SUCCESS


def publish_head(topic: bytes, payload_bytes: int, *, mid: int, retain: bool, five: bool) -> bytes:
    """Return all of a PUBLISH that comes before its payload; QoS 1 if there is a ``mid``, else QoS 0."""
    parts = [_MID.pack(len(topic)), topic]
    if mid:
        parts.append(_MID.pack(mid))
    if five:
        parts.append(b"\0")  # no properties
    variable = b"".join(parts)
    first = PUBLISH << 4 | bool(mid) << 1 | retain
    return b"".join((bytes((first,)), _length(len(variable) + payload_bytes), variable))


def read_publish(header: int, packet: bytes, start: int, end: int, *, five: bool) -> Incoming:
    """Return the message whose packet, of first byte ``header``, has its body at ``packet[start:end]``.

    Copies the payload, and nothing else of its size.
    """
    qos = (header >> 1) & 3
    if qos > _MAX_QOS:  # never subscribed to
        raise MalformedPacketError("a PUBLISH of QoS 2")
    try:
        position = start + _MID.size + _MID.unpack_from(packet, start)[0]
        topic = packet[start + _MID.size : position].decode()
        mid = 0
        if qos:
            mid = _MID.unpack_from(packet, position)[0]
            position += _MID.size
    except (struct.error, UnicodeDecodeError) as exc:
        raise MalformedPacketError("a PUBLISH that ends too soon, or whose topic is not text") from exc
    if five:
        position = _after_properties(packet, position, end)
    if position > end:
        raise MalformedPacketError("a PUBLISH that ends too soon")
    return topic, packet[position:end], qos, mid, bool(header & _RETAIN)


def body_of(packet: bytes, position: int) -> tuple[int, int] | None:
    """Return (start, end) of the body of the packet at ``position``, or None when its length is not all there yet.

    ``end`` may lie behind what there is. Raise ``MalformedPacketError`` for a length of more than four bytes.
    """
    length = shift = 0
    for index in range(position + 1, min(position + 1 + _MAX_LENGTH_BYTES, len(packet))):
        byte = packet[index]
        length |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return index + 1, index + 1 + length
        shift += 7
    if len(packet) > position + _MAX_LENGTH_BYTES:
        raise MalformedPacketError("a length of more than four bytes")
    return None


def _length(value: int) -> bytes:
    encoded = bytearray()
    while value & ~0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _after_properties(packet: bytes, position: int, end: int) -> int:
    """Return where the properties that begin at ``position`` end; behind ``end`` if they do not end in the packet."""
    length = shift = 0
    for index in range(position, min(position + _MAX_LENGTH_BYTES, end)):
        byte = packet[index]
        length |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return index + 1 + length
        shift += 7
    return end + 1
