"""Whether the open version waits in vain: everybody who is there has had a say, and some of them were refused.

With a goal and no clock, a version of which too many updates are rejected would never come: those whose update is in
wait for the next version, and those who were refused cannot fill their place.
"""

from __future__ import annotations

from dataclasses import dataclass

from aggregator.configuration import AggregatorSettings
from aggregator.fleet import AWAY, Fleet
from aggregator.ledger import Ledger
from aggregator.records import DeviceRecord
from protocol.sampling import participates


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """What those who are there have said to the open version."""

    accepted: int
    """Updates in the buffer, of whomever."""
    refused: int
    """Devices whose last word was rejected, or that are in quarantine."""
    awaited: int
    """Devices that may still send one."""


class Standstill:
    """Looks at the whole fleet, so it is asked now and then only."""

    def __init__(self, settings: AggregatorSettings, ledger: Ledger, fleet: Fleet) -> None:
        self._goal = settings.schedule.goal
        self._participation = settings.participation
        self._ledger = ledger
        self._fleet = fleet
        self._complained: int | None = None

    def say(self) -> Say:
        """Return how it stands; looks at all devices."""
        refused = awaited = 0
        for record in self._fleet.devices.values():
            if record.state in AWAY or not self._takes_part(record):
                continue
            if self._ledger.buffer.of_device(record.device_id) >= self._participation.contributions_per_version:
                continue
            if record.quarantined or record.rejected_in_row:
                refused += 1
            else:
                awaited += 1
        return Say(accepted=len(self._ledger.buffer), refused=refused, awaited=awaited)

    @property
    def lacks_the_refused(self) -> bool:
        """Whether the goal is out of reach only because of devices that were refused.

        They count towards it then, as if their word had been taken; never more of them than there are, and the quorum
        holds. A device that is refused can so hasten a version, once all others have had their say; no more.
        """
        if not self._goal or not self._ledger.quorate or self._ledger.goal_reached:
            return False
        found = self.say()
        return not found.awaited and found.refused > 0 and found.accepted + found.refused >= self._goal

    def complaint(self) -> str:
        """Return what to tell the operator when everybody is refused; empty when not so, or told of this version."""
        version = self._ledger.version.version
        if self._complained == version or not self._ledger.trains or len(self._ledger.buffer):
            return ""
        found = self.say()
        if found.awaited or not found.refused:
            return ""
        self._complained = version
        return f"no device's update of version {version} is accepted: {found.refused} refused, nobody else is there"

    def _takes_part(self, record: DeviceRecord) -> bool:
        version, fraction = self._ledger.version.version, self._participation.sampling_fraction
        return participates(record.device_id, self._ledger.epoch, version, fraction)
