"""What is wrong with messages: counted each time, told once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.commands import Command, Log
from device_agent.trust import DistrustedError

if TYPE_CHECKING:
    from device_agent.parts import Parts
    from protocol.errors import ProtocolError

MAX_TOLD = 64
"""Faults of messages that are logged once each; past that they are only counted."""


class Faults:
    """Takes note of messages that are refused."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._told: set[str] = set()

    def of_message(self, topic: str, fault: ProtocolError, now: float) -> list[Command]:
        """Count a message that is malformed or not believed."""
        detail = f"{topic[-80:]}: {fault}"
        if not isinstance(fault, DistrustedError):
            return self.note("malformed message", detail)
        name = self._parts.trust.refuse(fault)
        self._parts.announce.news(now)
        return self._tell(f"{name}: refused", detail)

    def note(self, kind: str, detail: str) -> list[Command]:
        """Count what is wrong, and tell the operator the first time."""
        self._parts.ledger.refuse(kind)
        return self._tell(kind, detail)

    def _tell(self, kind: str, detail: str) -> list[Command]:
        if detail in self._told or len(self._told) >= MAX_TOLD:
            return []
        self._told.add(detail)
        return [Log(level="warning", message=kind, fields={"detail": detail})]
