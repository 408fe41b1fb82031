"""Operators' commands to devices: numbered, so that no device obeys an old one that somebody kept."""

from __future__ import annotations

from aggregator.commands import Command, Publish, Reply, SaveIssued
from aggregator.events import DeviceCommandRequested
from aggregator.keyring import Keyring
from aggregator.numbering import next_number
from protocol.errors import ProtocolError
from protocol.messages import DeviceCommand
from protocol.topics import EVERYBODY, Topics


class Commander:
    """Sends commands; ``issued`` is the last number that was given."""

    def __init__(self, topics: Topics, keys: Keyring, issued: int) -> None:
        self._topics = topics
        self._keys = keys
        self._issued = issued

    def number(self, wall: float) -> SaveIssued:
        """Return the number of what goes out next, to be stored before that does."""
        self._issued = next_number(self._issued, wall)
        return SaveIssued(self._issued)

    def send(self, event: DeviceCommandRequested, wall: float, *, link_up: bool) -> list[Command]:
        """Return what brings the command to its device, or to all: its number is stored before it is sent."""
        if not link_up:
            return [Reply(request_id=event.request_id, error="the aggregator is not connected to its broker")]
        try:
            topic = self._topics.command(event.device_id) if event.device_id else self._topics.command_all
        except ProtocolError as exc:
            return [Reply(request_id=event.request_id, error=str(exc))]
        numbered = self.number(wall)
        command = DeviceCommand(
            federation=self._topics.federation,
            request_id=event.request_id,
            action=event.action,
            target=event.device_id or EVERYBODY,
            issued=numbered.issued,
        )
        return [
            numbered,
            Publish(topic=topic, payload=self._keys.command(command)),
            Reply(request_id=event.request_id, body={"sent_to": command.target, "action": event.action}),
        ]
