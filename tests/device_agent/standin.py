"""A stand-in for the aggregator, written out by hand, and agents as real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from device_agent.adapters.store import peek
from models import build
from protocol import tensors
from protocol.adapters.mqtt import MqttLink
from protocol.chunks import blob_of, digest_of, split
from protocol.link import BrokerSettings, LinkEvent, LinkUp, Published, Received, Subscribed
from protocol.messages import (
    DeviceCommand,
    Manifest,
    ModelUpdate,
    Participation,
    Receipt,
    UpdateChunk,
    UpdateProbe,
    UpMessage,
)
from protocol.packing import decode_up, encode
from protocol.status import DeviceMetrics, DeviceState, decode_status
from protocol.topics import Topics
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from device_agent.records import DurableState, OutboxEntry

FEDERATION = "demo"
DEVICE = "press-07"
EPOCH = "e" * 16
TOPICS = Topics(FEDERATION)
SPEC = {"kind": "mlp", "inputs": 8, "hidden": [16], "outputs": 3, "task": "classification"}

_T = TypeVar("_T")


@dataclass
class Standin:
    """Publishes models, keeps what comes up, and answers as ``answer`` says."""

    port: int
    answer: Callable[[UpMessage], Receipt | None] = lambda _message: None
    payloads: list[bytes] = field(default_factory=list)
    messages: list[UpMessage] = field(default_factory=list)
    states: list[DeviceState] = field(default_factory=list)
    metrics: list[DeviceMetrics] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._ready = False
        self._acked: set[str] = set()
        settings = BrokerSettings(port=self.port, reconnect_min_s=0.05, reconnect_max_s=0.2)
        self._link = MqttLink(settings, "standin", self._deliver)
        self._link.start()
        self.wait(lambda: self._ready)

    def close(self) -> None:
        self._link.stop()

    def wait(self, condition: Callable[[], _T], timeout_s: float = PATIENCE_S) -> _T:
        """Wait until the condition holds, looking again with everything that arrives."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not (found := condition()):
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"did not happen; messages {self.messages}, states {self.states[-5:]}"
                self._changed.wait(min(left_s, 0.2))
            return found

    def publish_model(
        self, version: int, *, chunk_bytes: int = 65536, only: list[int] | None = None, **fields: Any
    ) -> Manifest:
        """Publish chunks (or only some of them), then the manifest, all retained and acknowledged."""
        spec = fields.pop("spec", SPEC)
        model = fields.pop("model", None) or build(spec)
        rng = np.random.default_rng(version)
        data = tensors.encode("f32", rng.normal(scale=0.3, size=model.layout.size).astype(np.float32), rng)
        manifest = Manifest(
            federation=FEDERATION,
            epoch=EPOCH,
            version=version,
            model=dict(model.spec),
            layout=model.layout.digest,
            parameters=digest_of(data),
            blob=blob_of(data, "f32", chunk_bytes),
            training=fields.pop("training", {"epochs": 2, "batch_size": 16}),
            features=fields.pop("features", {}),
            personal=fields.pop("personal", {}),
            backbone=fields.pop("backbone", None),
            participation=Participation(**({"codec": "f32"} | fields)),
        )
        pieces = split(data, chunk_bytes)
        for index in range(len(pieces)) if only is None else only:
            self.publish(TOPICS.blob(manifest.blob.digest, index), pieces[index])
        self.publish(TOPICS.current_model, encode(manifest))
        return manifest

    def publish(self, topic: str, payload: bytes, *, retain: bool = True) -> None:
        token = f"{topic} {time.monotonic_ns()}"

        def done() -> bool:
            return token in self._acked

        self.wait(lambda: self._link.publish(topic, payload, retain=retain, token=token))
        self.wait(done)

    def command(self, action: Any, request_id: str) -> None:
        command = DeviceCommand(federation=FEDERATION, request_id=request_id, action=action, target=DEVICE, issued=1)
        payload = encode(command)
        self.publish(TOPICS.command(DEVICE), payload, retain=False)

    def receipt(self, message: UpMessage, status: Any = "accepted", **fields: Any) -> Receipt:
        return Receipt(
            federation=FEDERATION,
            epoch=EPOCH,
            device_id=message.device_id,
            incarnation=message.incarnation,
            sequence=message.sequence,
            status=status,
            **fields,
        )

    def send(self, receipt: Receipt) -> None:
        self._link.publish(TOPICS.receipt(receipt.device_id), encode(receipt))

    def count(self, kind: type[UpMessage]) -> int:
        return sum(isinstance(message, kind) for message in self.messages)

    def updates(self) -> list[ModelUpdate]:
        return [message for message in self.messages if isinstance(message, ModelUpdate)]

    def chunks(self) -> list[int]:
        return [message.index for message in self.messages if isinstance(message, UpdateChunk)]

    def probes(self) -> int:
        return self.count(UpdateProbe)

    def state(self) -> str:
        return self.states[-1].state if self.states else ""

    def _deliver(self, event: LinkEvent) -> bool:
        with self._changed:
            match event:
                case LinkUp():
                    self._link.subscribe([TOPICS.all_updates, TOPICS.all_device_states, TOPICS.all_device_metrics])
                case Subscribed():
                    self._ready = True
                case Published() if not event.error:
                    self._acked.add(event.token)
                case Received():
                    self._received(event)
            self._changed.notify_all()
        return True

    def _received(self, event: Received) -> None:
        match TOPICS.parse_device_topic(event.topic).kind:
            case "state":
                self.states.append(decode_status(event.payload, DeviceState))
            case "metrics":
                self.metrics.append(decode_status(event.payload, DeviceMetrics))
            case "update":
                message = decode_up(event.payload)
                self.payloads.append(event.payload)
                self.messages.append(message)
                receipt = self.answer(message)
                if receipt is not None:
                    self.send(receipt)


class Agent:
    """``fedmq-agent run`` as a process; start it, kill it, start it again on the same files."""

    def __init__(self, folder: Path, port: int, **tables: dict[str, Any]) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.config = folder / "agent.toml"
        self.log = folder / "agent.log"
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(11)
        x = rng.normal(size=(300, 8)).astype(np.float32)
        np.savez(folder / "samples.npz", x=x, y=np.abs(x[:, :3]).argmax(axis=1))
        defaults: dict[str, dict[str, Any]] = {
            "device": {"id": DEVICE, "federation": FEDERATION, "state_dir": str(self.state_dir)},
            "broker": {"port": port, "reconnect_min_s": 0.05, "reconnect_max_s": 0.2},
            "data": {"path": str(folder / "samples.npz")},
            "outbox": {"receipt_timeout_s": 0.5, "resend_max_s": 2.0},
            "metrics": {"interval_s": 0.5},
            # Whatever the machine that runs the tests is like.
            "policy": {"max_cpu_c": 0, "min_battery_percent": 0, "min_free_memory_bytes": 0, "min_free_disk_bytes": 0},
        }
        for name, table in tables.items():
            defaults[name] = defaults.get(name, {}) | table
        self.config.write_text(toml(defaults))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Agent:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "device_agent", "run", "--config", str(self.config), "--log-level", "debug"],
                stderr=log,
                stdout=log,
            )
        return self

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)

    def restart(self) -> None:
        self.kill()
        self.start()

    def peek(self) -> tuple[dict[str, str], DurableState, tuple[OutboxEntry, ...]]:
        return peek(self.state_dir)

    def text(self) -> str:
        return self.log.read_text()

    def rss_kb(self) -> int:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def toml(tables: dict[str, dict[str, Any]]) -> str:
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in table.items())
        for name, table in tables.items()
    )
