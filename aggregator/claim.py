"""One aggregator a federation: who starts asks first, and gives way when somebody answers.

Two stores mean two sessions at the broker, so a mistaken second aggregator never throws the first one off; it hears
the first one's answer and ends. On one store the lock of the state directory comes before all this, so whatever speaks
for our own store is ourselves: an echo, or words of a predecessor that the broker kept for us.

A broker that gives sessions by certificate (as broker_config has it) keeps only one of two aggregators connected, if
both use the same one: they throw each other off, and no question is ever answered. They still read each other's
retained states. One that changes between two connections is of somebody alive.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from protocol.status import AggregatorState

Verdict: TypeAlias = Literal["wait", "active", "refuse"]

QUIET_WAIT_S = 0.5
"""Nobody is announced: two that start together still hear each other."""
ANNOUNCED_WAIT_S = 5.0
"""Somebody unknown is announced as online: if alive, it answers within a round trip, or a few on a slow link. Or it
comes back and throws us off, which takes it less than a second."""
MAX_LOST = 5
"""So often in a row the connection may be lost while we wait for somebody announced: that is being thrown off."""


class Claim:
    """Decides whether this process is the federation's aggregator."""

    def __init__(self, store: str) -> None:
        self._store = store
        self.active = False
        self.deadline: float | None = None
        self._announced: AggregatorState | None = None
        """Whom we waited for on an earlier connection, or wait for on this one."""
        self._lost = 0

    def asked(self, now: float) -> None:
        """Note that the question was sent, and wait for answers."""
        self.deadline = now + QUIET_WAIT_S

    def heard_state(self, state: AggregatorState, now: float, *, retained: bool) -> Verdict:
        """Take in a state of an aggregator, possibly our own or left over from before."""
        if state.store == self._store:
            return "active" if self.active else "wait"
        if retained:
            return self._found(state, now)
        if state.status == "offline":
            return "active" if self.active else "wait"
        # Alive. When both are active (two networks were joined), the smaller name stays: both decide alike.
        return "active" if self.active and self._store < state.store else "refuse"

    def _found(self, state: AggregatorState, now: float) -> Verdict:
        """Take in what somebody else left at the broker."""
        before, self._announced = self._announced, state
        came_back = before is not None and before.store == state.store and _moment(before) != _moment(state)
        if self.active:  # what is said next asks for an answer
            return "refuse" if came_back and self._store > state.store else "active"
        if came_back or self._lost >= MAX_LOST:
            return "refuse"
        # Perhaps it died without a will: only an answer counts. Or its will was published because our own connection
        # threw it off: then it comes back.
        self.deadline = now + ANNOUNCED_WAIT_S
        return "wait"

    def heard_claim(self, store: str) -> Verdict:
        """Take in somebody's question."""
        if store == self._store or self.active:
            return "active" if self.active else "wait"
        return "wait" if self._store < store else "refuse"

    def tick(self, now: float) -> bool:
        """Return whether the wait ended just now, unanswered: this process is the aggregator."""
        if self.active or self.deadline is None or now < self.deadline:
            return False
        self.active, self.deadline, self._announced, self._lost = True, None, None, 0
        return True

    def link_lost(self) -> None:
        """Without a connection no answer can come: ask again on the next, unless we are active already."""
        if self.deadline is not None and self._announced is not None:
            self._lost += 1
        self.deadline = None


def _moment(state: AggregatorState) -> tuple[str, int]:
    return state.instance, state.connection
