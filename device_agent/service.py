"""The agent's process: one inbox, one worker, and the core's commands carried out in order."""

from __future__ import annotations

import logging
import math
import queue
import random
import secrets
import signal
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from device_agent import commands as do
from device_agent import events as ev
from device_agent.adapters.readings import Sensors
from device_agent.adapters.shelf import Shelf
from device_agent.adapters.store import Store, StoreWriteError
from device_agent.adapters.trainer import FileWatch, Trainer
from device_agent.core import DeviceCore
from device_agent.records import RestoredState
from device_agent.troubles import Troubles
from protocol.adapters.mqtt import MqttLink
from protocol.adapters.notify import Supervised
from protocol.adapters.process import rss_bytes
from protocol.adapters.system_clock import SystemClock
from protocol.link import LinkDown, LinkUp, Published, Received
from protocol.loglines import with_fields
from protocol.status import encode_status
from protocol.supervision import all_alive

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from device_agent.sensing.adapters.foreteller import Foreteller
    from device_agent.sensing.adapters.station import Station
    from device_agent.settings import AgentSettings
    from protocol.link import LinkEvent

log = logging.getLogger("fedmq.agent")

MAX_INBOX = 1000
"""Messages: a device listens to five topics and four chunks, so more than this is a flood."""

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


TASKS = {do.Train: "training", do.Evaluate: "evaluating", do.Answer: "answering a survey"}


def news_for_predictions(event: ev.Event) -> bool:
    """Return whether what predictions are made by may be something else now."""
    return isinstance(event, ev.ModelCached | ev.TrainingDone) or (
        isinstance(event, ev.BackboneFound) and event.complete
    )


class Service:
    """Owns store, cache, trainer and link, and runs the core until it says ``Exit``."""

    def __init__(self, settings: AgentSettings, pins: tuple[bytes, ...] = ()) -> None:
        """Open the store and read the cache; raise ``StoreError`` when that cannot be."""
        self._settings = settings
        self._pins = pins
        state_dir = Path(settings.device.state_dir)
        self._store = Store(state_dir, settings.device.id, settings.device.federation)
        self._shelf = Shelf(state_dir)
        # A SimpleQueue may be put to from a signal handler, whatever the interrupted thread was doing.
        self._inbox: queue.SimpleQueue[ev.Event] = queue.SimpleQueue()
        self._trainer = Trainer(settings, self._inbox.put)
        self._clock = SystemClock(state_dir, wait_s=settings.clock.wait_s)
        self._foreteller = self._opened_foreteller()
        self._station = self._opened_station()
        self._watch = FileWatch(settings.data.path) if settings.data.path else None
        self._sensors = Sensors(settings, self._clock, self._station)
        self._link: MqttLink | None = None
        self._exit_code: int | None = None
        self._troubles = Troubles()
        self._core = self._restored_core()
        self._supervised = Supervised(self._core.line, self._all_alive)
        self._actions: dict[type[Any], Callable[[Any], ev.Event | None]] = {
            **self._shelf.actions,
            do.Connect: self._connect,
            do.Disconnect: self._disconnect,
            do.Subscribe: self._subscribe,
            do.Unsubscribe: self._unsubscribe,
            do.Publish: self._publish,
            do.PublishMetrics: self._publish_metrics,
            do.Persist: self._persist,
            do.LoadUpdate: self._load_update,
            do.KeepAnnouncement: self._keep_announcement,
            do.Train: self._start_task,
            do.Evaluate: self._start_task,
            do.Answer: self._start_task,
            do.StopTask: self._stop_task,
            do.DropCheckpoint: lambda _command: self._trainer.drop_checkpoint(),
            do.DropPersonal: lambda _command: self._trainer.drop_personal(),
            do.CheckData: self._check_data,
            do.TakeReadings: self._take_readings,
            do.Log: self._log,
            do.Exit: self._exit,
        }

    def run(self) -> int:
        """Work until asked to stop; return the exit code. Call it in the main thread: it takes the signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            for part in (self._foreteller, self._station):
                if part is not None:
                    part.start()
            self._take(ev.Started())
            while self._exit_code is None:
                event = self._next_event()
                news = self._take(event)
                self._tell_how_it_is(event, news=news)
            log.info("stopped")
            return self._exit_code
        finally:
            self.close()

    def close(self) -> None:
        """Let go of everything."""
        self._supervised.stopping(time.monotonic())
        if self._link is not None:
            self._link.stop(0.5)
            self._link = None
        self._trainer.close(0.05)
        for part in (self._station, self._foreteller):
            if part is not None:
                part.close()
        self._store.close()
        self._supervised.close()

    def deliver(self, event: LinkEvent) -> bool:
        """Take in a link's event, in the link's thread; return False for a message that finds the inbox full."""
        if isinstance(event, Received) and self._inbox.qsize() >= MAX_INBOX:
            return False
        self._inbox.put(event)
        return True

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._inbox.put(ev.StopRequested(reason=f"stopped by {signal.Signals(number).name}"))

    def _next_event(self) -> ev.Event:
        now = time.monotonic()
        wanted = self._core.deadline(now)
        deadline = min(math.inf if wanted is None else wanted, self._supervised.next_at())
        try:
            if deadline == math.inf:
                return self._inbox.get()
            return self._inbox.get(timeout=max(0.0, deadline - now))
        except queue.Empty:
            return ev.Tick()

    def _tell_how_it_is(self, event: ev.Event, *, news: bool) -> None:
        now = time.monotonic()
        if isinstance(event, LinkUp):
            # A certificate that is valid now vouches for the date, about.
            self._clock.witness(vouched=self._settings.broker.tls is not None)
        if isinstance(event, ev.StopRequested):
            self._supervised.stopping(now)
        # The first attempt failed: that is being started, too. What there is to do can be done offline.
        self._supervised.turn(now, news=news, settled=isinstance(event, LinkUp | LinkDown))

    def _all_alive(self) -> bool:
        return all_alive(
            link_answers=self._link is None or self._link.pulse.beats(),
            trainer_alive=self._trainer.alive,
            step_s=self._trainer.step_s(time.monotonic()),
            max_step_s=self._settings.training.max_step_s,
            sensing_alive=self._sensing_alive(),
        )

    def _sensing_alive(self) -> bool:
        foretelling = self._foreteller is None or self._foreteller.alive
        return foretelling and (self._station is None or self._station.alive())

    def _take(self, event: ev.Event) -> bool:
        """Handle the event, and at once the answers of commands that have one; return whether anything changed."""
        news = not isinstance(event, ev.Tick)
        waiting: deque[ev.Event] = deque([event])
        while waiting:
            event = waiting.popleft()
            commands = self._core.handle(event, time.monotonic())
            # With a training, the scale of this device's inputs may have become another one.
            if self._foreteller is not None and news_for_predictions(event):
                self._foreteller.model_changed()
            news = news or bool(commands)
            for command in commands:
                answer = self._actions[type(command)](command)
                if answer is not None:
                    waiting.append(answer)
        return news

    def _opened_station(self) -> Station | None:
        if not self._settings.sources:
            return None
        # Only for those that have sources.
        from device_agent.sensing.adapters.station import Station  # noqa: PLC0415 - see above

        listener = self._foreteller.row if self._foreteller is not None else None
        return Station(self._settings, self._inbox.put, self._clock, listener)

    def _opened_foreteller(self) -> Foreteller | None:
        if not self._settings.predictions.topic:
            return None
        # Only for those that predict.
        from device_agent.sensing.adapters.foreteller import Foreteller  # noqa: PLC0415 - see above

        return Foreteller(self._settings, self._shelf.open)

    def _restored_core(self) -> DeviceCore:
        incarnation, durable, outbox = self._store.restore()
        if self._store.set_aside is not None:
            log.error("store damaged: started a new one aside=%s incarnation=%s", self._store.set_aside, incarnation)
        model, candidate = self._shelf.find()
        restored = RestoredState(
            incarnation=incarnation, durable=durable, outbox=outbox, model=model, candidate=candidate
        )
        version = restored.model.version if restored.model else "none"
        log.info(
            "starting device=%s federation=%s version=%s outbox=%d incarnation=%s",
            self._settings.device.id,
            self._settings.device.federation,
            version,
            len(outbox),
            incarnation,
        )
        rng = random.Random()  # noqa: S311 - waits are no secret
        return DeviceCore(self._settings, restored, boot=secrets.token_hex(8), rng=rng, pins=self._pins)

    # Commands: each returns its answer, if it has one

    def _connect(self, _command: do.Connect) -> None:
        device = self._settings.device
        client_id = f"fedmq-{device.federation}-{device.id}"
        self._link = MqttLink(self._settings.broker, client_id, self.deliver, will=self._core.will, clock=self._clock)
        self._link.start()

    def _disconnect(self, _command: do.Disconnect) -> None:
        if self._link is not None:
            self._link.stop()
            self._link = None

    def _subscribe(self, command: do.Subscribe) -> None:
        if self._link is not None:
            self._link.subscribe(command.topics)

    def _unsubscribe(self, command: do.Unsubscribe) -> None:
        if self._link is not None:
            self._link.unsubscribe(command.topics)

    def _publish(self, command: do.Publish) -> ev.Event | None:
        taken = self._link is not None and self._link.publish(
            command.topic, command.payload, qos=command.qos, retain=command.retain, token=command.token
        )
        if not taken and command.token:
            return Published(token=command.token, error="the link is down")
        return None

    def _publish_metrics(self, command: do.PublishMetrics) -> None:
        self._clock.witness()
        if self._link is not None:
            metrics = replace(
                command.metrics,
                rss_bytes=rss_bytes(),
                training_share=self._trainer.share,
                **self._trainer.figures(),
                **self._sample_figures(),
            )
            self._link.publish(command.topic, encode_status(metrics), qos=0)

    def _sample_figures(self) -> dict[str, Any]:
        if self._station is None:
            return {}
        found = self._station.figures()
        foreteller = self._foreteller
        predicting = {"predictions": foreteller.made, "predictions_fault": foreteller.trouble} if foreteller else {}
        return predicting | {
            "samples": found.rows,
            "samples_taken": found.taken,
            "samples_bytes": found.store_bytes,
            "samples_refused": found.refused,
        }

    def _persist(self, command: do.Persist) -> ev.Event | None:
        sequence = command.put.entry.sequence if command.put is not None else None
        try:
            self._store.persist(command)
        except StoreWriteError as exc:
            return ev.PersistFailed(reason=str(exc), sequence=sequence, deletes=command.deletes)
        return ev.Persisted(sequence=sequence) if sequence is not None else None

    def _load_update(self, command: do.LoadUpdate) -> ev.Event:
        return ev.UpdateLoaded(sequence=command.sequence, payload=self._store.load(command.sequence))

    def _keep_announcement(self, command: do.KeepAnnouncement) -> None:
        self._shelf.announce(command.manifest)
        if self._foreteller is not None:
            self._foreteller.model_changed()

    def _start_task(self, command: do.Train | do.Evaluate | do.Answer) -> ev.Event | None:
        files = self._shelf.open_for(command)
        if isinstance(files, ev.TaskFailed):
            return files
        log.info("%s version=%d", TASKS[type(command)], command.manifest.version)
        self._trainer.start(command, *files)
        return None

    def _stop_task(self, command: do.StopTask) -> None:
        self._trainer.stop(keep=command.keep)

    def _check_data(self, _command: do.CheckData) -> ev.Event | None:
        watched = self._station or self._watch
        return ev.DataChanged() if watched is not None and watched.changed() else None

    def _take_readings(self, _command: do.TakeReadings) -> ev.Event:
        return ev.ReadingsTaken(readings=self._sensors.read())

    def _log(self, command: do.Log) -> None:
        for told in (command, *self._troubles.after(command, time.monotonic())):
            log.log(LEVELS[told.level], "%s", with_fields(told.message, told.fields))

    def _exit(self, command: do.Exit) -> None:
        self._exit_code = command.code
