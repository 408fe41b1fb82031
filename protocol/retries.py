"""How a link goes on after each loss: how long it waits, and what it suspects when it happens again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.backoff import Backoff

if TYPE_CHECKING:
    import random

    from protocol.link import BrokerSettings, DownKind

POISONED_AFTER = 3
"""So many resumed sessions in a row, cut at once (iotcore stumbles over what it kept): begin a session anew."""
AT_ONCE_S = 2.0

SUSPICIOUS_AFTER = 5
"""So many connections in a row that the broker took and soon closed without a word, before it is called takeover."""
TAKEOVER_DOUBLINGS = 4
"""Waits after takeovers: by default up to a minute at first, 16 in the end."""


class Retries:
    """Waits between attempts, by what happened before. Clock-free: times are of any monotonic clock, in seconds.

    Losing the identity to another client has waits of its own: whoever comes back at once throws the other one off, who
    does the same, for ever.
    """

    def __init__(self, settings: BrokerSettings, takeover_wait_s: float, rng: random.Random) -> None:
        self._backoff = Backoff(settings.reconnect_min_s, settings.reconnect_max_s, rng)
        self._takeover = Backoff(takeover_wait_s, 2.0**TAKEOVER_DOUBLINGS * takeover_wait_s, rng)
        self._quiet_s = peace_s(takeover_wait_s)
        self._up_since: float | None = None
        self._taken_at: float | None = None
        self._resumed = False
        self._cut_at_once = 0
        self._soon_closed = 0
        self._taken = False
        self.settled = False
        """Whether the connection that was lost last had been a lasting one."""

    @property
    def poisoned(self) -> bool:
        """Whether the session that the broker keeps for us is what breaks the connections."""
        return self._cut_at_once >= POISONED_AFTER

    def came_up(self, now: float, *, resumed: bool) -> None:
        """Note that the broker accepted the connection."""
        self._up_since = now
        self._resumed = resumed

    def lost(self, kind: DownKind, now: float, *, silently: bool) -> DownKind:
        """Note the end of a connection or attempt; return its kind, which may be graver than it seemed.

        ``silently``: the broker closed it in good order without giving a reason. MQTT 3.1.1 has no words for one, and
        Mosquitto 2.0 has none for a takeover.
        """
        up_since, self._up_since = self._up_since, None
        self.settled = up_since is not None and self._backoff.lasted(now - up_since)
        if up_since is not None:
            at_once = self._resumed and now < up_since + AT_ONCE_S
            self._cut_at_once = self._cut_at_once + 1 if at_once else 0
        # An attempt that failed says that the broker itself was away: no takeover.
        self._soon_closed = self._soon_closed + 1 if silently and up_since is not None and not self.settled else 0
        peace = self._taken_at is None or now - self._taken_at >= self._quiet_s
        # The other one waits too: from the first suspicion on, connections that last a while are no proof of innocence.
        if kind == "lost" and (self._soon_closed >= SUSPICIOUS_AFTER or (silently and not peace)):
            kind = "perhaps-taken-over"
        self._taken = kind in {"taken-over", "perhaps-taken-over"}
        if self._taken:
            if peace:
                self._takeover.reset()
            self._taken_at = now
        return kind

    def wait_s(self) -> float:
        """Return the wait before the next attempt."""
        return self._takeover.next_s() if self._taken else self._backoff.next_s()


def peace_s(takeover_wait_s: float) -> float:
    """Return how long after a takeover the next one is a new story: an hour by default, well above all waits."""
    return 60.0 * takeover_wait_s


class Contention:
    """Counts takeovers, so that of two clients with one identity one gives up."""

    def __init__(self, takeover_wait_s: float) -> None:
        self._peace_s = peace_s(takeover_wait_s)
        self._last_at: float | None = None
        self._count = 0

    def taken_over(self, now: float) -> int:
        """Note a takeover; return how many there were since there was peace."""
        if self._last_at is not None and now - self._last_at >= self._peace_s:
            self._count = 0
        self._last_at = now
        self._count += 1
        return self._count
