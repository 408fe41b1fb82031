"""What is known of the devices, and the counters over all of them."""

from __future__ import annotations

import copy

from aggregator.admission import Refused
from aggregator.identities import Identities
from aggregator.records import Counters, DeviceRecord, JournalEntry
from protocol.messages import ReceiptStatus
from protocol.status import DeviceMetrics, DeviceState

AWAY = frozenset({"lost", "stopped", ""})
"""States of a device that is not there; a sleeping one said that it will come back."""

STALENESS_BUCKETS = 16
MAX_REFUSAL_CODES = 64
"""Codes are ours and few; the bound holds even if one is ever made from outside text."""


def _count(counts: dict[str, int], key: str) -> None:
    if key in counts or len(counts) < MAX_REFUSAL_CODES:
        counts[key] = counts.get(key, 0) + 1


class Fleet:
    """Records by device, and which of them the store has not seen yet."""

    def __init__(self, devices: tuple[DeviceRecord, ...], counters: Counters, max_devices: int) -> None:
        self.devices = {record.device_id: copy.deepcopy(record) for record in devices}
        self.counters = copy.deepcopy(counters)
        self._max_devices = max_devices
        self._dirty: set[str] = set()
        self._counters_dirty = False
        self.identities = Identities()
        self.online_estimate = 0
        """Devices that are there, or asleep."""
        self.refresh()

    def seen(self, device_id: str, wall: float) -> DeviceRecord:
        """Return the device's record, made when it is new; raise ``Refused`` when the fleet is full."""
        record = self.devices.get(device_id)
        if record is None:
            if len(self.devices) >= self._max_devices:
                raise Refused("rejected", "fleet-full", f"{self._max_devices} devices are known already")
            record = self.devices[device_id] = DeviceRecord(device_id=device_id, first_seen=wall, refusals={})
        record.last_seen = wall
        self._dirty.add(device_id)
        return record

    def accepted(self, record: DeviceRecord, entry: JournalEntry, update_bytes: int) -> None:
        """Count an update that entered the buffer."""
        staleness = entry.contribution.staleness
        record.accepted += 1
        record.rejected_in_row = 0
        record.last_norm = entry.norm
        record.update_bytes = update_bytes
        record.last_staleness = staleness
        self.counters.accepted += 1
        self.counters.folded += 1
        self.counters.clipped += entry.contribution.clip < 1.0
        self.counters.update_bytes += update_bytes
        bucket = str(staleness) if staleness < STALENESS_BUCKETS else f"{STALENESS_BUCKETS}+"
        _count(self.counters.staleness, bucket)
        self._counters_dirty = True

    def accepted_report(self, record: DeviceRecord) -> None:
        """Count an answer to a survey."""
        record.rejected_in_row = 0
        self.counters.reports_accepted += 1
        self._counters_dirty = True

    def refused_report(self, refused: Refused) -> None:
        """Count an answer to a survey that was not taken."""
        self.counters.reports_refused += 1
        if refused.code:
            _count(self.counters.refusals, refused.code)
        self._counters_dirty = True

    def refused(self, record: DeviceRecord | None, status: ReceiptStatus, code: str) -> None:
        """Count an update, or any other message, that did not enter."""
        for counts in (self.counters, record):
            if counts is not None and status != "accepted":
                setattr(counts, status, getattr(counts, status) + 1)
                if code:
                    _count(counts.refusals, code)
        self._counters_dirty = True

    def blamed(self, record: DeviceRecord, limit: int, text: str) -> bool:
        """Count an update that speaks against its device; return whether it is in quarantine from now on."""
        record.rejected_in_row += 1
        if not limit or record.rejected_in_row < limit or record.quarantined:
            return False
        record.quarantined = f"{record.rejected_in_row} updates refused in a row, at last: {text}"[:300]
        return True

    def quarantine(self, device_id: str, reason: str, wall: float) -> None:
        """Look at nothing of this device until it is released, known or not; raise ``Refused`` when it has no room."""
        known = self.devices.get(device_id)
        record = self.seen(device_id, known.last_seen if known else wall)
        record.quarantined = reason

    def release(self, device_id: str) -> bool:
        """End a device's quarantine; return whether it was in one."""
        record = self.devices.get(device_id)
        if record is None or not record.quarantined:
            return False
        record.quarantined, record.rejected_in_row = "", 0
        self._dirty.add(device_id)
        return True

    @property
    def quarantined(self) -> int:
        """Number of devices in quarantine."""
        return sum(bool(record.quarantined) for record in self.devices.values())

    @property
    def drifting(self) -> int:
        """Number of devices whose data drift, as they say."""
        return sum(record.drifting for record in self.devices.values())

    def received(self, record: DeviceRecord, payload_bytes: int) -> None:
        """Count a message on the device's update topic."""
        record.bytes_received += payload_bytes
        self.counters.received += 1
        self.counters.bytes_received += payload_bytes

    def note_state(self, device_id: str, state: DeviceState, wall: float, *, retained: bool) -> None:
        """Take over what the device says of itself; a retained state tells nothing of when it was said."""
        known = self.devices.get(device_id)
        record = self.seen(device_id, known.last_seen if known and retained else wall)
        self.online_estimate += (state.state not in AWAY) - (record.state not in AWAY)
        record.state = state.state
        record.version = state.version if state.version is not None else record.version
        # A will is said by nobody who could know.
        record.drifting = record.drifting if state.state == "lost" else state.drifting

    def note_metrics(self, device_id: str, metrics: DeviceMetrics, wall: float) -> None:
        """Take over the device's own figures."""
        record = self.seen(device_id, wall)
        record.training_s = metrics.training_s
        record.holdout_accuracy = metrics.holdout_accuracy

    def refresh(self) -> None:
        """Count anew who is there."""
        self.online_estimate = sum(record.state not in AWAY for record in self.devices.values())

    def set_aside(self, updates: int) -> None:
        """Count accepted updates that are in no version, nor will be."""
        self.counters.folded -= updates
        self.counters.set_aside += updates
        self._counters_dirty = True

    def mark_counters(self) -> None:
        """Note that the counters were changed from outside."""
        self._counters_dirty = True

    def take_dirty(self) -> tuple[tuple[DeviceRecord, ...], Counters] | None:
        """Return copies of what the store has not seen, and count it as seen; None when there is nothing."""
        if not self._dirty and not self._counters_dirty:
            return None
        records = tuple(copy.copy(self.devices[d]) for d in sorted(self._dirty))
        self._dirty.clear()
        self._counters_dirty = False
        return records, copy.copy(self.counters)
