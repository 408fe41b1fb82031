"""One federation of processes: a broker, an aggregator, agents; and what it says of itself, as anybody could ask it."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from aggregator.adapters.errors import StoreError, StoreRefused
from aggregator.adapters.registry import open_registry
from fedmq.embedded_broker import start
from fedmq.processes import Child, ChildDiedError, log_tail, stop_all
from protocol.errors import ProtocolError
from protocol.status import DeviceMetrics, decode_status
from protocol.topics import Topics

if TYPE_CHECKING:
    from pathlib import Path

    from fedmq.embedded_broker import EmbeddedBroker

NAME = "transfer"
PATIENCE_S = 900.0
_GRACE_S = 30.0
_TABLES = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What a federation came to."""

    accuracies: list[float]
    """Of each version, from 1 on, on the evaluation data."""
    update_bytes: float
    """Of an update as it was sent, on average."""
    figures: dict[str, DeviceMetrics]
    """The newest of each device."""
    training_s: list[float]
    """Of trainings; the first of each device is not among them, for it fills caches."""


@dataclass
class Listener:
    """Keeps what devices publish of themselves."""

    newest: dict[str, DeviceMetrics] = field(default_factory=dict)
    training_s: dict[tuple[str, int], float] = field(default_factory=dict)

    def connect(self, port: int) -> Client:
        """Return a client that listens from now on."""
        client = Client(CallbackAPIVersion.VERSION2)
        topic = Topics(NAME).all_device_metrics
        client.on_connect = lambda client, *_: client.subscribe(topic)
        client.on_message = lambda _client, _data, message: self._take(message)
        client.connect("127.0.0.1", port)
        client.loop_start()
        return client

    def _take(self, message: MQTTMessage) -> None:
        try:
            device = Topics(NAME).parse_device_topic(message.topic).device_id
            metrics = decode_status(bytes(message.payload), DeviceMetrics)
        except ProtocolError:
            return
        self.newest[device] = metrics
        if metrics.trainings > 1:
            self.training_s[device, metrics.trainings] = metrics.training_s


class Federation:
    """Its files are in ``folder``; ``model`` and ``training`` are tables of ``aggregator.toml``."""

    def __init__(
        self, folder: Path, *, model: dict[str, Any], training: dict[str, Any], backbone: Path | None = None
    ) -> None:
        self._folder = folder
        self._model, self._training, self._backbone = model, training, backbone
        self._children: list[Child] = []

    def run(self, devices: list[Path], evaluation: Path, versions: int) -> Outcome:
        """Have devices with these files learn so many versions; raise ``ChildDiedError``."""
        listener = Listener()
        with ExitStack() as stack:
            broker = stack.enter_context(start("auto", self._folder / "broker"))
            client = listener.connect(broker.port)
            stack.callback(client.loop_stop)
            stack.callback(client.disconnect)
            stack.callback(lambda: stop_all(self._children, _GRACE_S))
            self._start(broker, devices, evaluation)
            deadline = time.monotonic() + PATIENCE_S
            while not self._done(listener, len(devices), versions):
                for child in self._children:
                    child.check()
                if time.monotonic() > deadline:
                    raise ChildDiedError(f"not {versions} versions in {PATIENCE_S:g} s; {self._last_words()}")
                time.sleep(0.1)
            accuracies, update_bytes = self._measured(versions)
            return Outcome(accuracies, update_bytes, dict(listener.newest), list(listener.training_s.values()))

    def _last_words(self) -> str:
        return "\n".join(f"the end of the log of {child.name}:\n{log_tail(child.log)}" for child in self._children[:2])

    def _done(self, listener: Listener, devices: int, versions: int) -> bool:
        told = [figures for figures in listener.newest.values() if (figures.trained_version or 0) >= versions - 1]
        return len(told) == devices and len(self._measured(versions)[0]) == versions

    def _measured(self, versions: int) -> tuple[list[float], float]:
        try:
            with open_registry(self._folder / "aggregator") as registry:
                lines = registry.versions()[1 : versions + 1]
                sent = [part.update_bytes for line in lines for part in registry.lineage(line.version).contributions]
        except (StoreError, StoreRefused):
            return [], 0.0
        return [line.metrics["accuracy"] for line in lines], sum(sent) / max(1, len(sent))

    def _start(self, broker: EmbeddedBroker, devices: list[Path], evaluation: Path) -> None:
        common: _TABLES = {
            "broker": {"port": broker.port, "reconnect_min_s": 0.1},
            "metrics": {"interval_s": 0.2},
        }
        tables: _TABLES = {
            "aggregator": {"federation": NAME, "state_dir": str(self._folder / "aggregator")},
            "model": self._model,
            "training": self._training,
            # A version is made of one update of each device, so that the ways differ in nothing but what is learned.
            "schedule": {"goal": len(devices), "interval_s": 0},
            "evaluation": {"path": str(evaluation)},
        }
        if self._backbone is not None:
            tables["backbone"] = {"path": str(self._backbone)}
        self._spawn("aggregator", "aggregator", tables | common)
        for number, data in enumerate(devices, 1):
            name = f"watch-{number}"
            table = {"id": name, "federation": NAME, "state_dir": str(self._folder / name)}
            self._spawn(name, "device_agent", {"device": table, "data": _all_of(data)} | common)

    def _spawn(self, name: str, module: str, tables: _TABLES) -> None:
        config = self._folder / f"{name}.toml"
        config.write_text(_toml(tables))
        command = [sys.executable, "-m", module, "run", "--config", str(config)]
        self._children.append(Child(name, command, self._folder / f"{name}.log"))
        self._children[-1].start()


def _all_of(data: Path) -> dict[str, Any]:
    # A handful of examples: all are for learning, other people's judge.
    return {"path": str(data), "holdout_fraction": 0.0}


def _toml(tables: _TABLES) -> str:
    # What JSON writes of these values, inline tables apart, is TOML as well.
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    )


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value)
