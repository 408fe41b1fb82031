"""One connection to the broker, from a connected socket to its end. A new one is made for each attempt.

Nothing of an old connection survives into the next: paho's queues die with their client, every publish under way is
answered, and who wants it sent has it in a store of his own.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from paho.mqtt.client import error_string
from paho.mqtt.enums import MQTTErrorCode

from protocol.adapters.loop import READABLE, WRITABLE
from protocol.adapters.packets import DISCONNECT, MAX_REMAINING_BYTES, PINGREQ, puback
from protocol.adapters.paho_client import LinkClient
from protocol.adapters.terms import Loss, Publish, Subscribe, fault_text, taken_over
from protocol.adapters.wire import CLOSED, BufferedSocket
from protocol.heartbeat import Heartbeat
from protocol.link import Received, Subscribed

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from protocol.adapters.dial import Reached
    from protocol.adapters.loop import LinkLoop, Timer
    from protocol.adapters.terms import Job, Owner, Terms
    from protocol.link import DownKind

MAX_INFLIGHT = 32
"""Publishes that await their PUBACK. Enough for any round-trip; a slow link's owner keeps far fewer under way."""

_ENVELOPE_BYTES = 16
"""Upper bound of what a PUBLISH adds to topic and payload: header, lengths, message id, empty properties."""

_UNSUPPORTED_VERSION = 0x84
_TAKEN_OVER = 0x8E


class Connection:
    """See the module. All methods are for the loop's thread only."""

    def __init__(self, loop: LinkLoop, reached: Reached, terms: Terms, owner: Owner, number: int) -> None:
        self.number = number
        self._loop = loop
        self._terms = terms
        self._owner = owner
        self._wire = BufferedSocket(reached.sock, terms.max_packet_bytes, reached.tls)
        self._client = LinkClient(
            terms.client_id,
            terms.protocol,
            self._wire,
            self._on_packet,
            self._on_puback,
            clean_session=terms.clean_session,
        )
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._acks: deque[bytes] = deque()
        self._publishing: dict[int, Publish] = {}
        self._subscribing: dict[int, tuple[str, ...]] = {}
        self._max_inflight = MAX_INFLIGHT
        self._broker_max_packet = 0
        self._heartbeat = Heartbeat(terms.settings.keepalive_s, loop.now())
        self._up = False
        self._closing = False
        self._ended = False
        self._said_goodbye = False
        self._draining = False
        self._watched = READABLE
        self._timer: Timer | None = None

    def open(self) -> None:
        """Say CONNECT and wait for the answer."""
        self._loop.watch(self._wire.fileno(), READABLE, self._on_ready)
        timeout_s = self._terms.settings.connect_timeout_s
        self._timer = self._loop.call_at(self._loop.now() + timeout_s, self._on_connect_timeout)
        try:
            self._client.greet(
                self._terms.settings,
                will=self._terms.will,
                password=self._terms.password,
                clean_session=self._terms.clean_session,
                session_expiry_s=self._terms.session_expiry_s,
                max_packet_bytes=self._terms.max_packet_bytes,
            )
            self.pump()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the link tries again
            self.fault(exc)

    def acknowledge(self, mid: int) -> None:
        """Acknowledge a message of this connection with the next ``pump``."""
        self._acks.append(puback(mid))

    def pump(self) -> None:
        """Write what there is to write: acknowledgements, the owner's jobs, and paho's packets."""
        if self._ended or self._draining:
            return
        try:
            self._write_packets()
            self._carry_out_jobs()
            if self._closing:
                self._say_goodbye()
            self._wire.flush()
            if self._said_goodbye and not self._wire.unsent:
                self._wire.shut_down_writing()
                self._draining = True
        except OSError as exc:
            self._write_failed(exc)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the link tries again
            self.fault(exc)
        else:
            self._watch()

    def finish(self) -> None:
        """Say DISCONNECT behind what is written already, and end when the broker has heard it."""
        self._closing = True
        self.pump()

    def end(
        self,
        reason: str,
        kind: DownKind = "lost",
        *,
        version_in_doubt: bool = False,
        fault: Exception | None = None,
    ) -> None:
        """Close the socket, answer all publishes under way with an error, and tell the owner. Once."""
        if self._ended:
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.forget(self._wire.fileno())
        self._wire.destroy()
        publishing, self._publishing = self._publishing, {}
        for job in publishing.values():
            self._owner.settled(job, reason)
        self._owner.lost(
            Loss(
                reason=reason,
                kind=kind,
                version_in_doubt=version_in_doubt,
                oversized=self._wire.oversized,
                closed=self._up and self._wire.error == CLOSED,
                fault=fault,
            )
        )

    def fault(self, exc: Exception) -> None:
        """End because of an exception, of the owner's or from the bytes of the broker."""
        self.end(fault_text(exc), "fault", fault=exc)

    # --- what the loop calls

    def _on_ready(self, events: int) -> None:
        if self._draining:
            # A socket that is closed with unread input resets the connection, and the broker may never see the
            # DISCONNECT in front of that: it would publish our will.
            if self._wire.discard_input():
                self.end("stopped", "stopped")
            return
        if events & ~WRITABLE:
            self._read()
        self.pump()

    def _on_connect_timeout(self) -> None:
        timeout_s = self._terms.settings.connect_timeout_s
        self.end(f"the broker did not answer CONNECT within {timeout_s:g} s", "timeout", version_in_doubt=True)

    def _on_heartbeat(self) -> None:
        now = self._loop.now()
        try:
            verdict = self._heartbeat.check(now, self._wire.taken())
        except OSError as exc:
            self.end(f"the connection broke: {exc.strerror or exc}")
            return
        if verdict == "dead":
            self.end("the broker was silent for longer than the keep-alive allows", "timeout")
        elif verdict == "ping":
            self._wire.append(PINGREQ)
            self.pump()
            # Only now is it sealed, if there is TLS, and its end known.
            self._heartbeat.pinged(now, self._wire.written)
        if not self._ended:
            self._set_heartbeat()

    def _set_heartbeat(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._heartbeat.next_check(self._loop.now()), self._on_heartbeat)

    # --- reading

    def _read(self) -> None:
        self._wire.begin_pass()
        try:
            while not self._ended:
                code = self._client.loop_read()
                if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    self._cut_off(error_string(code))
                if not self._wire.more:
                    break
        except Exception as exc:  # noqa: BLE001 - whatever it is, the link tries again
            self.fault(exc)
            return
        if self._heartbeat.received(self._loop.now()) and not self._ended:
            self._set_heartbeat()

    def _cut_off(self, reason: str) -> None:
        kind = self._wire.kind
        reason = self._wire.error or reason
        if not self._up and self._wire.perhaps_wants_tls:
            reason += "; if this port is one for TLS, [broker.tls] is missing"
        self.end(reason, kind, version_in_doubt=not self._up and kind == "lost")

    def _on_packet(self, topic: str, payload: bytes, qos: int, mid: int, retain: bool) -> None:
        received = Received(topic=topic, payload=payload, retain=retain, qos=qos, mid=mid, connection=self.number)
        taken = self._owner.got(received)
        if qos and not (taken and self._terms.manual_ack):
            self.acknowledge(mid)

    def _on_puback(self, mid: int, error: str) -> None:
        job = self._publishing.pop(mid, None)
        if job is None:
            return
        if error:
            self._owner.denied(job.topic, error)
        self._owner.settled(job, error)

    # --- writing

    def _write_failed(self, exc: OSError) -> None:
        # What the broker said before it hung up is still there to be read: that somebody took our session, or that it
        # refuses our certificate (with TLS 1.3 that comes after the handshake).
        self._read()
        self.end(f"the connection broke: {exc.strerror or exc}")

    def _write_acks(self) -> None:
        if self._acks:
            self._wire.append(b"".join(self._acks))
            self._acks.clear()

    def _say_goodbye(self) -> None:
        if not self._said_goodbye and not self._client.want_write():
            self._wire.append(DISCONNECT)
            self._wire.conclude()
            self._said_goodbye = True

    def _write_packets(self) -> None:
        self._write_acks()
        if self._client.want_write():
            self._client.loop_write()

    def _carry_out_jobs(self) -> None:
        while self._up and not self._closing and len(self._publishing) < self._max_inflight:
            if not self._has_room():
                return
            job = self._owner.next_job()
            if job is None:
                return
            self._carry_out(job)
            self._write_packets()

    def _has_room(self) -> bool:
        if self._wire.congested:
            self._wire.flush()
            self._write_packets()
        return not self._wire.congested

    def _carry_out(self, job: Job) -> None:
        match job:
            case Publish():
                self._publish(job)
            case Subscribe():
                code, mid = self._client.subscribe([(topic, job.qos) for topic in job.topics])
                if code == MQTTErrorCode.MQTT_ERR_SUCCESS and mid is not None:
                    self._subscribing[mid] = job.topics
            case _:
                self._client.unsubscribe(list(job.topics))

    def _publish(self, job: Publish) -> None:
        size = len(job.topic.encode()) + len(job.payload) + _ENVELOPE_BYTES
        most = self._broker_max_packet or MAX_REMAINING_BYTES
        if size > most:
            self._owner.settled(job, f"larger than the {most} bytes that the broker takes")
            return
        mid = self._client.write_publish(
            job.topic, job.payload, qos=job.qos, retain=job.retain, in_use=self._publishing
        )
        if mid:
            self._publishing[mid] = job
        else:
            self._owner.settled(job, "")

    def _watch(self) -> None:
        events = READABLE
        if not self._draining and (self._wire.unsent or self._client.want_write()):
            events |= WRITABLE
        if events != self._watched and not self._ended:
            self._watched = events
            self._loop.change(self._wire.fileno(), events)

    # --- what paho calls

    def _on_connect(
        self, _client: Client, _userdata: object, flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if code.is_failure:
            self.end(f"the broker refused: {code}", "refused", version_in_doubt=code.value == _UNSUPPORTED_VERSION)
            return
        self._up = True
        self._max_inflight = min(MAX_INFLIGHT, getattr(properties, "ReceiveMaximum", MAX_INFLIGHT))
        self._broker_max_packet = getattr(properties, "MaximumPacketSize", 0)
        now = self._loop.now()
        # The broker may have set another keep-alive; 0 would be none, but a dead connection must not be kept for ever.
        self._heartbeat = Heartbeat(self._client.keepalive or self._terms.settings.keepalive_s, now)
        self._set_heartbeat()
        self._owner.came_up(session_present=flags.session_present)

    def _on_disconnect(
        self, _client: Client, _userdata: object, flags: DisconnectFlags, code: ReasonCode, _properties: object
    ) -> None:
        if flags.is_disconnect_packet_from_server and code.value == _TAKEN_OVER:
            self.end(taken_over(self._terms.client_id), "taken-over")
        elif flags.is_disconnect_packet_from_server:
            self.end(f"the broker ended the connection: {code}")
        else:
            self._cut_off(f"the connection broke: {code}")

    def _on_subscribe(
        self, _client: Client, _userdata: object, mid: int, codes: list[ReasonCode], _properties: object
    ) -> None:
        topics = self._subscribing.pop(mid, None)
        if topics is not None:
            refused = tuple(topic for topic, code in zip(topics, codes, strict=False) if code.is_failure)
            self._owner.subscribed(Subscribed(topics=topics, refused=refused))
