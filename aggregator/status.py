"""What the aggregator tells of itself: its state and its figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from aggregator.fleet import Fleet
from aggregator.ledger import Ledger
from aggregator.surveys import Surveys
from protocol.status import AggregatorMetrics, AggregatorState, encode_status
from protocol.topics import Topics

MIN_INTERVAL_S = 0.2
"""Fast versions do not flood the watchers."""

MAX_WHY = 160
"""Characters of a reason for which there is no connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellFigures:
    """What only the shell can measure."""

    store_bytes: int = 0
    rss_bytes: int = 0
    messages_dropped: int = 0
    uptime_s: float = 0.0


class Status:
    """Reads ledger and fleet; changes neither."""

    def __init__(  # noqa: PLR0917 - six parts of one core
        self, instance: str, store: str, topics: Topics, ledger: Ledger, fleet: Fleet, surveys: Surveys, goal: int
    ) -> None:
        self.figures = ShellFigures()
        self.connection = 0
        """How often the process has connected; the core counts."""
        self._instance = instance
        self._store = store
        self._topics = topics
        self._ledger = ledger
        self._fleet = fleet
        self._surveys = surveys
        self._goal = goal
        self._broker_dropped: int | None = None
        self._measured: tuple[float, int] | None = None
        self._updates_per_s = 0.0
        self._told_at = -math.inf

    def will(self) -> bytes:
        """Return the state that stands when this process dies: it cannot know which version was the last."""
        return self._state("offline", None)

    def state(self, status: Literal["online", "offline"]) -> bytes:
        """Return the retained state, encoded."""
        return self._state(status, self._ledger.version.version)

    def _state(self, status: Literal["online", "offline"], version: int | None) -> bytes:
        state = AggregatorState(
            federation=self._topics.federation,
            epoch=self._ledger.epoch,
            instance=self._instance,
            store=self._store,
            status=status,
            version=version,
            connection=self.connection,
        )
        return encode_status(state)

    def line(self, *, connected: bool, why_down: str = "") -> str:
        """Return what there is to say in a line for people: ``version 40, 3 of 8 buffered, 51 of 60 devices there``."""
        fleet, buffered = self._fleet, len(self._ledger.buffer)
        parts = [
            f"version {self._ledger.version.version}",
            f"{buffered} of {self._goal} buffered" if self._goal else f"{buffered} buffered",
            f"{fleet.online_estimate} of {len(fleet.devices)} devices there",
        ]
        if self._ledger.candidate is not None:
            parts.insert(1, f"trying version {self._ledger.candidate.version.version}")
        if fleet.drifting:
            parts.append(f"{fleet.drifting} drifting")
        if fleet.quarantined:
            parts.append(f"{fleet.quarantined} in quarantine")
        lost = f"; no connection to the broker{f' ({why_down[:MAX_WHY]})' if why_down else ''}"
        return ", ".join(parts) + ("" if connected else lost)

    def note_broker_dropped(self, payload: bytes) -> None:
        """Take over the broker's own counter, a decimal number in its $SYS tree."""
        text = payload[:32].decode("ascii", "replace").strip()
        if text.isdecimal():
            self._broker_dropped = int(text)

    def measure_rate(self, now: float) -> None:
        """Take the rate of accepted updates since the last call."""
        accepted = self._fleet.counters.accepted
        if self._measured is not None and now > self._measured[0]:
            self._updates_per_s = (accepted - self._measured[1]) / (now - self._measured[0])
        self._measured = (now, accepted)

    def may_tell(self, now: float) -> bool:
        """Return whether the last figures are old enough for new ones."""
        return now >= self._told_at + MIN_INTERVAL_S

    def told(self, now: float) -> AggregatorMetrics:
        """Return the figures, and note that they are told now."""
        self._told_at = now
        return self.metrics()

    def metrics(self) -> AggregatorMetrics:
        """Return the figures as they stand."""
        counters = self._fleet.counters
        return AggregatorMetrics(
            federation=self._topics.federation,
            version=self._ledger.version.version,
            versions_published=counters.versions_published,
            versions_withheld=counters.versions_withheld,
            versions_withdrawn=counters.versions_withdrawn,
            candidate=self._ledger.candidate.version.version if self._ledger.candidate else None,
            devices_known=len(self._fleet.devices),
            devices_online=self._fleet.online_estimate,
            devices_drifting=self._fleet.drifting,
            devices_quarantined=self._fleet.quarantined,
            updates_received=counters.received,
            updates_accepted=counters.accepted,
            updates_folded=counters.folded,
            updates_buffered=len(self._ledger.buffer),
            updates_set_aside=counters.set_aside,
            updates_clipped=counters.clipped,
            updates_duplicate=counters.duplicate,
            updates_stale=counters.stale,
            updates_rejected=counters.rejected,
            updates_retry=counters.retry,
            reports_accepted=counters.reports_accepted,
            reports_refused=counters.reports_refused,
            surveys_open=len(self._surveys),
            refusals=counters.refusals,
            staleness=counters.staleness,
            updates_per_s=self._updates_per_s,
            bytes_received=counters.bytes_received,
            update_bytes_received=counters.update_bytes,
            accuracy=self._ledger.metrics.get("accuracy"),
            loss=self._ledger.metrics.get("loss"),
            buffer_goal=self._goal or None,
            identity_conflicts=self._fleet.identities.conflicts,
            messages_dropped=self.figures.messages_dropped,
            broker_messages_dropped=self._broker_dropped,
            store_bytes=self.figures.store_bytes,
            rss_bytes=self.figures.rss_bytes,
            uptime_s=self.figures.uptime_s,
        )
