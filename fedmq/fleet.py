"""What a monitor knows of a federation, from its state and metrics topics alone. Pure: times are arguments."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

from protocol.status import AggregatorMetrics, AggregatorState, DeviceMetrics, DeviceState

AnyStatus: TypeAlias = AggregatorState | AggregatorMetrics | DeviceState | DeviceMetrics

MAX_DEVICES = 10_000
"""Newcomers beyond are only counted: anybody who may publish could otherwise fill a monitor's memory."""
RATE_WINDOW_S = 10.0
"""Over which updates/s are measured: between two metrics of an aggregator there may be none, or ten."""
MAX_HISTORY = 500
"""Points of the accuracy's history; far more than any terminal has columns."""

_PARTS = re.compile(r"[0-9]+|[^0-9]+")

OFFLINE = frozenset({"stopped", "lost"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """One device, as a table shows it; ``None`` where it has not told us."""

    device_id: str
    state: str | None
    reason: str
    version: int | None
    behind: int | None
    """Versions between the one that the device holds and the aggregator's."""
    seen_s: float | None
    """Seconds since its last live message; ``None`` when all we have is what the broker retained."""
    accepted: int | None
    refused: int | None
    """Stale, rejected, or given up by the device itself."""
    waiting: int | None
    """Updates in its outbox."""
    update_bytes: int | None
    sent_bytes: int | None
    training_s: float | None
    examples: int | None
    accuracy: float | None
    """On its own held-out data after its last training."""
    accuracy_global: float | None
    """Of the version as it came, on the same data, where a device also has parameters of its own ..."""
    accuracy_personal: float | None
    """... of the model that it predicts with ..."""
    accuracy_local: float | None
    """... and of one that it has learned alone."""
    loss: float | None
    """On the same data; all there is where nothing is classified."""
    sealed: bool
    """It has trained, and tells on how many examples, and how well, to nobody but its aggregator."""
    reconnects: int | None
    rss_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSummary:
    """The federation in one line."""

    federation: str
    online: bool | None
    """Whether the aggregator is there; ``None`` when it has never been heard of."""
    version: int | None
    metrics: AggregatorMetrics | None
    history: tuple[tuple[int, float], ...]
    """(version, accuracy), versions ascending."""
    losses: tuple[tuple[int, float], ...]
    """(version, loss) as well."""
    updates_per_s: float | None
    """Accepted, over the last ``RATE_WINDOW_S`` seconds; ``None`` until that can be told."""
    states: dict[str, int]
    """Devices by state."""
    devices: int
    unlisted: int
    """Devices beyond ``MAX_DEVICES``, at least."""

    @property
    def accuracy(self) -> float | None:
        """The newest accuracy that was reported."""
        return self.history[-1][1] if self.history else None

    @property
    def connected(self) -> int:
        """Devices that are neither stopped nor lost nor asleep."""
        return sum(count for state, count in self.states.items() if state not in OFFLINE and state != "sleeping")


@dataclass(slots=True)
class _Device:
    state: DeviceState | None = None
    metrics: DeviceMetrics | None = None
    seen_at: float | None = None


@dataclass(slots=True)
class FleetView:
    """Takes in statuses as they come and gives rows."""

    federation: str
    max_devices: int = MAX_DEVICES
    _aggregator: AggregatorState | None = None
    _metrics: AggregatorMetrics | None = None
    _devices: dict[str, _Device] = field(default_factory=dict)
    _unlisted: int = 0
    _counts: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=MAX_HISTORY))
    _history: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=MAX_HISTORY))
    _losses: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=MAX_HISTORY))

    def observe(self, status: AnyStatus, now: float, *, device_id: str = "", retained: bool = False) -> None:
        """Take in a status that arrived at ``now`` (seconds, any clock); ``device_id`` is the one of the topic.

        A retained message tells a state, but not that anybody is there.
        """
        match status:
            case AggregatorState():
                self._note_aggregator(status)
            case AggregatorMetrics():
                self._metrics = status
                _note(self._history, status.version, status.accuracy)
                _note(self._losses, status.version, status.loss)
                self._note_count(status.updates_accepted, now)
            case DeviceState() | DeviceMetrics():
                self._note_device(status, device_id, None if retained else now)

    def summary(self) -> FleetSummary:
        """Return the federation in one line."""
        return FleetSummary(
            federation=self.federation,
            online=None if self._aggregator is None else self._aggregator.status == "online",
            version=self._version(),
            metrics=self._metrics,
            history=tuple(self._history),
            losses=tuple(self._losses),
            updates_per_s=self._rate(),
            states=self._states(),
            devices=len(self._devices),
            unlisted=self._unlisted,
        )

    def rows(self, now: float) -> list[DeviceRow]:
        """Return the devices in the order of their names, ``watch-2`` before ``watch-10``."""
        return [self._row(name, self._devices[name], now) for name in sorted(self._devices, key=_natural)]

    def _note_aggregator(self, state: AggregatorState) -> None:
        if self._aggregator is not None and self._aggregator.epoch != state.epoch:
            # Another history: its versions cannot be compared with those that we have seen.
            self._history.clear()
            self._losses.clear()
            self._counts.clear()
            self._metrics = None
        self._aggregator = state

    def _note_count(self, accepted: int, now: float) -> None:
        self._counts.append((now, accepted))
        # One measurement from before the window stays: rare metrics give a rate as well.
        while len(self._counts) > 2 and self._counts[1][0] <= now - RATE_WINDOW_S:  # noqa: PLR2004 - a rate takes two
            self._counts.popleft()

    def _rate(self) -> float | None:
        if len(self._counts) < 2 or self._counts[-1][0] <= self._counts[0][0]:  # noqa: PLR2004 - a rate takes two
            return None
        (since, before), (until, after) = self._counts[0], self._counts[-1]
        return max(0, after - before) / (until - since)

    def _note_device(self, status: DeviceState | DeviceMetrics, device_id: str, seen_at: float | None) -> None:
        device = self._devices.get(device_id)
        if device is None:
            if len(self._devices) >= self.max_devices:
                self._unlisted += isinstance(status, DeviceState)
                return
            device = self._devices[device_id] = _Device()
        if isinstance(status, DeviceState):
            device.state = status
        else:
            device.metrics = status
        # "lost" is its will: the broker speaks, not the device.
        if seen_at is not None and not (isinstance(status, DeviceState) and status.state == "lost"):
            device.seen_at = seen_at

    def _version(self) -> int | None:
        known = [status.version for status in (self._aggregator, self._metrics) if status is not None]
        return max((version for version in known if version is not None), default=None)

    def _states(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for device in self._devices.values():
            name = device.state.state if device.state is not None else "unknown"
            counts[name] = counts.get(name, 0) + 1
        return counts

    def _row(self, name: str, device: _Device, now: float) -> DeviceRow:
        state, metrics = device.state, device.metrics
        held = _newest(state.version if state else None, metrics.version if metrics else None)
        version = self._version()
        return DeviceRow(
            device_id=name,
            state=state.state if state else None,
            reason=state.reason if state else "",
            version=held,
            behind=None if held is None or version is None else max(0, version - held),
            seen_s=None if device.seen_at is None else max(0.0, now - device.seen_at),
            accepted=metrics.updates_accepted + metrics.updates_duplicate if metrics else None,
            refused=metrics.updates_stale + metrics.updates_rejected + metrics.updates_dropped if metrics else None,
            waiting=metrics.outbox_updates if metrics else None,
            update_bytes=(metrics.update_bytes or None) if metrics else None,
            sent_bytes=metrics.bytes_sent if metrics else None,
            training_s=metrics.training_s if metrics and metrics.trainings else None,
            examples=(metrics.num_examples or None) if metrics and metrics.trainings else None,
            accuracy=metrics.holdout_accuracy if metrics else None,
            accuracy_global=metrics.holdout_accuracy_global if metrics else None,
            accuracy_personal=metrics.holdout_accuracy_personal if metrics else None,
            accuracy_local=metrics.holdout_accuracy_local if metrics else None,
            loss=metrics.holdout_loss if metrics else None,
            sealed=metrics is not None and metrics.trainings > 0 and not metrics.num_examples,
            reconnects=metrics.reconnects if metrics else None,
            rss_bytes=metrics.rss_bytes if metrics else None,
        )


def _note(history: deque[tuple[int, float]], version: int, value: float | None) -> None:
    if value is None:
        return
    while history and history[-1][0] >= version:
        history.pop()  # the same version once more, or a rollback
    history.append((version, value))


def _newest(*versions: int | None) -> int | None:
    return max((version for version in versions if version is not None), default=None)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return the parts of the name, numbers by their value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _PARTS.findall(name)]
