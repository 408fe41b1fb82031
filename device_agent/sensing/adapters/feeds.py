"""Connections to brokers that sensors publish on: one for each broker, whatever the number of sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.adapters.mqtt import MqttLink
from protocol.link import LinkDown, LinkUp, Received, Subscribed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from device_agent.sensing.messages import MessageReader
    from protocol.adapters.loop import LinkLoop
    from protocol.link import BrokerSettings, LinkEvent


class Feed:
    """One broker and the sources on it. Everything happens in the links' thread."""

    def __init__(
        self,
        broker: BrokerSettings,
        client_id: str,
        readers: Sequence[MessageReader],
        loop: LinkLoop,
        *,
        hear: Callable[[Sequence[MessageReader], Received], None],
        changed: Callable[[], None],
    ) -> None:
        """``hear`` takes in what was received; ``changed``: something about the connection is another matter now."""
        self._broker = broker
        self._readers = readers
        self._hear = hear
        self._changed = changed
        self.subscribed = False
        """Whether the broker has taken our topics."""
        self._wanted = 0
        self._link = MqttLink(broker, client_id, self._deliver, loop=loop)

    def start(self) -> None:
        """Connect, and keep at it. Raise ``ConfigurationError`` when the password file cannot be read."""
        self._link.start()

    def stop(self) -> None:
        """Say goodbye."""
        self._link.stop(0.5)

    def _deliver(self, event: LinkEvent) -> bool:
        match event:
            case Received():
                self._hear(self._readers, event)
            case LinkUp():
                self._subscribe()
                self._tell("")
            case LinkDown():
                self.subscribed = False
                for reader in self._readers:
                    if reader.table.label_topic:
                        reader.intake.forget_labels()
                if event.kind != "stopped":
                    self._tell(f"no connection to the broker {self._broker.host}:{self._broker.port} ({event.kind})")
            case Subscribed():
                self._answered(event)
        return True

    def _subscribe(self) -> None:
        self._wanted = 0
        for qos in (0, 1):
            topics = [topic for reader in self._readers if reader.table.qos == qos for topic in reader.topics]
            if topics:
                self._wanted += 1
                self._link.subscribe(list(dict.fromkeys(topics)), qos)

    def _answered(self, event: Subscribed) -> None:
        self._wanted -= 1
        self.subscribed = self._wanted <= 0
        for reader in self._readers if event.refused else ():
            refused = [topic for topic in reader.topics if topic in event.refused]
            if refused:
                reader.intake.trouble = f"the broker refuses the topic {refused[0]}"[:160]
        self._changed()

    def _tell(self, trouble: str) -> None:
        for reader in self._readers:
            reader.intake.trouble = trouble
        self._changed()
