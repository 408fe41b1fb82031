"""Listens to what the demo's devices predict and to what was really going on, and counts who was right."""

from __future__ import annotations

import json
import queue
import secrets
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from protocol.adapters.mqtt import MqttLink
from protocol.link import LinkUp, Received

if TYPE_CHECKING:
    from protocol.link import BrokerSettings, LinkEvent

MAX_WAITING = 100_000
"""Messages between two looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """What became of the predictions."""

    devices: int = 0
    """Of whom anything was heard."""
    made: int = 0
    judged: int = 0
    """Of windows in which only one thing was going on, and it is known what."""
    right: int = 0


@dataclass(slots=True)
class _Device:
    changes: list[float] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    predictions: list[tuple[float, str]] = field(default_factory=list)


class Audience:
    """One connection to the topics of all watches. ``result`` may be asked at any time, in one thread."""

    def __init__(self, broker: BrokerSettings, root: str, window_s: float) -> None:
        self._root = root
        self._window_s = window_s
        self._devices: dict[str, _Device] = {}
        self._events: queue.Queue[Received] = queue.Queue(maxsize=MAX_WAITING)
        self._link = MqttLink(broker, f"fedmq-audience-{secrets.token_hex(4)}", self._deliver)

    def start(self) -> None:
        """Begin to listen."""
        self._link.start()

    def stop(self) -> None:
        """Hear no more."""
        self._link.stop()

    def result(self) -> Foretold:
        """Take in what has come, and return how it stands: the second half of the predictions is judged."""
        while not self._events.empty():
            self._take(self._events.get_nowait())
        made = judged = right = 0
        for device in self._devices.values():
            made += len(device.predictions)
            for ends, name in device.predictions[len(device.predictions) // 2 :]:
                label = self._label_of(device, ends)
                judged += label is not None
                right += label == name
        return Foretold(devices=len(self._devices), made=made, judged=judged, right=right)

    def _take(self, received: Received) -> None:
        _, _, rest = received.topic.rpartition(self._root + "/")
        name, _, kind = rest.partition("/")
        try:
            said: dict[str, Any] = json.loads(received.payload)
            at = float(said["time"])
            device = self._devices.setdefault(name, _Device())
            if kind == "prediction":
                device.predictions.append((at, str(said["name"])))
            elif not device.changes or at > device.changes[-1]:
                device.changes.append(at)
                device.labels.append(str(said["label"]))
        except (ValueError, KeyError, TypeError):
            return  # a broker that others use as well

    def _label_of(self, device: _Device, ends: float) -> str | None:
        """Return what was going on during the whole window; None when that is not known."""
        last = bisect_right(device.changes, ends) - 1
        first = bisect_right(device.changes, ends - self._window_s) - 1
        return device.labels[last] if last == first and last >= 0 else None

    def _deliver(self, event: LinkEvent) -> bool:
        if isinstance(event, LinkUp):
            self._link.subscribe([f"{self._root}/+/prediction", f"{self._root}/+/exercise"])
        elif isinstance(event, Received):
            try:
                self._events.put_nowait(event)
            except queue.Full:
                return False
        return True
