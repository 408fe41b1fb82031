"""Operators' words on devices: quarantine, and commands, numbered so that none obeys an old one that somebody kept."""

from __future__ import annotations

from aggregator.admission import Refused
from aggregator.commands import Command, Publish, Reply, SaveIssued
from aggregator.events import DeviceCommandRequested, QuarantineRequested
from aggregator.fleet import Fleet
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

    def send(self, event: DeviceCommandRequested, wall: float, *, link_up: bool) -> list[Command]:
        """Return what brings the command to its device, or to all: its number is stored before it is sent."""
        if not link_up:
            return [Reply(request_id=event.request_id, error="the aggregator is not connected to its broker")]
        try:
            topic = self._topics.command(event.device_id) if event.device_id else self._topics.command_all
        except ProtocolError as exc:
            return [Reply(request_id=event.request_id, error=str(exc))]
        self._issued = next_number(self._issued, wall)
        command = DeviceCommand(
            federation=self._topics.federation,
            request_id=event.request_id,
            action=event.action,
            target=event.device_id or EVERYBODY,
            issued=self._issued,
        )
        return [
            SaveIssued(self._issued),
            Publish(topic=topic, payload=self._keys.command(command)),
            Reply(request_id=event.request_id, body={"sent_to": command.target, "action": event.action}),
        ]


def quarantine(fleet: Fleet, event: QuarantineRequested, wall: float) -> list[Command]:
    """Take a device's messages no more, or again, and return the answer to who asked for it."""
    if not event.reason:
        released = fleet.release(event.device_id)
        return [Reply(request_id=event.request_id, body={"device": event.device_id, "released": released})]
    try:
        fleet.quarantine(event.device_id, event.reason, wall)
    except Refused as exc:
        return [Reply(request_id=event.request_id, error=str(exc))]
    return [Reply(request_id=event.request_id, body={"device": event.device_id, "quarantined": event.reason})]
