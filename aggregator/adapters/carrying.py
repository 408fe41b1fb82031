"""What the core decided, carried out: by the link, for operators, into the log, and to the files beside the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from aggregator.adapters.control import Control
from aggregator.adapters.exporter import TfliteExporter
from aggregator.adapters.inbox import Inbox
from aggregator.adapters.snapshot import SnapshotKeeper
from aggregator.commands import (
    Acknowledge,
    Command,
    Exit,
    Log,
    Publish,
    Reply,
    SaveAggregation,
    SaveFindings,
    SaveVerdict,
    Subscribe,
)
from protocol.adapters.mqtt import MqttLink
from protocol.link import Published, Received
from protocol.loglines import with_fields

Unacknowledged = dict[tuple[int, int], Received]
"""Messages of this connection that the core has, or holds back, and the broker still keeps; by connection and id."""


class Hands:
    """Carries commands out in their order, once what they rest on is stored. For the worker's thread."""

    def __init__(
        self,
        *,
        link: MqttLink,
        inbox: Inbox,
        control: Control,
        snapshots: SnapshotKeeper,
        exporter: TfliteExporter,
        unacknowledged: Unacknowledged,
        log: logging.Logger,
    ) -> None:
        """``unacknowledged`` loses what is acknowledged; ``log`` is what the core's lines go to."""
        self.exit: Exit | None = None
        """Why and how to end, once the core said so; the first reason counts."""
        self._link = link
        self._inbox = inbox
        self._control = control
        self._snapshots = snapshots
        self._exporter = exporter
        self._unacknowledged = unacknowledged
        self._log = log

    def carry_out(self, commands: Sequence[Command]) -> None:
        """Do all of it; what is published and acknowledged leaves together."""
        with self._link.together():
            for command in commands:
                self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Acknowledge(received=received):
                self._unacknowledged.pop((received.connection, received.mid), None)
                self._link.acknowledge(received)
            case Publish():
                self._publish(command)
            case Subscribe(topics=topics):
                self._link.subscribe(topics)  # refused only while the link is down: the next LinkUp asks again
            case Reply():
                self._control.reply(command)
            case Log(level=level, text=text, fields=fields):
                self._log.log(getattr(logging, level.upper()), "%s", with_fields(text, fields))
            case Exit():
                self.exit = self.exit or command
            case SaveAggregation(version=version, shelf=shelf) | SaveVerdict(version=version, shelf=shelf) if version:
                self._snapshots.note(version, shelf)
                self._exporter.note(version)
            case SaveFindings(findings=findings):
                self._snapshots.note_findings(findings)

    def _publish(self, message: Publish) -> None:
        taken = self._link.publish(
            message.topic, message.payload, qos=message.qos, retain=message.retain, token=message.token
        )
        if not taken and message.token:
            self._inbox.put(Published(token=message.token, error="the link is down, or has too much to send"))
