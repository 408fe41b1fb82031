"""A station for a test: real sources, a real store, and what it tells."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from device_agent.events import Event, SensorsTold
from device_agent.sensing.adapters.reading import SamplesError, read
from device_agent.sensing.adapters.station import Station
from device_agent.sensing.rows import Row
from device_agent.settings import AgentSettings
from protocol.adapters.system_clock import SystemClock
from protocol.clock import Reading
from protocol.settings import settings_from
from tests.support.patience import PATIENCE_S


class Sensing:
    """Started within ``with``; may be started again on the same files."""

    def __init__(
        self, folder: Path, sources: dict[str, Any], *, clock: Callable[[], Reading] | None = None, **samples: Any
    ) -> None:
        self.state_dir = folder / "state"
        self.state_dir.mkdir(exist_ok=True)
        data = {
            "device": {"id": "a", "federation": "f", "state_dir": str(self.state_dir)},
            "samples": {"commit_s": 0.1} | samples,
            "sources": sources,
        }
        self.settings = settings_from(data, AgentSettings, "test")
        self.rows: list[Row] = []
        self.faults: dict[str, str] = {}
        self.told: list[dict[str, str]] = []
        self._read = clock
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        clock = SystemClock(self.state_dir, wait_s=120.0, read=self._read)
        self.station = Station(self.settings, self._deliver, clock, self._listen)
        return self.start()

    def start(self) -> Self:
        self.station.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.station.close()

    def _deliver(self, event: Event) -> None:
        assert isinstance(event, SensorsTold)
        with self._changed:
            self.faults = dict(event.faults)
            self.told.append(self.faults)
            self._changed.notify_all()

    def _listen(self, row: Row) -> None:
        with self._changed:
            self.rows.append(row)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], object], what: str = "") -> None:
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            while not condition():
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"did not happen: {what}; {self.faults} {len(self.rows)} {self.station.figures()}"
                self._changed.wait(min(left_s, 0.1))

    def stored(self, channel: str) -> list[float]:
        """Return what the store has of a channel, in the order of time."""
        try:
            found = read(self.state_dir, (channel,)).values[:, 0]
        except SamplesError:
            return []
        return [float(value) for value in found if not math.isnan(value)]
