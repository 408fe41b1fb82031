"""The aggregator's core: events in, commands out. It opens nothing, waits for nothing, and asks no clock.

``now`` is a monotonic time in seconds, for deadlines; ``wall`` is seconds since 1970, only written down for people.
"""

from __future__ import annotations

import math
from functools import lru_cache

from aggregator.admission import Refused
from aggregator.asking import Asking
from aggregator.canary import Canary
from aggregator.commanding import Commander
from aggregator.commands import Acknowledge, Command, Exit, Log, SaveFleet, Subscribe
from aggregator.configuration import AggregatorSettings
from aggregator.events import Event, MetricsDue, OperatorEvent, ScheduleDue, StopRequested, StoreFailed, Tick
from aggregator.fleet import Fleet
from aggregator.frozen import Carried
from aggregator.intake import Intake
from aggregator.keyring import NO_KEYS, Keyring
from aggregator.ledger import Ledger
from aggregator.manifests import History
from aggregator.operators import Operators
from aggregator.pace import Pace
from aggregator.presence import Presence
from aggregator.recording import first_version
from aggregator.records import Restored
from aggregator.releasing import Releases
from aggregator.reports import note
from aggregator.speaking import Speaker
from aggregator.standstill import Standstill
from aggregator.status import ShellFigures, Status
from aggregator.stepping import Evaluator
from aggregator.surveys import Surveys
from models import Model
from protocol.errors import ProtocolError
from protocol.link import LinkDown, LinkEvent, LinkUp, Published, Received, Subscribed, Will
from protocol.topics import Topics

__all__ = ["AggregatorCore", "ShellFigures", "first_version"]

STORE_RETRY_S = 5.0

MAX_ORIGINS = 16_384
"""So many topics are known by heart: to take one apart costs more than all other book-keeping of its message."""


class AggregatorCore:
    """One federation's aggregator. All its state can be restored from what its store commands said."""

    def __init__(
        self,
        settings: AggregatorSettings,
        model: Model,
        restored: Restored,
        instance: str,
        evaluate: Evaluator,
        *,
        keys: Keyring = NO_KEYS,
        carried: Carried | None = None,
    ) -> None:
        self._settings = settings
        self.instance = instance
        self.topics = Topics(settings.aggregator.federation)
        self._origin_of = lru_cache(MAX_ORIGINS)(self.topics.parse_device_topic)
        self.ledger = Ledger(settings, model, restored, evaluate, keys=keys, carried=carried)
        self._surveys = Surveys(model, restored.surveys, settings.admission.max_examples)
        self._asking = Asking(settings, model, self._surveys, self.ledger, keys)
        self.fleet = Fleet(restored.devices, restored.counters, settings.admission.max_devices)
        pace = Pace(settings.pace.updates_per_s)
        self._intake = Intake(settings, self.topics, self.ledger, self._surveys, self.fleet, pace)
        self._presence = Presence(self.topics, instance, restored.store_id, restored.instances)
        self.status = Status(
            instance, restored.store_id, self.topics, self.ledger, self.fleet, self._surveys, settings.schedule.goal
        )
        commander = Commander(self.topics, keys, restored.issued)
        self._speaker = Speaker(
            settings,
            model,
            History(epoch=restored.epoch, generation=restored.generation, issued=restored.issued),
            self.topics,
            keys,
            self.ledger,
            self._surveys,
            self.status,
            self._presence,
            commander,
        )
        self._canary = Canary(settings.canary, model.task, self.ledger, self._surveys, self.fleet)
        standstill = Standstill(settings, self.ledger, self.fleet)
        self._releases = Releases(self.ledger, self._asking, self._canary, self.fleet, pace, self._speaker, standstill)
        self._operators = Operators(self.status, self._releases, self._asking, commander, self.fleet, self._speaker)

    @property
    def will(self) -> Will:
        """What the broker says when this process dies."""
        return Will(topic=self.topics.aggregator_state, payload=self.status.will())

    @property
    def figures(self) -> ShellFigures:
        """What only the shell can measure; it sets them before ``MetricsDue``."""
        return self.status.figures

    @figures.setter
    def figures(self, figures: ShellFigures) -> None:
        self.status.figures = figures

    @property
    def active(self) -> bool:
        """Whether this process knows that it is the federation's aggregator."""
        return self._presence.active

    @property
    def load(self) -> float:
        """Fill of the shell's inbox, 0 to 1; set by the shell."""
        return self._intake.load

    @load.setter
    def load(self, fill: float) -> None:
        self._intake.load = fill

    def resume_active(self) -> None:
        """Go on in the place of a core of this same process that had asked and was alone."""
        self._presence.resume()

    def deadline(self) -> float | None:
        """Return when a ``Tick`` is wanted, in the time of ``now``."""
        if self._may_begin_to_ask:
            return -math.inf
        tried_until = self._canary.deadline if self._presence.active else None
        deadlines = (self._presence.deadline, self._speaker.deadline, self._asking.deadline, tried_until)
        return min((d for d in deadlines if d is not None), default=None)

    @property
    def _may_begin_to_ask(self) -> bool:
        # At a tick, not with the connection: that may be told to a core whose commands are not stored.
        return self._speaker.heard and not self._speaker.stopping and self._asking.wants_to_begin

    def checkpoint(self) -> list[Command]:
        """Return what has to be stored besides, at the end of a batch."""
        dirty = self.fleet.take_dirty()
        return [SaveFleet(devices=dirty[0], counters=dirty[1])] if dirty else []

    def handle(self, event: Event, now: float, wall: float) -> list[Command]:  # noqa: PLR0911 - a table of events
        """Take in one event and return what the shell has to do about it, in this order."""
        if isinstance(event, LinkEvent):
            return self._handle_link(event, now, wall)
        if isinstance(event, OperatorEvent):
            return self._operators.handle(event, now, wall)
        match event:
            case Tick():
                return self._tick(now, wall)
            case ScheduleDue():
                return self._releases.scheduled(now, wall)
            case MetricsDue():
                return self._metrics_due(now, wall)
            case StopRequested():
                return self._stop()
            case StoreFailed():
                return self._store_failed(event)

    def _handle_link(self, event: LinkEvent, now: float, wall: float) -> list[Command]:
        match event:
            case Received():
                return self._received(event, now, wall)
            case Published():
                return self._speaker.published(event.token, event.error, now)
            case LinkUp():
                return self._linked(event, now)
            case LinkDown():
                return self._unlinked(event, now)
            case Subscribed():
                return [Log("error", "the broker refuses a topic", {"topic": topic}) for topic in event.refused]

    # -- messages -----------------------------------------------------------------------------------------------

    def _received(self, received: Received, now: float, wall: float) -> list[Command]:
        commands: list[Command] = []
        if self._presence.concerns(received.topic):
            say_state, commands = self._presence.hear(received, now)
            if say_state:
                commands = [*commands, *self._speaker.state()]
        elif self._presence.active:
            commands = self._device_message(received, now, wall)
        if self._presence.active:
            return [*commands, Acknowledge(received)]
        self._presence.hold(received)
        return commands

    def _release(self, now: float, wall: float) -> list[Command]:
        commands: list[Command] = []
        for received in self._presence.release():
            if received.topic:
                commands += self._device_message(received, now, wall)
            commands.append(Acknowledge(received))
        return commands

    def _device_message(self, received: Received, now: float, wall: float) -> list[Command]:
        if received.topic and received.topic == self._settings.metrics.broker_dropped_topic:
            self.status.note_broker_dropped(received.payload)
            return []
        try:
            origin = self._origin_of(received.topic)
            if origin.kind == "update":
                commands = self._intake.receive(origin.device_id, received, now, wall)
                return [*commands, *self._releases.due(now, wall)]
            return note(self.fleet, origin, received, wall)
        except ProtocolError as exc:
            return self._dropped(Refused("rejected", "malformed", str(exc)))
        except Refused as exc:
            return self._dropped(exc)

    def _dropped(self, refused: Refused) -> list[Command]:
        self.fleet.refused(None, refused.status, refused.code)
        return [Log("warning", f"dropped a message: {refused}")]

    # -- the link, and being alone --------------------------------------------------------------------------------

    def _linked(self, event: LinkUp, now: float) -> list[Command]:
        self._speaker.link_up = True
        self.status.connection += 1
        commands = self._presence.linked(now, session_present=event.session_present)
        return [*commands, *self._take_part(now)] if self._presence.active else commands

    def _unlinked(self, event: LinkDown, now: float) -> list[Command]:
        self._speaker.link_lost()
        self._presence.link_lost()
        # The link itself tells the log.
        return self._presence.taken_over(now) if event.kind == "taken-over" else []

    def _take_part(self, now: float) -> list[Command]:
        topics = [self.topics.all_updates, self.topics.all_device_states, self.topics.all_device_metrics]
        if self._settings.metrics.broker_dropped_topic:
            topics.append(self._settings.metrics.broker_dropped_topic)
        self._asking.wait(now)
        self._canary.wait(now)
        return [Subscribe(tuple(topics)), *self._speaker.state(), *self._speaker.announce()]

    def _tick(self, now: float, wall: float) -> list[Command]:
        commands: list[Command] = []
        if self._presence.tick(now):
            commands += [*self._take_part(now), *self._release(now, wall)]
        commands += self._speaker.due(now)
        if self._may_begin_to_ask:
            commands += self._releases.begin_to_ask(wall)
        self._asking.tick(now)
        return [*commands, *self._releases.due(now, wall)] if self._presence.active else commands

    def _metrics_due(self, now: float, wall: float) -> list[Command]:
        self._intake.expire(now)
        self.fleet.refresh()
        self.status.measure_rate(now)
        decided = self._releases.wait_in_vain(now, wall) if self._presence.active else []
        return [*decided, *self._speaker.metrics(now, at_once=True)]

    def _store_failed(self, event: StoreFailed) -> list[Command]:
        text = "cannot store; devices are asked to keep updates"
        commands: list[Command] = [Log("error", text, {"reason": event.reason})]
        for lost in event.lost:
            if not isinstance(lost, Received):
                continue
            try:
                origin = self._origin_of(lost.topic)
                if origin.kind == "update":
                    text = f"the aggregator cannot store it: {event.reason}"
                    commands += self._intake.put_off(origin.device_id, lost, text, STORE_RETRY_S)
            except ProtocolError:
                pass  # not a device's topic: nobody waits for a receipt
            commands.append(Acknowledge(lost))
        return commands

    def _stop(self) -> list[Command]:
        return [*self._speaker.goodbye(), Exit(code=0, reason="asked to stop")]
