"""Sensing: a thread that writes, polls files and looks after sources, and one for the brokers' links, if there are any.

Rows are taken in under one lock, in whichever thread they come; only the sensing thread touches the store.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent.events import SensorsTold
from device_agent.sensing.adapters.feeds import Feed
from device_agent.sensing.adapters.recorder import Recorder
from device_agent.sensing.adapters.sample_clock import SampleClock
from device_agent.sensing.labelling import LabelBoard
from device_agent.sensing.messages import MessageReader
from device_agent.sensing.rows import Row
from device_agent.sensing.sources import CsvSource, JsonlSource, MqttSource, NpzSource, PluginSource
from protocol.adapters.loop import LinkLoop, Pulse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from device_agent.events import Event
    from device_agent.sensing.adapters.archives import Archive
    from device_agent.sensing.adapters.growing import GrowingFile
    from device_agent.sensing.adapters.plugin_threads import PluginThread
    from device_agent.sensing.intake import Intake
    from device_agent.sensing.rows import Moment, RowListener
    from device_agent.settings import AgentSettings
    from protocol.adapters.system_clock import SystemClock
    from protocol.link import BrokerSettings, Received

log = logging.getLogger("fedmq.sensing")

MAX_TURN_S = 180.0
"""A turn that takes longer counts as hung: a card that needs minutes to write a few pages is one."""

TELL_EVERY_S = 2.0
"""What is wrong is told no more often: a sensor that comes and goes must not fill the topic of our state."""

STORE = "sample store"
"""Under this name the store's own faults are told; no source can have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is published of the samples."""

    rows: int
    """In the store."""
    taken: int
    """Ever stored."""
    store_bytes: int
    refused: dict[str, int]
    """By source and kind."""


class Station:
    """All sources of one agent, from ``start`` to ``close``."""

    def __init__(
        self,
        settings: AgentSettings,
        deliver: Callable[[Event], object],
        clock: SystemClock,
        listener: RowListener | None = None,
    ) -> None:
        """``deliver`` takes events, from any thread; ``listener`` is handed each row before it is stored.

        Raise ``StoreError`` when the store was written by a newer version.
        """
        self._deliver = deliver
        self._listener = listener
        self._clock = SampleClock(clock)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = False
        self._since: float | None = None
        self._told: dict[str, str] = {}
        self._tell_at = 0.0
        self._tell_wanted = self._resumed = False
        self._seen = 0
        self._recorder = Recorder(Path(settings.device.state_dir), settings.samples, self._lock, self._clock)
        self._loop: LinkLoop | None = None
        self._pulse: Pulse | None = None
        self._intakes: list[Intake] = []
        self._files: list[GrowingFile | Archive] = []
        self._plugins: list[PluginThread] = []
        self._feeds: list[Feed] = []
        self._build(settings)
        self._recorder.facts = self._facts
        self._thread = threading.Thread(target=self._run, name="sensing", daemon=True)

    def start(self) -> None:
        """Begin. Raise ``ConfigurationError`` when a password file cannot be read."""
        self._thread.start()
        for feed in self._feeds:
            feed.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, and end."""
        self._stop = True
        self._wake.set()
        for feed in self._feeds:
            feed.stop()
        if self._loop is not None:
            self._loop.stop(0.5)
        for plugin in self._plugins:
            plugin.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # -- for the worker

    @property
    def taken(self) -> int | None:
        """How many rows have ever been stored; None while the store cannot be opened."""
        return self._recorder.taken

    def changed(self) -> bool:
        """Whether so many rows have come since this said yes that what failed for a lack of them may work now."""
        taken = (self.taken or 0) + self._recorder.labelled
        if taken <= self._seen * 5 // 4:
            return False
        self._seen = taken
        return True

    def alive(self) -> bool:
        """Whether the threads do what they are for. For one thread, which asks from time to time."""
        if not self._thread.is_alive():
            return not self._thread.ident
        since = self._since
        turning = since is None or time.monotonic() - since < MAX_TURN_S
        return turning and (self._pulse is None or self._pulse.beats())

    def figures(self) -> Figures:
        """Return the figures for the metrics."""
        with self._lock:
            refused = {
                f"{each.name}: {kind}"[:64]: count
                for each in self._intakes
                for kind, count in list(each.refused.items())
            }
        found = self._recorder
        return Figures(rows=found.rows, taken=found.taken or 0, store_bytes=found.store_bytes, refused=refused)

    # -- building

    def _build(self, settings: AgentSettings) -> None:
        board, now = LabelBoard(), time.monotonic()
        readers: list[tuple[BrokerSettings, MessageReader]] = []
        for name, table in settings.sources.items():
            match table:
                case MqttSource():
                    reader = MessageReader(name, table, board, now)
                    readers.append((table.broker, reader))
                    self._intakes.append(reader.intake)
                case CsvSource() | JsonlSource():
                    grown = _growing(name, table, board, now)
                    self._files.append(grown)
                    self._intakes.append(grown.reader.intake)
                case NpzSource():
                    from device_agent.sensing.adapters.archives import Archive  # noqa: PLC0415 - brings zipfile

                    archive = Archive(name, table, board, now)
                    self._files.append(archive)
                    self._intakes.append(archive.intake)
                case PluginSource():
                    from device_agent.sensing.adapters.plugin_threads import (  # noqa: PLC0415 - brings importlib.metadata
                        Host,
                        PluginThread,
                    )

                    host = Host(now=self._clock.now, offer=self._offer, ended=self._wake.set)
                    plugin = PluginThread(name, table, board, host)
                    self._plugins.append(plugin)
                    self._intakes.append(plugin.intake)
        self._connect(settings, readers)

    def _connect(self, settings: AgentSettings, readers: list[tuple[BrokerSettings, MessageReader]]) -> None:
        if not readers:
            return
        # Not the federation's loop: a flood of samples must not hold up what the federation is told.
        self._loop = LinkLoop("fedmq-sensors")
        self._pulse = Pulse(self._loop)
        self._loop.start()
        brokers: list[BrokerSettings] = []
        for broker, _ in readers:
            if broker not in brokers:
                brokers.append(broker)
        client_id = f"fedmq-{settings.device.federation}-{settings.device.id}-sensors"
        for broker in brokers:
            own = [reader for theirs, reader in readers if theirs == broker]
            self._feeds.append(Feed(broker, client_id, own, self._loop, hear=self._hear, changed=self._wake.set))

    # -- what comes in, in whichever thread

    def _hear(self, readers: Sequence[MessageReader], event: Received) -> None:
        at = self._clock.now()
        with self._lock:
            found = [
                (reader.intake, item)
                for reader in readers
                for item in reader.read(event.topic, event.payload, at, retained=event.retain)
            ]
            rows = [item for intake, item in found if self._recorder.put(intake, item, at.monotonic_s)]
            recovered = any(self._news_of(reader.intake, at.monotonic_s) for reader in readers)
        self._pass_on([row for row in rows if isinstance(row, Row)], recovered=recovered)

    def _offer(self, intake: Intake, make: Callable[[Moment], Row | None]) -> bool:
        at = self._clock.now()
        with self._lock:
            row = make(at)
            taken = row is not None and self._recorder.put(intake, row, at.monotonic_s)
            recovered = self._news_of(intake, at.monotonic_s)
        self._pass_on([row] if taken and row is not None else [], recovered=recovered)
        return taken

    def _news_of(self, intake: Intake, now: float) -> bool:
        return "; ".join(intake.faults(now)) != self._told.get(intake.name, "")

    def _pass_on(self, rows: list[Row], *, recovered: bool) -> None:
        if (recovered and not self._tell_wanted) or self._recorder.wants_attention:
            self._tell_wanted = recovered
            self._wake.set()
        if self._listener is not None:
            for row in rows:
                try:
                    self._listener(row)
                except Exception:
                    log.exception("a row could not be handed on")

    # -- the sensing thread

    def _run(self) -> None:
        try:
            self._recorder.begin()
            while not self._stop:
                self._since = time.monotonic()
                deadline = self._guarded_turn()
                self._since = None
                self._wake.wait(max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX)))
                self._wake.clear()
        finally:
            for file in self._files:
                file.close()
            self._recorder.close()

    def _guarded_turn(self) -> float:
        try:
            return self._turn()
        except Exception:
            # A fault of ours: said once in a while, and nothing else stops.
            log.exception("a fault in the sensing thread")
            return time.monotonic() + 60.0

    def _turn(self) -> float:
        self._poll()
        now = time.monotonic()
        for plugin in self._plugins:
            if now >= plugin.next_at:
                plugin.supervise(now)
        if self._recorder.attend(now):
            # What was stored of files went with the store that was damaged: they are read again, into the new one.
            self._recorder.forget({file.name for file in self._files})
            self._resumed = False
        self._tell(time.monotonic())
        return self._deadline(time.monotonic())

    def _poll(self) -> None:
        if not self._resumed and self._recorder.ready:
            # Not before: without the positions everything would be read once more.
            self._resumed = True
            for file in self._files:
                file.resume(self._recorder.position(file.name))
                file.next_at = 0.0
        for file in self._files if self._resumed else ():
            at = self._clock.now()
            if at.monotonic_s < file.next_at or self._recorder.stuck:
                continue
            found = file.poll(at)
            if found is not None:
                rows, position = found
                with self._lock:
                    self._recorder.put_read(rows, file.name, position, at.monotonic_s)
                self._pass_on(rows, recovered=False)

    def _deadline(self, now: float) -> float:
        stuck = self._recorder.stuck
        with self._lock:
            found = [math.inf if stuck or not self._resumed else file.next_at for file in self._files]
            found += [plugin.next_at for plugin in self._plugins]
            found += [intake.next_change(now) for intake in self._intakes]
            found.append(self._recorder.deadline)
            if self._current_faults(now) != self._told:
                found.append(self._tell_at)
        return min(found)

    def _current_faults(self, now: float) -> dict[str, str]:
        found = {intake.name: "; ".join(intake.faults(now)) for intake in self._intakes}
        found[STORE] = self._recorder.trouble
        return {name: text for name, text in found.items() if text}

    def _tell(self, now: float) -> None:
        with self._lock:
            faults = self._current_faults(now)
            news = [(intake.name, line) for intake in self._intakes for line in intake.take_news()]
        for name, line in news:
            log.warning("source %s: %s", name, line)
        if faults == self._told:
            self._tell_wanted = False
        elif now >= self._tell_at:
            self._told = faults
            self._tell_wanted = False
            self._tell_at = now + TELL_EVERY_S
            self._recorder.write_facts(now)
            self._deliver(SensorsTold(faults=faults))

    def _facts(self) -> dict[str, object]:
        now = time.monotonic()
        return {
            intake.name: {
                "kind": intake.table.__struct_config__.tag,
                "last_time": intake.last_time,
                "refused": dict(intake.refused),
                "faults": list(intake.faults(now)),
            }
            for intake in self._intakes
        }


def _growing(name: str, table: CsvSource | JsonlSource, board: LabelBoard, now: float) -> GrowingFile:
    from device_agent.sensing.adapters.growing import GrowingFile  # noqa: PLC0415 - for those who have one
    from device_agent.sensing.lines import CsvLines, JsonLines  # noqa: PLC0415 - brings csv

    if isinstance(table, CsvSource):
        return GrowingFile(name, table, CsvLines(name, table, board, now))
    return GrowingFile(name, table, JsonLines(name, table, board, now))
