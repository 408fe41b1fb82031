"""State and metrics, for people: often enough to follow, rarely enough not to be a load of their own."""

from __future__ import annotations

from device_agent.commands import Command, Publish, PublishMetrics
from protocol.status import DeviceMetrics, DeviceState, encode_status

STATE_GAP_S = 0.25
"""A fleet with a small model passes through all states in milliseconds; only the last one of such a burst is told."""

METRICS_GAP_S = 1.0


class Announcer:
    """Decides when state and metrics are published; only while connected."""

    def __init__(self, state_topic: str, metrics_topic: str, interval_s: float) -> None:
        self._state_topic = state_topic
        self._metrics_topic = metrics_topic
        self._interval_s = interval_s
        self._gap_s = min(METRICS_GAP_S, interval_s)
        self._published: DeviceState | None = None
        self._state_free_at: float | None = None
        self._state_pending = False
        self._metrics_at: float | None = None
        self._metrics_free_at: float | None = None

    def link_up(self, now: float) -> None:
        """Tell everything: the broker may have forgotten, or have published our will."""
        self._published = None
        self._state_free_at = None
        self._metrics_at = now

    def link_down(self) -> None:
        """Tell nothing until the next connection."""
        self._metrics_at = None
        self._state_pending = False

    def news(self, now: float) -> None:
        """Publish metrics soon: something worth telling happened."""
        if self._metrics_at is not None:
            free_at = now if self._metrics_free_at is None else max(now, self._metrics_free_at)
            self._metrics_at = min(self._metrics_at, free_at)

    def state(self, state: DeviceState, now: float) -> list[Command]:
        """Publish the state if it is another one and the gap has passed."""
        self._state_pending = False
        if state == self._published:
            return []
        if self._state_free_at is not None and now < self._state_free_at:
            self._state_pending = True
            return []
        return self.state_at_once(state, now)

    def state_at_once(self, state: DeviceState, now: float) -> list[Command]:
        """Publish the state, retained."""
        self._published = state
        self._state_free_at = now + STATE_GAP_S
        return [Publish(topic=self._state_topic, payload=encode_status(state), retain=True)]

    def metrics_due(self, now: float) -> bool:
        """Return whether metrics are to be published now."""
        return self._metrics_at is not None and now >= self._metrics_at

    def metrics(self, metrics: DeviceMetrics, now: float) -> list[Command]:
        """Publish the metrics."""
        self._metrics_at = now + self._interval_s
        self._metrics_free_at = now + self._gap_s
        return [PublishMetrics(topic=self._metrics_topic, metrics=metrics)]

    @property
    def deadlines(self) -> list[float]:
        """When there will be something to publish."""
        due = [self._state_free_at] if self._state_pending and self._state_free_at is not None else []
        return due if self._metrics_at is None else [*due, self._metrics_at]
