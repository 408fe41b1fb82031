"""One aggregator a federation: who starts asks first, and gives way when somebody answers.

Two stores mean two sessions at the broker, so a mistaken second aggregator never throws the first one off; it hears
the first one's answer and ends. On one store the lock of the state directory comes before all this, so whatever speaks
for our own store is ourselves: an echo, or words of a predecessor that the broker kept for us.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from protocol.status import AggregatorState

Verdict: TypeAlias = Literal["wait", "active", "refuse"]

QUIET_WAIT_S = 0.5
"""Nobody is announced: two that start together still hear each other."""
ANNOUNCED_WAIT_S = 5.0
"""Somebody unknown is announced as online: if alive, it answers within a round trip, or a few on a slow link."""


class Claim:
    """Decides whether this process is the federation's aggregator."""

    def __init__(self, store: str) -> None:
        self._store = store
        self.active = False
        self.deadline: float | None = None

    def asked(self, now: float) -> None:
        """Note that the question was sent, and wait for answers."""
        self.deadline = now + QUIET_WAIT_S

    def heard_state(self, state: AggregatorState, now: float, *, retained: bool) -> Verdict:
        """Take in a state of an aggregator, possibly our own or left over from before."""
        if state.store == self._store or state.status == "offline":
            return "active" if self.active else "wait"
        if retained:  # perhaps it died without a will: only an answer counts, and what is said next asks for one
            if self.active:
                return "active"
            self.deadline = now + ANNOUNCED_WAIT_S
            return "wait"
        # Alive. When both are active (two networks were joined), the smaller name stays: both decide alike.
        return "active" if self.active and self._store < state.store else "refuse"

    def heard_claim(self, store: str) -> Verdict:
        """Take in somebody's question."""
        if store == self._store or self.active:
            return "active" if self.active else "wait"
        return "wait" if self._store < store else "refuse"

    def tick(self, now: float) -> bool:
        """Return whether the wait ended just now, unanswered: this process is the aggregator."""
        if self.active or self.deadline is None or now < self.deadline:
            return False
        self.active, self.deadline = True, None
        return True

    def link_lost(self) -> None:
        """Without a connection no answer can come: ask again on the next, unless we are active already."""
        self.deadline = None
