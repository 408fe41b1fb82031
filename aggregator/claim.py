"""One aggregator a federation: who starts asks first, and gives way when somebody answers.

Two stores mean two sessions at the broker, so a mistaken second aggregator never throws the first one off; it hears
the first one's answer and ends. On one store the lock of the state directory comes before all this, and the store
remembers the instances that ran on it: their words are our own, an echo or what the broker kept for us.

Two aggregators may share a session all the same: on a broker that gives sessions by certificate (as broker_config has
it) when both use the same one, and on any broker when a store was copied. They throw each other off, and no question is
ever answered. They still read each other's retained states. One that changes between two connections is of somebody
alive. An instance that our store does not know may also have run on it after the backup that it was restored from:
what it left behind does not change.

A session that outlived its store (somebody deleted the state directory, and the certificate stayed) may still hold
words of that time, and the broker sends them as if they were said now. Answers they are not: our question comes back to
us first, for we listen to it, too, and the broker keeps the order.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias

from protocol.status import AggregatorClaim, AggregatorState

Verdict: TypeAlias = Literal["wait", "active", "refuse"]

QUIET_WAIT_S = 0.5
"""Nobody is announced: two that start together still hear each other."""
ANNOUNCED_WAIT_S = 5.0
"""Somebody unknown is announced as online: if alive, it answers within a round trip, or a few on a slow link. Or it
comes back and throws us off, which takes it less than a second."""
MAX_LOST = 5
"""So often in a row the connection may be lost while we wait for somebody announced: that is being thrown off."""


class Claim:
    """Decides whether this process, ``instance``, is the federation's aggregator."""

    def __init__(self, store: str, instance: str, before: Collection[str] = ()) -> None:
        self._store = store
        self._instance = instance
        self._own = {instance, *before}
        self.active = False
        self.deadline: float | None = None
        self._announced: AggregatorState | None = None
        """Whom we waited for on an earlier connection, or wait for on this one."""
        self._lost = 0
        self._leftovers = False
        """What comes may be older than our question."""

    def asked(self, now: float, *, session_present: bool) -> None:
        """Note that the question was sent, and wait for answers."""
        self.deadline = now + QUIET_WAIT_S
        self._leftovers = session_present

    def heard_state(self, state: AggregatorState, now: float, *, retained: bool) -> Verdict:
        """Take in a state of an aggregator, possibly our own or left over from before."""
        if self.is_ours(state):
            return "active" if self.active else "wait"
        if retained:
            return self._found(state, now)
        if state.status == "offline":
            return "active" if self.active else "wait"
        if state.store == self._store:  # whoever shares our session is not there while we are
            return self._found(state, now)
        if self._leftovers and not self.active:
            return self._left_over(now)
        # Alive. When both are active (two networks were joined), the smaller name stays: both decide alike.
        return "active" if self.active and self._smaller(state) else "refuse"

    def is_ours(self, said: AggregatorState | AggregatorClaim) -> bool:
        """Return whether this process said it, or one before it on this store."""
        return said.store == self._store and said.instance in self._own

    def _found(self, state: AggregatorState, now: float) -> Verdict:
        """Take in what somebody else left at the broker."""
        before, self._announced = self._announced, state
        came_back = before is not None and before.store == state.store and _moment(before) != _moment(state)
        if self.active:  # what is said next asks for an answer
            return "refuse" if came_back and not self._smaller(state) else "active"
        if came_back or self._lost >= MAX_LOST:
            return "refuse"
        # Perhaps it died without a will: only an answer counts. Or its will was published because our own connection
        # threw it off: then it comes back.
        self.deadline = now + ANNOUNCED_WAIT_S
        return "wait"

    def _left_over(self, now: float) -> Verdict:
        """Take in what may have waited for us in the session: whoever said it answers us within that time, if alive."""
        self.deadline = now + ANNOUNCED_WAIT_S
        return "wait"

    def heard_claim(self, claim: AggregatorClaim, now: float) -> Verdict:
        """Take in somebody's question, or our own."""
        if claim.instance == self._instance and claim.store == self._store:
            self._leftovers = False
        if self.active:
            return "active"
        if self._leftovers and claim.store != self._store:
            return self._left_over(now)
        return "wait" if claim.store == self._store or self._smaller(claim) else "refuse"

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

    def _smaller(self, other: AggregatorState | AggregatorClaim) -> bool:
        return (self._store, self._instance) < (other.store, other.instance)


def _moment(state: AggregatorState) -> tuple[str, int]:
    return state.instance, state.connection
