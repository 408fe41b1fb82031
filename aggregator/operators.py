"""What operators ask for: figures, rollbacks, surveys, commands to devices, quarantine."""

from __future__ import annotations

import msgspec

from aggregator.admission import Refused
from aggregator.asking import Asking
from aggregator.commanding import Commander
from aggregator.commands import Command, Reply
from aggregator.events import (
    CanaryRequested,
    DeviceCommandRequested,
    OperatorEvent,
    QuarantineRequested,
    RollbackRequested,
    StatusRequested,
    SurveyCloseRequested,
    SurveyRequested,
)
from aggregator.fleet import Fleet
from aggregator.releasing import Releases
from aggregator.speaking import Speaker
from aggregator.status import Status


class Operators:
    """Answers each request with a ``Reply``, behind what it led to."""

    def __init__(  # noqa: PLR0917 - parts of one core
        self, status: Status, releases: Releases, asking: Asking, commander: Commander, fleet: Fleet, speaker: Speaker
    ) -> None:
        self._status = status
        self._releases = releases
        self._asking = asking
        self._commander = commander
        self._fleet = fleet
        self._speaker = speaker

    def handle(self, event: OperatorEvent, now: float, wall: float) -> list[Command]:  # noqa: PLR0911 - a table of events
        """Do what is asked, or say why not."""
        match event:
            case StatusRequested():
                return [Reply(request_id=event.request_id, body=msgspec.to_builtins(self._status.metrics()))]
            case RollbackRequested():
                return self._releases.roll_back(event, now, wall)
            case CanaryRequested():
                return self._releases.decide(event, now, wall)
            case DeviceCommandRequested():
                return self._commander.send(event, wall, link_up=self._speaker.link_up)
            case QuarantineRequested():
                return self._quarantine(event, wall)
            case SurveyRequested():
                return self._releases.asked(*self._asking.open(event, wall), wall)
            case SurveyCloseRequested():
                return self._releases.asked(*self._asking.close(event, wall), wall)

    def _quarantine(self, event: QuarantineRequested, wall: float) -> list[Command]:
        if not event.reason:
            released = self._fleet.release(event.device_id)
            return [Reply(request_id=event.request_id, body={"device": event.device_id, "released": released})]
        try:
            self._fleet.quarantine(event.device_id, event.reason, wall)
        except Refused as exc:
            return [Reply(request_id=event.request_id, error=str(exc))]
        return [Reply(request_id=event.request_id, body={"device": event.device_id, "quarantined": event.reason})]
