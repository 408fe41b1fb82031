"""paho-mqtt's client, told to use our socket and to hand over messages without copying them four times.

The only module that knows paho's insides; the integration tests fail at once when a new paho moves them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol.adapters.wire import BufferedSocket
    from protocol.link import BrokerSettings, Will
    from protocol.negotiation import Version

_MAX_LENGTH_BYTES = 4
_MAX_QOS = 1
_MID_BYTES = 2
_UNSPECIFIED_ERROR = 0x80
_NO_PROPERTIES = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]  # paho left its types out


class LinkClient(Client):
    """A paho client for one connection: it never reconnects, and never acknowledges by itself.

    ``on_packet(topic, payload, qos, mid, retain)`` is called for each message. An exception of its travels through
    ``loop_read`` to whoever called that.
    """

    def __init__(
        self,
        client_id: str,
        protocol: Version,
        sock: BufferedSocket,
        on_packet: Callable[[str, bytes, int, int, bool], None],
        *,
        clean_session: bool,
    ) -> None:
        self._wire = sock
        self._on_packet = on_packet
        five = protocol == "5"
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if five else clean_session,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        # With this set paho leaves it to us when to write, instead of writing in the middle of a call.
        self.on_socket_register_write = _leave_it_to_the_loop

    def greet(
        self,
        settings: BrokerSettings,
        *,
        will: Will | None,
        password: str | None,
        clean_session: bool,
        session_expiry_s: int,
        max_packet_bytes: int,
    ) -> None:
        """Write CONNECT."""
        if will is not None:
            self.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        if settings.username:
            self.username_pw_set(settings.username, password)
        if self.protocol != MQTTProtocolVersion.MQTTv5:
            self.connect(settings.host, settings.port, settings.keepalive_s)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho left its types out
        properties.MaximumPacketSize = max_packet_bytes
        if not clean_session:
            properties.SessionExpiryInterval = session_expiry_s
        self.connect(
            settings.host, settings.port, settings.keepalive_s, clean_start=clean_session, properties=properties
        )

    def _create_socket(self) -> BufferedSocket:
        return self._wire

    def _handle_publish(self) -> MQTTErrorCode:
        # paho's own way to on_message takes 4 copies of the payload, a lock with a condition, and in MQTT 5 a table
        # of all property names, for each message.
        header = self._in_packet["command"]
        packet = self._in_packet["packet"]
        qos = (header >> 1) & 3
        if qos > _MAX_QOS:  # never subscribed to
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        end = 2 + int.from_bytes(packet[:2], "big")
        try:
            topic = packet[2:end].decode()
        except UnicodeDecodeError:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        mid = 0
        if qos:
            mid = int.from_bytes(packet[end : end + 2], "big")
            end += 2
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            end = _after_properties(packet, end)
        if end > len(packet):
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        with memoryview(packet) as view:
            payload = bytes(view[end:])
        self._on_packet(topic, payload, qos, mid, bool(header & 1))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        # paho takes a code that the standard does not list for PUBACK for a broken connection. Mosquitto has one:
        # 0x95, "packet too large". A sender that was not told so would try again and again, and be cut off each time.
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) < _MID_BYTES:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        mid = int.from_bytes(packet[:_MID_BYTES], "big")
        value = packet[_MID_BYTES] if len(packet) > _MID_BYTES else 0
        with self._out_message_mutex:
            if mid not in self._out_messages:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            return self._do_on_publish(mid, _puback_code(value), _NO_PROPERTIES)


def _puback_code(value: int) -> ReasonCode:
    packets = [packet for kinds in ReasonCode.names.get(value, {}).values() for packet in kinds]
    if PacketTypes.PUBACK in packets:
        return ReasonCode(PacketTypes.PUBACK, identifier=value)
    if packets:
        return ReasonCode(packets[0], identifier=value)
    return ReasonCode(PacketTypes.PUBACK, identifier=_UNSPECIFIED_ERROR)


def _after_properties(packet: bytearray, start: int) -> int:
    """Return where the properties that begin at ``start`` end (MQTT 5, sections 1.5.5 and 2.2.2)."""
    length = 0
    for index in range(_MAX_LENGTH_BYTES):
        if start + index >= len(packet):
            break
        byte = packet[start + index]
        length |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return start + index + 1 + length
    return len(packet) + 1


def _leave_it_to_the_loop(*_arguments: object) -> None:
    pass
