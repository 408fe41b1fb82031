"""What the sensors' side tells the core: what is wrong there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.commands import Command, Log

if TYPE_CHECKING:
    from device_agent.events import SensorsTold


class Senses:
    """Holds what is wrong with sources and sample store, for the device's state."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}

    @property
    def reason(self) -> str:
        """What is wrong, in a line for people; empty when nothing is."""
        if not self.faults:
            return ""
        return "sensors: " + "; ".join(f"{name}: {text}" for name, text in sorted(self.faults.items()))

    def told(self, event: SensorsTold) -> list[Command]:
        """Take in what is wrong now; tell the operator what is new, and what is over."""
        before, self.faults = self.faults, dict(event.faults)
        commands: list[Command] = [
            Log(level="warning", message="sensor fault", fields={"source": name, "fault": text})
            for name, text in sorted(self.faults.items())
            if before.get(name) != text
        ]
        commands += [
            Log(level="info", message="sensor fault is over", fields={"source": name})
            for name in sorted(before.keys() - self.faults.keys())
        ]
        return commands
