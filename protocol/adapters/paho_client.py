"""paho-mqtt's client, told to use our socket and to leave PUBLISH and PUBACK, the many, to us.

The only module that knows paho's insides; the integration tests fail at once when a new paho moves them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from protocol.adapters.packets import (
    PUBACK,
    PUBLISH,
    MalformedPacketError,
    publish_head,
    read_puback,
    read_publish,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from protocol.adapters.wire import BufferedSocket
    from protocol.link import BrokerSettings, Will
    from protocol.negotiation import Version

_FIRST_FAILURE = 0x80


class LinkClient(Client):
    """A paho client for one connection: it never reconnects, and never acknowledges by itself.

    ``on_packet(topic, payload, qos, mid, retain)`` is called for each message, ``on_puback(mid, error)`` for each
    PUBACK. Exceptions of theirs travel through ``loop_read`` to whoever called that.
    """

    def __init__(
        self,
        client_id: str,
        protocol: Version,
        sock: BufferedSocket,
        on_packet: Callable[[str, bytes, int, int, bool], None],
        on_puback: Callable[[int, str], None],
        *,
        clean_session: bool,
    ) -> None:
        self._wire = sock
        self._on_packet = on_packet
        self._on_puback = on_puback
        self.five = five = protocol == "5"
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

    def _packet_read(self) -> MQTTErrorCode:
        # paho's own way takes a system call for each byte of a header, four copies of a payload, locks and a condition
        # for each message, and in MQTT 5 a table of all property names.
        try:
            packet, start, body, end = self._wire.next_packet()
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_AGAIN
        except OSError:
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        except MalformedPacketError:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        header = packet[start]
        try:
            if header >> 4 == PUBLISH:
                self._on_packet(*read_publish(header, packet, body, end, five=self.five))
            elif header >> 4 == PUBACK:
                mid, code = read_puback(packet[body:end])
                self._on_puback(mid, _refusal(code))
            else:
                return self._handle_whole(header, packet[body:end])
        except (MalformedPacket, MalformedPacketError):
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_whole(self, header: int, body: bytes) -> MQTTErrorCode:
        self._in_packet = {
            "command": header,
            "have_remaining": 1,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(body),
            "packet": bytearray(body),
            "to_process": 0,
            "pos": 0,
        }
        return self._packet_handle()

    def write_publish(self, topic: str, payload: bytes, *, qos: int, retain: bool, in_use: Container[int]) -> int:
        """Write a PUBLISH; return its message id, not ``in_use``, or 0 with QoS 0."""
        mid = 0
        if qos:
            mid = self._mid_generate()
            while mid in in_use:
                mid = self._mid_generate()
        self._wire.append(publish_head(topic.encode(), len(payload), mid=mid, retain=retain, five=self.five))
        self._wire.append(payload)
        return mid


def _refusal(code: int) -> str:
    """Return the reason code of a PUBACK in words, empty when it is none of failure."""
    if code < _FIRST_FAILURE:
        return ""
    # Not only those that the standard lists for PUBACK: Mosquitto says 0x95, "packet too large".
    packets = [packet for kinds in ReasonCode.names.get(code, {}).values() for packet in kinds]
    return str(ReasonCode(packets[0], identifier=code)) if packets else f"reason code {code:#04x}"


def _leave_it_to_the_loop(*_arguments: object) -> None:
    pass
