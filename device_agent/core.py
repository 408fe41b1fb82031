"""The agent's decisions: events in, commands out. No clock, no thread, no file, no socket, no NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from device_agent import commands as do
from device_agent import events as ev
from device_agent.composing import device_metrics, line_of
from device_agent.double import EXIT_TWICE, OTHER_SPEAKS, Double
from device_agent.downstream import Downstream
from device_agent.faults import Faults
from device_agent.gate import Chunk, Gate, Message
from device_agent.lifecycle import LINK, PHASE, Link, LinkStep, Phase, PhaseStep, Work, advance, work_name
from device_agent.looking import Look
from device_agent.orders import Orders
from device_agent.parts import parts_for
from device_agent.records import RestoredState
from device_agent.senses import Senses
from device_agent.trying import Trial
from device_agent.upstream import Upstream
from device_agent.working import Working
from protocol.errors import ProtocolError
from protocol.link import LinkDown, LinkUp, Published, Received, Subscribed, Will
from protocol.messages import DeviceCommand, Manifest, Receipt
from protocol.status import DeviceMetrics, DeviceState, encode_status

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from device_agent.commands import Command
    from device_agent.events import Event
    from device_agent.settings import AgentSettings

STOP_S = 0.4
"""A training that does not come to a step's end in this time is left behind: the process must go, within a second."""


class DeviceCore:
    """One device's state and decisions.

    ``handle`` takes one event and the time (seconds of any monotonic clock) and returns what to do, in order;
    ``deadline`` says when the next ``Tick`` is due. Restart = a new core from what the store and the cache hold.
    """

    def __init__(
        self,
        settings: AgentSettings,
        restored: RestoredState,
        *,
        boot: str,
        rng: random.Random,
        pins: tuple[bytes, ...] = (),
    ) -> None:
        """Start with what the disk held; ``pins`` are the raw public keys that manifests must be signed by, if any."""
        self._settings = settings
        self._boot = boot
        self._parts = parts_for(settings, restored, rng, pins)
        self._gate = Gate(self._parts.topics, settings.device.id, self._parts.trust)
        self._up = Upstream(self._parts)
        self._down = Downstream(self._parts, self._up)
        self._trial = Trial(self._parts)
        self._working = Working(self._parts, self._up, self._down, self._trial)
        self._link = Link.CLOSED
        self._why_down = ""
        self._phase = Phase.AWAKE
        self._started_at = 0.0
        self._awake_until: float | None = None
        self._wake_at: float | None = None
        self._stop_at: float | None = None
        self._stop_reason, self._exit_code = "", 0
        self._double = Double(self.will.topic, boot, settings.broker.takeover_wait_s)
        self._look = Look(settings.data.watch_s)
        self._sent = self._received = self._connections = 0
        self._faults = Faults(self._parts)
        self._senses = Senses()
        self._orders = Orders(self._parts, self._up, self._down)
        self._handlers: dict[type[Any], Callable[[Any, float], list[Command]]] = {
            ev.Started: self._on_started,
            ev.Tick: lambda _event, _now: [],
            ev.StopRequested: self._on_stop,
            ev.Persisted: lambda event, _now: self._up.persisted(event),
            ev.PersistFailed: self._up.persist_failed,
            ev.UpdateLoaded: self._up.loaded,
            ev.ModelCached: lambda event, _now: self._down.cached(event),
            ev.CacheFailed: self._down.cache_failed,
            ev.PatchFailed: self._down.patch_failed,
            ev.BackboneFound: self._parts.frozen.found,
            ev.CandidateCached: lambda event, _now: self._trial.cached(event),
            ev.CandidateFailed: self._trial.failed,
            ev.CandidateLost: self._down.candidate_lost,
            ev.TrainingDone: self._working.training_done,
            ev.EvaluationDone: self._working.evaluation_done,
            ev.SurveyAnswered: self._working.survey_answered,
            ev.TaskStopped: self._working.stopped,
            ev.TrainingResumed: self._working.resumed,
            ev.TrainingNoted: self._working.noted,
            ev.DriftTold: self._working.drift,
            ev.TaskFailed: lambda event, now: self._working.failed(event, now, linked=self._linked),
            ev.DataChanged: self._working.data_changed,
            ev.ReadingsTaken: self._working.readings,
            ev.SensorsTold: self._on_sensors,
            LinkUp: self._on_link_up,
            LinkDown: self._on_link_down,
            Received: self._on_received,
            Published: lambda event, now: self._parts.report.published(event.token, event.error, now),
            Subscribed: self._on_subscribed,
        }

    @property
    def will(self) -> Will:
        """What the broker is to publish when the connection dies without a goodbye."""
        state = DeviceState(device_id=self._settings.device.id, state="lost", boot=self._boot)
        return Will(topic=self._parts.topics.device_state(self._settings.device.id), payload=encode_status(state))

    @property
    def _linked(self) -> bool:
        return self._link is Link.UP

    @property
    def stopped(self) -> bool:
        """Whether the core has said ``Exit``."""
        return self._phase is Phase.STOPPED

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event and return what the shell has to do about it, in this order."""
        if self._phase is Phase.STOPPED:
            return []
        commands = self._handlers[type(event)](event, now)
        commands += self._advance(now)
        self._sent += sum(len(command.payload) for command in commands if isinstance(command, do.Publish))
        return commands

    def deadline(self, now: float) -> float | None:
        """Return when the core wants a ``Tick`` (at ``now`` or before: at once); None = not before another event."""
        if self._phase is Phase.STOPPED:
            return None
        if self._phase is Phase.STOPPING:
            return self._stop_at
        if self._phase is Phase.ASLEEP:
            return self._wake_at
        parts = self._parts
        found = [parts.ledger.deadline, self._look.deadline, self._working.deadline(linked=self._linked)]
        if self._linked:
            found += [
                parts.fetch.deadline,
                parts.frozen.deadline,
                self._down.reread_at,
                self._trial.deadline,
                parts.report.deadline,
                *parts.announce.deadlines,
            ]
            if self._awake_until is not None and now < self._awake_until:
                found.append(self._awake_until)
        return min((moment for moment in found if moment is not None), default=None)

    # What happened outside

    def _on_started(self, _event: ev.Started, now: float) -> list[Command]:
        self._started_at = now
        self._look.begin(now)
        self._parts.desk.expect_news(now)
        self._up.started(now)
        held = self._parts.desk.held
        there = self._parts.frozen.follow(held, now) if held is not None else []
        return [*self._parts.trust.begin(), *there, *self._connect()]

    def _on_stop(self, event: ev.StopRequested, now: float) -> list[Command]:
        self._phase = advance(PHASE, self._phase, PhaseStep.STOP)
        self._stop_reason = event.reason
        if self._stop_at is None:
            self._stop_at = now + STOP_S
        return self._parts.desk.come_to_an_end()

    def _on_link_up(self, _event: LinkUp, now: float) -> list[Command]:
        self._link = advance(LINK, self._link, LinkStep.CONNECTED)
        if not self._linked:
            return []
        self._connections += 1
        if self._settings.sleep.awake_s > 0:
            self._awake_until = now + self._settings.sleep.awake_s
        self._down.link_up(now)
        self._trial.link_up(now)
        self._parts.report.link_up()
        self._parts.announce.link_up(now)
        return [do.Subscribe(topics=(*self._gate.subscriptions(), *self._double.subscriptions))]

    def _on_link_down(self, event: LinkDown, now: float) -> list[Command]:
        self._link = advance(LINK, self._link, LinkStep.LOST)
        self._why_down = event.reason
        self._disconnected()
        return self._give_up(event.reason, now) if self._double.lost(event.kind, now) else []

    def _give_up(self, reason: str, now: float) -> list[Command]:
        self._exit_code = EXIT_TWICE
        told = do.Log(level="error", message="giving up: another agent has this identity", fields={"reason": reason})
        return [told, *self._on_stop(ev.StopRequested(reason=reason), now)]

    def _on_subscribed(self, event: Subscribed, _now: float) -> list[Command]:
        if not event.refused:
            return []
        return self._faults.note("subscription refused", f"the broker refused {', '.join(event.refused)}")

    def _on_sensors(self, event: ev.SensorsTold, now: float) -> list[Command]:
        self._parts.announce.news(now)
        return self._senses.told(event)

    def _on_received(self, event: Received, now: float) -> list[Command]:
        self._received += len(event.payload)
        if self._phase is not Phase.AWAKE:
            return []
        if event.topic == self.will.topic:
            return self._give_up(OTHER_SPEAKS, now) if self._double.hear(event.payload, now) else []
        try:
            return self._on_message(self._gate.read(event), now, retained=event.retain)
        except ProtocolError as exc:
            return self._faults.of_message(event.topic, exc, now)

    def _on_message(self, message: Message | None, now: float, *, retained: bool) -> list[Command]:
        match message:
            case Manifest():
                noted = self._parts.trust.believe(message)
                followed = self._down.manifest(message, now, retained=retained)
                return [*noted, *followed, *self._trial.announced(now)]
            case Receipt():
                return [*self._up.receipt(message, now), *self._down.hint(message, now)]
            case DeviceCommand():
                return self._orders.obey(message, now)
            case Chunk():
                return [*self._trial.chunk(message, now), *self._down.chunk(message, now)]
        return []

    # What time brings

    def _advance(self, now: float) -> list[Command]:
        if self._phase is Phase.STOPPING:
            return self._advance_stop(now)
        if self._phase is Phase.ASLEEP:
            return self._wake(now)
        parts = self._parts
        commands: list[Command] = [*parts.ledger.due(now), *self._look.due(now)]
        if self._linked:
            commands += [*self._down.due(now), *parts.frozen.due(now)]
        commands += self._trial.due(now, linked=self._linked)
        commands += self._working.due(now, linked=self._linked)
        commands += parts.report.due(now)
        if not self._linked:
            return commands
        if self._sleepy(now):
            return commands + self._fall_asleep(now)
        if not self._working.asking:
            # Otherwise the next event says what the state is.
            commands += parts.announce.state(self._state(), now)
        if parts.announce.metrics_due(now):
            commands += parts.announce.metrics(self._metrics(now), now)
        return commands

    def _advance_stop(self, now: float) -> list[Command]:
        desk = self._parts.desk
        if desk.work is not Work.IDLE and self._stop_at is not None and now < self._stop_at:
            return []
        if self._up.writing:  # what came at the last moment: the answer is the next event
            return []
        if desk.work is not Work.IDLE and desk.interrupted:
            self._parts.ledger.count("trainings_interrupted")
        self._phase = advance(PHASE, self._phase, PhaseStep.END)
        commands: list[Command] = [self._parts.ledger.save()]
        if self._linked:
            commands += self._parts.announce.state_at_once(self._state(self._stop_reason), now)
        if self._link is not Link.CLOSED:
            commands.append(do.Disconnect())
        return [*commands, do.Exit(code=self._exit_code)]

    def _sleepy(self, now: float) -> bool:
        if self._awake_until is None or now < self._awake_until:
            return False
        parts = self._parts
        reporting = parts.report.busy or self._up.writing
        working = parts.desk.work is not Work.IDLE or self._working.asking
        return not working and not parts.receiving and not reporting and parts.desk.settled

    def _fall_asleep(self, now: float) -> list[Command]:
        self._phase = advance(PHASE, self._phase, PhaseStep.FALL_ASLEEP)
        self._link = advance(LINK, self._link, LinkStep.CLOSED)
        commands = self._parts.announce.state_at_once(self._state(), now)
        self._disconnected()
        self._awake_until = None
        self._wake_at = now + self._settings.sleep.asleep_s
        return [*commands, do.Disconnect()]

    def _wake(self, now: float) -> list[Command]:
        if self._wake_at is None or now < self._wake_at:
            return []
        self._wake_at = None
        self._phase = advance(PHASE, self._phase, PhaseStep.WAKE)
        self._parts.desk.expect_news(now)
        return self._connect()

    def _connect(self) -> list[Command]:
        self._link = advance(LINK, self._link, LinkStep.OPENED)
        return [do.Connect()]

    def _disconnected(self) -> None:
        self._down.link_down()
        self._trial.link_down()
        self._parts.report.link_down()
        self._parts.announce.link_down()
        self._awake_until = None

    # What is told

    def _state(self, reason: str = "") -> DeviceState:
        parts = self._parts
        reporting = self._up.writing or bool(parts.report.entries)
        name = work_name(self._phase, parts.desk.work, fetching=parts.fetching, reporting=reporting)
        paused = "paused by command" if parts.ledger.state.paused else ""
        why = reason or parts.trust.reason or parts.desk.reason or self._up.reason or parts.frozen.reason
        why = why or self._working.reason or self._down.reason or parts.bad_chunks or paused
        why = why or parts.ledger.state.trouble
        drift = "its data drift" if parts.ledger.state.drift.drifting else ""
        why = "; ".join(text for text in (why, self._senses.reason, drift) if text)
        held = parts.desk.held
        return DeviceState(
            device_id=parts.device_id,
            state=name,
            boot=self._boot,
            version=held.version if held else None,
            reason=why[:512],
            drifting=parts.ledger.state.drift.drifting,
        )

    def line(self) -> str:
        """Return what the device is about, in a line for people."""
        return line_of(self._state(), len(self._parts.report.entries), self._link, self._why_down)

    def _metrics(self, now: float) -> DeviceMetrics:
        parts = self._parts
        held = parts.desk.held
        return device_metrics(
            parts.ledger.state,
            device_id=parts.device_id,
            version=held.version if held else None,
            outbox=(len(parts.report.entries), parts.report.total_bytes),
            traffic=(self._sent, self._received, max(0, self._connections - 1)),
            uptime_s=now - self._started_at,
            waits=dict(parts.warden.waits),
            private=held.sealing is not None if held else parts.trust.pinned,
        )
