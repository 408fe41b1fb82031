"""Finding out whether another agent has this one's identity, by what stands on this device's own state topic.

Brokers keep one connection for each identity and close the older one, many (Mosquitto 2.0 among them) without a word.
Only when that is suspected does the agent listen to its own state: its own words there, and later another's, are proof.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.errors import ProtocolError
from protocol.retries import Contention
from protocol.status import DeviceState, decode_status

if TYPE_CHECKING:
    from protocol.link import DownKind

OTHER_SPEAKS = "another agent speaks on this device's state topic"
MAX_TAKEOVERS = 5
"""Then the one whose boot id is the greater ends; the other one, left in peace, only after as many again."""
EXIT_TWICE = 78
"""EX_CONFIG: two agents have one identity, and another start would change nothing; systemd is told not to try."""


class Double:
    """Counts what is certain; suspicion alone ends no agent, for a broker that crashes again and again looks alike."""

    def __init__(self, state_topic: str, boot: str, takeover_wait_s: float) -> None:
        self._topic = state_topic
        self._boot = boot
        self._contention = Contention(takeover_wait_s)
        self._suspected = self._told = False
        self._limit = MAX_TAKEOVERS
        self._heard_ourselves = False

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """What to listen to on the next connection."""
        return (self._topic,) if self._suspected else ()

    def lost(self, kind: DownKind, now: float) -> bool:
        """Take in why the connection ended; return whether to give up."""
        self._suspected = self._suspected or kind in {"taken-over", "perhaps-taken-over"}
        self._told = kind == "taken-over"
        return self._told and self._one_too_many(now)

    def hear(self, payload: bytes, now: float) -> bool:
        """Take in a state on our topic; return whether to give up."""
        try:
            state = decode_status(payload, DeviceState)
        except ProtocolError:
            return False
        if state.boot == self._boot:
            self._heard_ourselves = True
            return False
        # Before our own there may be the last words of an earlier start. "lost" counts too: brokers publish the will of
        # the one whom we threw off by coming back. (That of an earlier start may come as late, but once.)
        if not self._heard_ourselves:
            return False
        self._heard_ourselves = False
        self._limit = MAX_TAKEOVERS if self._boot > state.boot else 2 * MAX_TAKEOVERS
        return not self._told and self._one_too_many(now)

    def _one_too_many(self, now: float) -> bool:
        return self._contention.taken_over(now) >= self._limit
