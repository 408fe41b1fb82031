"""What the aggregator publishes of its own accord: its state, its figures, and the current version."""

from __future__ import annotations

from dataclasses import replace

from aggregator.commanding import Commander
from aggregator.commands import Command, Publish
from aggregator.configuration import AggregatorSettings
from aggregator.keyring import Keyring
from aggregator.ledger import Ledger
from aggregator.manifests import History, manifest_of
from aggregator.presence import Presence
from aggregator.publishing import Announcer, chunk_publishes
from aggregator.status import Status
from aggregator.surveys import Surveys
from models import Model
from protocol.status import encode_status
from protocol.topics import Topics


class Speaker:
    """Says what ledger, surveys and status hold, while there is a connection and nobody else is the aggregator."""

    def __init__(  # noqa: PLR0917 - parts of one core
        self,
        settings: AggregatorSettings,
        model: Model,
        history: History,
        topics: Topics,
        keys: Keyring,
        ledger: Ledger,
        surveys: Surveys,
        status: Status,
        presence: Presence,
        commander: Commander,
    ) -> None:
        self._settings = settings
        self._model = model
        self._history = history
        self._topics = topics
        self._keys = keys
        self._ledger = ledger
        self._surveys = surveys
        self._status = status
        self._presence = presence
        self._commander = commander
        self._announcer = Announcer(topics, ledger.carried)
        self.link_up = False
        self.stopping = False

    @property
    def heard(self) -> bool:
        """Whether there is a connection, and we are the federation's aggregator."""
        return self.link_up and self._presence.active

    @property
    def deadline(self) -> float | None:
        """When an announcement that failed is to be tried again."""
        return self._announcer.deadline

    def link_lost(self) -> None:
        """Forget what was under way."""
        self.link_up = False
        self._announcer.link_lost()

    def published(self, token: str, error: str, now: float) -> list[Command]:
        """Take in the end of a publish."""
        commands = self._announcer.published(token, error, now)
        self._ledger.cleared(self._announcer.take_cleared())
        return commands

    def due(self, now: float) -> list[Command]:
        """Announce again what the broker did not take."""
        return self.announce() if self.deadline is not None and now >= self.deadline else []

    def announce(self) -> list[Command]:
        """Bring the current version to the broker."""
        if not self.heard:
            return []
        version = self._ledger.version
        chunks = chunk_publishes(self._topics, version.blob, version.blob_bytes)
        if version.delta:
            chunks += chunk_publishes(self._topics, version.delta.blob, version.delta_bytes)
        if (candidate := self._ledger.candidate) is not None:
            chunks += chunk_publishes(self._topics, candidate.version.blob, candidate.version.blob_bytes)
        manifest = manifest_of(
            self._settings,
            self._model,
            self._history,
            version,
            self._keys,
            surveys=self._surveys.announced,
            trains=self._ledger.trains,
            findings=self._ledger.findings,
            backbone=self._ledger.carried.ref if self._ledger.carried else None,
            candidate=self._ledger.candidate,
            attempts=self._ledger.attempts,
        )
        return self._announcer.begin(chunks, self._keys.manifest(manifest), self._ledger.expired)

    def announce_anew(self, wall: float) -> list[Command]:
        """Announce the current version under a number of its own, so that nobody can play back what was said before."""
        numbered = self._commander.number(wall)
        self._history = replace(self._history, issued=numbered.issued)
        return [numbered, *self.announce()]

    def state(self) -> list[Command]:
        """Say that we are there, and which version is the current one."""
        if not self.link_up or self.stopping:
            return []
        return [Publish(topic=self._topics.aggregator_state, payload=self._status.state("online"), retain=True)]

    def goodbye(self) -> list[Command]:
        """Say that we go, and nothing after it."""
        self.stopping = True
        if not self.heard:
            return []
        return [Publish(topic=self._topics.aggregator_state, payload=self._status.state("offline"), retain=True)]

    def metrics(self, now: float, *, at_once: bool = False) -> list[Command]:
        """Publish the figures, though not too often."""
        if not (self.heard and (self._status.may_tell(now) or at_once)):
            return []
        payload = encode_status(self._status.told(now))
        return [Publish(topic=self._topics.aggregator_metrics, payload=payload, qos=0, retain=True)]
