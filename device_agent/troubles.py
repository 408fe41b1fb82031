"""Which of the things that go wrong again and again are over, by what the log is told next. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.commands import Log
from protocol.repetition import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping

ENDS: Mapping[str, tuple[str, ...]] = {
    "update ready": ("training failed", "cannot write the outbox"),
    "model ready": ("cannot write the model cache",),
    "receipt": ("receipt retry",),
}
"""What is over once this is told."""

TROUBLES = {name for names in ENDS.values() for name in names}


class Troubles:
    """Counts what the log is told of each trouble."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}

    def after(self, told: Log, now: float) -> list[Log]:
        """Return what to tell behind a line: which troubles it ends, and how long they took."""
        name = "receipt retry" if told.fields.get("status") == "retry" else told.message
        if name in TROUBLES:
            self._tallies.setdefault(name, Tally()).note(now)
            return []
        ended = [(trouble, self._tallies.pop(trouble)) for trouble in ENDS.get(name, ()) if trouble in self._tallies]
        return [Log(level="info", message=f"over: {trouble}{tally.take(now)}") for trouble, tally in ended]
