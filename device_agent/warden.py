"""Asks the policy in time: rarely, and only while something wants to be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.commands import Command, Log, TakeReadings
from device_agent.policy import Case, Readings, RuleName, Verdict, active, gates_sending, judge, metered_reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from device_agent.settings import PolicySettings

LOAD_MEMORY_S = 60.0
"""So long after its end a training is still part of the load average of the last minute."""


class Warden:
    """Holds the last verdict, and whether it is still good."""

    def __init__(self, settings: PolicySettings) -> None:
        self.active = active(settings)
        self.gates_sending = gates_sending(settings)
        self.waits: dict[str, int] = {}
        """How often each rule began to say no."""
        self._settings = settings
        self._verdict = Verdict()
        self._readings = Readings()
        self._reason = ""
        self._good = self._asking = False
        self._look_at: float | None = None
        self._loaded_until = 0.0

    @property
    def deadline(self) -> float | None:
        """When to look again, if anything still wants to be done then."""
        return self._look_at if self.active else None

    @property
    def examples(self) -> int | None:
        """Rows in the file of samples, when the sensors were last read and if they were counted."""
        return self._readings.examples

    @property
    def may_train(self) -> bool:
        """Whether a training may begin or go on."""
        return not self.active or (self._good and not self._verdict.holds)

    @property
    def may_send(self) -> bool:
        """Whether the next update may be sent."""
        return not self.gates_sending or (self._good and self._verdict.may_send)

    @property
    def asking(self) -> bool:
        """Whether the answer to ``TakeReadings`` is still to come."""
        return self._asking

    def reason(self, *, training: bool, sending: bool) -> str:
        """Return what holds up those of the two that are wanted; empty when nothing does."""
        if training and self._reason:
            return self._reason
        return metered_reason(self._settings, self._readings) if sending and not self._verdict.may_send else ""

    def look_again(self) -> None:
        """Take no old verdict any more: something changed."""
        self._look_at = None

    def due(self, now: float) -> list[Command]:
        """Ask for readings unless the last ones are still good. Call it only while something wants to be done."""
        if not self.active or (self._look_at is not None and now < self._look_at):
            return []
        self._good = False
        self._asking = True
        self._look_at = now + self._settings.check_s
        return [TakeReadings()]

    def taken(self, readings: Readings, now: float, *, running: bool, seen: int | None) -> list[Command]:
        """Judge what was read; ``running``: a training is under way, ``seen``: see ``Case``."""
        self._asking = False
        if running:
            self._loaded_until = now + LOAD_MEMORY_S
        before = self._verdict.holds
        case = Case(readings=readings, before=before, running=running, own_load=now < self._loaded_until, seen=seen)
        self._readings, self._verdict, self._good = readings, judge(self._settings, case), True
        self._look_at = now + max(self._settings.check_s, self._verdict.look_after_s)
        return self._tell(before, self._verdict.holds)

    def _tell(self, before: Mapping[RuleName, str], holds: Mapping[RuleName, str]) -> list[Command]:
        if before.keys() == holds.keys():
            return []  # The same, perhaps with other figures: no reason to publish a state each time.
        for name in holds.keys() - before.keys():
            self.waits[name] = self.waits.get(name, 0) + 1
        self._reason = f"waits: {'; '.join(holds.values())}" if holds else ""
        told = "training waits" if holds else "training may go on"
        return [Log(level="info", message=told, fields={"reason": "; ".join(holds.values())} if holds else {})]
