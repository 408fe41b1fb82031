"""The pieces that the core's sides share; each is owned by one thread, the worker's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from device_agent.announcing import Announcer
from device_agent.fetching import Fetcher
from device_agent.frozen import Frozen
from device_agent.ledger import Ledger
from device_agent.reporting import Reporter
from device_agent.training import Desk
from device_agent.trust import Trust
from device_agent.warden import Warden
from protocol.topics import Topics

if TYPE_CHECKING:
    import random

    from device_agent.records import RestoredState
    from device_agent.settings import AgentSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One device's books, desk, fetcher, reporter, announcer and warden."""

    settings: AgentSettings
    incarnation: str
    topics: Topics
    ledger: Ledger
    trust: Trust
    desk: Desk
    fetch: Fetcher
    frozen: Frozen
    fetch_candidate: Fetcher
    report: Reporter
    announce: Announcer
    warden: Warden
    rng: random.Random

    @property
    def device_id(self) -> str:
        """The device's id, its topic segment."""
        return self.settings.device.id

    @property
    def fetching(self) -> bool:
        """Whether something is to be fetched that is not here yet: a version, a candidate, a backbone."""
        return any(each.target is not None for each in (self.fetch, self.fetch_candidate)) or self.frozen.fetching

    @property
    def receiving(self) -> bool:
        """Whether some of it may come any moment."""
        fetchers = (self.fetch, self.fetch_candidate)
        frozen = self.frozen.fetching and not self.frozen.stalled
        return frozen or any(each.target is not None and not each.stalled for each in fetchers)

    @property
    def bad_chunks(self) -> str:
        """What is wrong with what the broker sends of a model or a candidate; empty: nothing."""
        return self.fetch.reason or self.fetch_candidate.reason

    @property
    def next_name(self) -> tuple[str, int]:
        """Incarnation and sequence of the update that will be made next."""
        return self.incarnation, self.ledger.state.next_sequence


def parts_for(
    settings: AgentSettings, restored: RestoredState, rng: random.Random, pins: tuple[bytes, ...] = ()
) -> Parts:
    """Return the pieces of a device that starts with what its disk held, and pins these keys."""
    device, outbox = settings.device, settings.outbox
    topics = Topics(device.federation)
    ledger = Ledger(restored.durable)
    trust = Trust(ledger, device.federation, device.id, pins)
    return Parts(
        settings=settings,
        incarnation=restored.incarnation,
        topics=topics,
        ledger=ledger,
        trust=trust,
        # A model from before keys were pinned was believed without a reason.
        desk=Desk(
            device.id,
            None if trust.knows_nothing else restored.model,
            rng,
            candidate=None if trust.knows_nothing else restored.candidate,
        ),
        fetch=Fetcher(topics, rng, first_wait_s=outbox.receipt_timeout_s, max_wait_s=outbox.resend_max_s),
        frozen=Frozen(topics, settings, rng),
        fetch_candidate=Fetcher(topics, rng, first_wait_s=outbox.receipt_timeout_s, max_wait_s=outbox.resend_max_s),
        report=Reporter(
            outbox,
            (device.federation, device.id, restored.incarnation),
            topics.update(device.id),
            restored.outbox,
            rng,
        ),
        announce=Announcer(
            topics.device_state(device.id), topics.device_metrics(device.id), settings.metrics.interval_s
        ),
        warden=Warden(settings.policy),
        rng=rng,
    )
