"""Obeying an operator's commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.commands import Command, DropPersonal, Log
from device_agent.drift import DriftSeen

if TYPE_CHECKING:
    from device_agent.downstream import Downstream
    from device_agent.parts import Parts
    from device_agent.upstream import Upstream
    from protocol.messages import DeviceCommand


class Orders:
    """Carries out each command once."""

    def __init__(self, parts: Parts, upstream: Upstream, downstream: Downstream) -> None:
        self._parts = parts
        self._up = upstream
        self._down = downstream

    def obey(self, command: DeviceCommand, now: float) -> list[Command]:
        """Do what a command that was checked says; one that came before changes nothing."""
        if not self._parts.ledger.first_time(command.request_id):
            return []
        self._parts.trust.obey(command)
        commands: list[Command] = [Log(level="info", message="command", fields={"action": command.action})]
        match command.action:
            case "pause":
                self._parts.ledger.change(paused=True)
                commands += self._parts.desk.set_aside()
            case "resume":
                self._parts.ledger.change(paused=False)
            case "evaluate":
                self._parts.desk.evaluation_wanted = True
            case "forget":
                self._parts.ledger.drift(DriftSeen())
                gone = [*self._down.drop_model(), DropPersonal(), *self._up.forget()]
                return [*commands, *gone, *self._down.start_over(now)]
        return [*commands, self._parts.ledger.save()]
