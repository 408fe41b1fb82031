"""The aggregator as a process: link, timers, operators and signals fill the inbox; one worker empties it.

Each batch of events is decided on by the core, stored in one transaction, and only then acknowledged and answered.
While one is on its way to the disk the next may be decided, never answered.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from aggregator.adapters.carrying import Hands, Unacknowledged
from aggregator.adapters.clocks import date_of_epoch
from aggregator.adapters.committing import Committer, UnderWay
from aggregator.adapters.control import Control
from aggregator.adapters.disk_waits import DiskWaits
from aggregator.adapters.errors import StoreDamaged, StoreError
from aggregator.adapters.exporter import TfliteExporter
from aggregator.adapters.inbox import Inbox, hollow
from aggregator.adapters.opening import open_store
from aggregator.adapters.preparing import Prepared
from aggregator.adapters.registry import open_registry
from aggregator.adapters.snapshot import SnapshotKeeper
from aggregator.adapters.store import Store
from aggregator.adapters.timers import Timers
from aggregator.adapters.trainables import keep_file
from aggregator.commands import Acknowledge, Command, Exit, Reply, StoreCommand
from aggregator.core import AggregatorCore, ShellFigures
from aggregator.events import (
    Event,
    MetricsDue,
    OperatorEvent,
    ScheduleDue,
    StatusRequested,
    StopRequested,
    StoreFailed,
    Tick,
)
from aggregator.presence import TAKEOVER_WAIT_S
from aggregator.records import Restored
from protocol.adapters.mqtt import MqttLink
from protocol.adapters.notify import Supervised
from protocol.adapters.process import rss_bytes
from protocol.adapters.system_clock import SystemClock
from protocol.link import LinkDown, LinkUp, Received

log = logging.getLogger(__name__)

WORTH_A_HAND_OVER = 16
"""So many events must wait for a commit to be left to the other thread: deciding on them takes as long as it does."""

LINK_STOP_S = 1.5


def serve(prepared: Prepared) -> int:
    """Run the aggregator until it is told to stop; return the exit code.

    Raise ``StoreInUse``, ``StoreRefused``, ``StoreError`` when there is no store to work on.
    """
    clock = SystemClock(prepared.state_dir, wait_s=prepared.settings.clock.wait_s)
    founding = replace(prepared.founding, date=partial(date_of_epoch, clock))
    store = open_store(prepared.state_dir, founding, prepared.settings.registry)
    try:
        keep_file(prepared.state_dir, prepared.learner)
        return Service(prepared, store, clock).run()
    finally:
        store.close()


class Service:
    """Wires the core to the world. ``run`` in one thread, ``stop`` from any."""

    def __init__(self, prepared: Prepared, store: Store, clock: SystemClock | None = None) -> None:
        settings = prepared.settings
        self._prepared = prepared
        self._store = store
        self._clock = clock or SystemClock(prepared.state_dir, wait_s=settings.clock.wait_s)
        self._inbox = Inbox(settings.admission.max_waiting_messages)
        self._begun = time.monotonic()
        self._stop_asked = threading.Event()
        self._link_up: LinkUp | None = None
        self._why_down = ""
        self._unacknowledged: Unacknowledged = {}
        self._disk_waits = DiskWaits()
        self._committer = Committer(store)
        self._under_way: UnderWay | None = None
        restored = store.restore()
        self._instance = restored.instances[-1]
        self._core = self._core_from(restored)
        federation = settings.aggregator.federation
        self._snapshots = SnapshotKeeper(prepared.state_dir, federation, prepared.model, restored, prepared.meaning)
        self._snapshots.note(restored.version, restored.shelf)
        self._exporter = TfliteExporter(
            settings.registry, prepared.model, federation, restored.epoch, prepared.state_dir
        )
        self._exporter.note(restored.version)
        self._timers = Timers(
            interval_s=settings.schedule.interval_s,
            cron=settings.schedule.cron,
            metrics_s=settings.metrics.interval_s,
            now=self._begun,
            wall=time.time(),
        )
        self._link = MqttLink(
            settings.broker,
            # A name of its own for each store: two stores never throw each other off the broker.
            f"fedmq-{federation}-aggregator-{restored.store_id}",
            self._inbox.deliver,
            will=self._core.will,
            clean_session=False,
            manual_ack=True,
            takeover_wait_s=min(TAKEOVER_WAIT_S, settings.broker.takeover_wait_s),
            clock=self._clock,
        )
        self._supervised = Supervised(self._line, self._link.pulse.beats)
        log.info(
            f"federation {federation}: version {restored.version.version}, {len(restored.journal)} updates buffered"
        )

    def stop(self) -> None:
        """Ask it to end, from any thread or signal handler."""
        self._stop_asked.set()
        self._inbox.put(StopRequested())

    def run(self) -> int:
        """Work until the core says that it is over; return the exit code."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda _number, _frame: self.stop())
        control = Control(self._prepared.state_dir, self._inbox.put, self._kept_parameters)
        self._hands = Hands(
            link=self._link,
            inbox=self._inbox,
            control=control,
            snapshots=self._snapshots,
            exporter=self._exporter,
            unacknowledged=self._unacknowledged,
            log=log,
        )
        try:
            self._link.start()
            while (done := self._hands.exit) is None:
                self._turn()
        finally:
            self._supervised.stopping(time.monotonic())
            self._committer.close()
            self._link.stop(LINK_STOP_S)
            control.close()
            self._snapshots.write()
            self._exporter.close()
            self._supervised.close()
        level = logging.ERROR if done.code else logging.INFO
        log.log(level, f"ending: {done.reason}")
        return done.code

    # -- one turn -------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._core.load = self._inbox.fill
        events = self._inbox.take(0.0 if self._under_way else self._wait_s())
        now, wall = time.monotonic(), time.time()
        events += self._timers.due(now, wall)
        deadline = self._core.deadline()
        if deadline is not None and now >= deadline:
            events.append(Tick())
        if events or self._under_way:
            self._follow_link(events)
            self._process(events, now, wall)
        self._snapshots.write_if_due(now)
        self._tell_how_it_is(events)

    def _tell_how_it_is(self, events: Sequence[Event]) -> None:
        now = time.monotonic()
        if self._stop_asked.is_set():
            self._supervised.stopping(now)
        # The first attempt failed: that is being started, too. The link goes on trying.
        settled = any(isinstance(event, LinkUp | LinkDown) for event in events)
        self._supervised.turn(now, news=bool(events), settled=settled)

    def _line(self) -> str:
        return self._core.status.line(connected=self._link_up is not None, why_down=self._why_down)

    def _wait_s(self) -> float:
        now = time.monotonic()
        deadline = self._core.deadline()
        waits = [self._timers.wait_s(now, time.time()), self._snapshots.wait_s(now), self._supervised.next_at() - now]
        if deadline is not None:
            waits.append(deadline - now)
        return max(0.0, min(waits))

    def _follow_link(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Received(mid=mid, connection=connection) if mid:
                    self._unacknowledged[connection, mid] = event
                case LinkUp():
                    self._link_up = event
                    # A certificate that is valid now vouches for the date, about.
                    self._clock.witness(vouched=self._prepared.settings.broker.tls is not None)
                case LinkDown(reason=reason):
                    self._link_up = None
                    self._why_down = reason
                    self._unacknowledged.clear()  # the broker delivers them again

    def _process(self, events: Sequence[Event], now: float, wall: float) -> None:
        """Decide on a batch, store it and carry it out, but with the batch before it first in each of these.

        With much waiting behind it, its commit is left under way and the next batch decided meanwhile. That one is
        decided on what this one leads to: should the commit fail, both are thrown away.
        """
        try:
            commands = self._decide(events, now, wall)
            self._settle()
            if self._stored(events, commands):
                self._hands.carry_out(commands)
        except StoreDamaged:
            raise  # the next start sets the store aside
        except StoreError as exc:
            before, self._under_way = self._under_way, None
            self._store_failed(str(exc), [*(before.events if before else ()), *events])

    def _settle(self) -> None:
        """Wait for the batch before and carry it out; raise ``StoreError`` (it is still under way then)."""
        if self._under_way is not None:
            self._under_way.wait()
            commands, self._under_way = self._under_way.commands, None
            self._store_works()
            self._hands.carry_out(commands)

    def _stored(self, events: Sequence[Event], commands: Sequence[Command]) -> bool:
        """Store a batch; return False when that is under way."""
        stores = [command for command in commands if isinstance(command, StoreCommand)]
        if not stores:
            return True
        self._store.begin(stores)
        # Nothing is decided behind the end; and a hand-over would only delay what nobody waits behind.
        last = any(isinstance(command, Exit) for command in commands)
        if self._inbox.waiting >= WORTH_A_HAND_OVER and not last:
            self._under_way = self._committer.commit(events, commands)
            return False
        self._store.commit()
        self._store_works()
        return True

    def _store_works(self) -> None:
        if tally := self._disk_waits.works(time.monotonic()):
            log.info(f"storing again{tally}")

    def _decide(self, events: Sequence[Event], now: float, wall: float) -> list[Command]:
        if any(isinstance(event, (MetricsDue, StatusRequested)) for event in events):
            self._clock.witness()
            self._core.figures = self._figures(now)
        commands: list[Command] = []
        for event in events:
            if isinstance(event, Received) and not event.topic and self._core.active:
                commands.append(Acknowledge(event))
                continue
            try:
                commands += self._core.handle(event, now, wall)
            except Exception:
                log.exception(f"a fault while handling {_named(event)}")
                return self._decide_without(event, events, now, wall)
        return commands + self._core.checkpoint()

    def _decide_without(self, culprit: Event, events: Sequence[Event], now: float, wall: float) -> list[Command]:
        """Decide again, without what the event says; for use within an ``except`` block.

        Nothing that a device sends should lead here. If something does, it must not do so again and again: the broker
        would deliver it after every restart. Faults that no message can have caused end the process.
        """
        self._settle()  # a new core is made of what the store holds
        there = {id(event) for event in events}
        held = [received for received in self._unacknowledged.values() if id(received) not in there]
        # The tick that ends the claim hands out what was held back until then.
        if not (isinstance(culprit, Received) or (isinstance(culprit, Tick) and held)):
            raise  # noqa: PLE0704 - the fault that led here
        again = self._rebuild(now, wall)
        rest: list[Event] = [*held]
        for event in events:
            if event is not culprit:
                rest.append(event)
            elif isinstance(event, Received):
                rest.append(hollow(event))
        self._follow_link([event for event in rest if isinstance(event, Received)])
        return [*again, *self._decide(rest, now, wall)]

    # -- when the store fails ---------------------------------------------------------------------------------------

    def _store_failed(self, reason: str, events: Sequence[Event]) -> None:
        now, wall = time.monotonic(), time.time()
        self._disk_waits.failed(now)
        commands = self._rebuild(now, wall)
        lost = tuple(self._unacknowledged.values())
        commands += self._core.handle(StoreFailed(reason=reason, lost=lost), now, wall)
        for event in events:
            if isinstance(event, StatusRequested | StopRequested):
                commands += self._core.handle(event, now, wall)  # nothing of theirs has to be stored
            elif isinstance(event, OperatorEvent):
                commands.append(Reply(request_id=event.request_id, error=f"cannot store: {reason}"))
            elif isinstance(event, ScheduleDue):
                self._inbox.put(event)
            # Of the rest: the new core knows the link; figures will be due again.
        self._hands.carry_out(commands)
        if self._hands.exit is None:
            self._stop_asked.wait(self._disk_waits.next_s())

    def _rebuild(self, now: float, wall: float) -> list[Command]:
        """Go on with a new core that knows what the store holds, and the link as it is."""
        active = self._core.active
        self._core = self._core_from(self._store.restore())
        if active:
            self._core.resume_active()
        return self._core.handle(self._link_up, now, wall) if self._link_up else []

    def _core_from(self, restored: Restored) -> AggregatorCore:
        made = self._prepared
        return AggregatorCore(
            made.settings,
            made.model,
            restored,
            self._instance,
            made.evaluate,
            keys=made.keys,
            carried=made.carried,
        )

    # -- what others ask for ------------------------------------------------------------------------------------------

    def _kept_parameters(self, version: int) -> bytes:
        with open_registry(self._prepared.state_dir) as registry:
            return registry.parameters(version)

    def _figures(self, now: float) -> ShellFigures:
        return ShellFigures(
            store_bytes=self._store.size_bytes(),
            rss_bytes=rss_bytes(),
            messages_dropped=self._link.counters.dropped + self._inbox.dropped,
            uptime_s=now - self._begun,
        )


def _named(event: Event) -> str:
    return f"a message on {event.topic!r}" if isinstance(event, Received) else type(event).__name__
