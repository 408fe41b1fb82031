"""Listens to a federation's state and metrics topics and keeps a ``FleetView`` up to date."""

from __future__ import annotations

import queue
import secrets
import time
from typing import TYPE_CHECKING

from fedmq.fleet import FleetView
from protocol.adapters.mqtt import MqttLink
from protocol.errors import ProtocolError
from protocol.link import LinkDown, LinkUp, Received, Subscribed
from protocol.status import AggregatorMetrics, AggregatorState, DeviceMetrics, DeviceState, decode_status
from protocol.topics import Topics

if TYPE_CHECKING:
    from protocol.link import BrokerSettings, LinkEvent

MAX_INBOX = 20_000
"""The retained states of a large fleet come all at once when one subscribes."""


class Watcher:
    """A connection to the broker and what was learned by it. All but the hand-over happens in the caller's thread."""

    def __init__(self, broker: BrokerSettings, federation: str, *, max_devices: int | None = None) -> None:
        self.topics = Topics(federation)
        self.view = FleetView(federation) if max_devices is None else FleetView(federation, max_devices)
        self.connected = False
        self.subscribed = False
        """Whether the broker has answered: from then on there is something to hear."""
        self.problem = ""
        """Why there is no connection, when there is none."""
        self._inbox: queue.Queue[LinkEvent] = queue.Queue(maxsize=MAX_INBOX)
        self._link = MqttLink(broker, f"fedmq-monitor-{secrets.token_hex(4)}", self._deliver)

    def start(self) -> None:
        """Begin to connect; goes on trying for ever."""
        self._link.start()

    def stop(self) -> None:
        """Say goodbye to the broker."""
        self._link.stop()

    def publish(self, topic: str, payload: bytes) -> bool:
        """Send a message (QoS 1); False while there is no connection."""
        return self._link.publish(topic, payload)

    def poll(self, timeout_s: float) -> None:
        """Take in what comes within ``timeout_s`` seconds."""
        until = time.monotonic() + timeout_s
        while (left_s := until - time.monotonic()) > 0:
            try:
                event = self._inbox.get(timeout=left_s)
            except queue.Empty:
                return
            self._handle(event, time.monotonic())

    def _deliver(self, event: LinkEvent) -> bool:
        try:
            self._inbox.put_nowait(event)
        except queue.Full:
            return False
        return True

    def _handle(self, event: LinkEvent, now: float) -> None:
        match event:
            case LinkUp():
                self.connected, self.problem = True, ""
                topics = self.topics
                states = [topics.aggregator_state, topics.all_device_states]
                self._link.subscribe([*states, topics.aggregator_metrics, topics.all_device_metrics])
            case Subscribed():
                self.subscribed = True
            case LinkDown():
                self.connected, self.subscribed, self.problem = False, False, event.reason
            case Received():
                self._take_in(event, now)

    def _take_in(self, received: Received, now: float) -> None:
        topics, topic = self.topics, received.topic
        try:
            if topic == topics.aggregator_state:
                self.view.observe(decode_status(received.payload, AggregatorState), now)
            elif topic == topics.aggregator_metrics:
                self.view.observe(decode_status(received.payload, AggregatorMetrics), now)
            else:
                self._take_in_device(received, now)
        except ProtocolError:
            return  # somebody publishes nonsense there; a monitor shows what makes sense

    def _take_in_device(self, received: Received, now: float) -> None:
        if not received.payload:
            return  # a retained state was cleared
        source = self.topics.parse_device_topic(received.topic)
        status: DeviceState | DeviceMetrics
        if source.kind == "state":
            status = decode_status(received.payload, DeviceState)
        else:
            status = decode_status(received.payload, DeviceMetrics)
        self.view.observe(status, now, device_id=source.device_id, retained=received.retain)
