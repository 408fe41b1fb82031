"""Speaking with other aggregators of the federation, if any, and holding messages back until it is clear who we are."""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from aggregator.claim import Claim
from aggregator.commands import Command, Exit, Publish, Subscribe
from protocol.errors import ProtocolError
from protocol.link import Received
from protocol.retries import Contention
from protocol.status import AggregatorClaim, AggregatorState, decode_status, encode_status
from protocol.topics import Topics

EXIT_NOT_ALONE = 3

TAKEOVER_WAIT_S = 1.0
"""The first wait after somebody took our identity: well below ``ANNOUNCED_WAIT_S``, in which we have to be back."""
MAX_TAKEOVERS = 20
"""With waits that grow to 16 s that is minutes: a tool that somebody tries with our certificate ends no service."""
_LOOK = "look for a second aggregator, or a tool that was given this one's certificate, and stop it"

MAX_HELD = 20_000
"""Messages kept while it is not yet clear that we are alone: more than any broker keeps in flight."""


class Presence:
    """Whether this process is the federation's aggregator, by what it hears on the topics of state and claim."""

    def __init__(self, topics: Topics, instance: str, store: str, before: Collection[str] = ()) -> None:
        self._topics = topics
        self._instance = instance
        self._store = store
        self._claim = Claim(store, instance, before)
        self._contention = Contention(TAKEOVER_WAIT_S)
        self._held: list[Received] = []

    @property
    def active(self) -> bool:
        """Whether it is clear that we are the one."""
        return self._claim.active

    @property
    def deadline(self) -> float | None:
        """When silence will be the answer."""
        return self._claim.deadline

    def resume(self) -> None:
        """Go on in the place of one that had asked and was alone."""
        self._claim.active = True

    def concerns(self, topic: str) -> bool:
        """Return whether aggregators speak with each other on this topic."""
        return topic in (self._topics.aggregator_state, self._topics.aggregator_claim)

    def linked(self, now: float, *, session_present: bool) -> list[Command]:
        """Return what to say on a new connection: listen first, for the answer comes on the state topic."""
        listen = Subscribe((self._topics.aggregator_state, self._topics.aggregator_claim))
        if self.active:
            return [listen]
        self._claim.asked(now, session_present=session_present)
        claim = encode_status(AggregatorClaim(instance=self._instance, store=self._store))
        return [listen, Publish(topic=self._topics.aggregator_claim, payload=claim)]

    def link_lost(self) -> None:
        """Forget what waits: the broker delivers it again."""
        self._claim.link_lost()
        self._held.clear()

    def taken_over(self, now: float) -> list[Command]:
        """Return what to do now that somebody came to the broker with our identity, and threw us off."""
        if not self.active:
            # Whoever was there before us came back. Two that start together: the second one stays.
            return [Exit(code=EXIT_NOT_ALONE, reason=f"another program uses our identity at the broker; {_LOOK}")]
        # Another aggregator finds that out by our retained state, and so do we by its own. This is for other programs.
        if self._contention.taken_over(now) >= MAX_TAKEOVERS:
            reason = f"another program came {MAX_TAKEOVERS} times with our identity at the broker; {_LOOK}"
            return [Exit(code=EXIT_NOT_ALONE, reason=reason)]
        return []

    def tick(self, now: float) -> bool:
        """Return whether it has just become clear that we are alone."""
        return self._claim.tick(now)

    def hold(self, received: Received) -> None:
        """Keep a message until it is clear who we are.

        MQTT wants acknowledgements in the order of the messages (4.6.0-2), and some brokers insist on it: while one is
        held back, all later ones are. What cannot be held whole becomes hollow; its device sends it again.
        """
        whole = not self.concerns(received.topic) and len(self._held) < MAX_HELD
        self._held.append(received if whole else replace(received, topic="", payload=b""))

    def release(self) -> list[Received]:
        """Return what was held back, in its order; hollow messages only wait to be acknowledged."""
        held, self._held = self._held, []
        return held

    def hear(self, received: Received, now: float) -> tuple[bool, list[Command]]:
        """Take in a message that ``concerns`` us; return whether our state has to be said again, and what to do."""
        try:
            if received.topic == self._topics.aggregator_state:
                return self._hear_state(received, now)
            return self._hear_claim(received, now)
        except ProtocolError:
            return False, []  # cleared, or not ours

    def _hear_state(self, received: Received, now: float) -> tuple[bool, list[Command]]:
        state = decode_status(received.payload, AggregatorState)
        verdict = self._claim.heard_state(state, now, retained=received.retain)
        if verdict == "refuse":
            return False, self._give_way(state.instance)
        # Nobody's will or goodbye must stand for us, not even that of an earlier connection of our own.
        stands = self._claim.is_ours(state) and state.status == "online"
        return verdict == "active" and not stands, []

    def _hear_claim(self, received: Received, now: float) -> tuple[bool, list[Command]]:
        claim = decode_status(received.payload, AggregatorClaim)
        verdict = self._claim.heard_claim(claim, now)
        if verdict == "refuse":
            return False, self._give_way(claim.instance)
        return verdict == "active" and not self._claim.is_ours(claim), []

    def _give_way(self, other: str) -> list[Command]:
        reason = (
            f"another aggregator (instance {other}) already serves federation {self._topics.federation!r} on this "
            "broker; stop it first, or give this one another federation"
        )
        return [Exit(code=EXIT_NOT_ALONE, reason=reason)]
