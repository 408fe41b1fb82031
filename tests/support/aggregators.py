"""An aggregator's service in a thread or a process, and a device made by hand to talk to it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from aggregator.adapters.opening import open_store
from aggregator.adapters.preparing import prepare
from aggregator.service import Service
from models import build
from protocol import tensors
from protocol.link import Received
from protocol.messages import Manifest, ModelUpdate, Receipt
from protocol.packing import decode_manifest, decode_receipt, encode
from protocol.topics import Topics
from tests.support.links import Peer
from tests.support.patience import PATIENCE_S

CONFIG = """
[aggregator]
federation = "test"
state_dir = "{state_dir}"
[broker]
port = {port}
reconnect_min_s = 0.05
reconnect_max_s = 0.2
[model]
kind = "softmax"
inputs = 4
outputs = 3
[training]
learning_rate = 0.1
[participation]
contributions_per_version = 1000000
[schedule]
goal = {goal}
[metrics]
interval_s = {metrics_s}
{more}
"""


def write_config(
    directory: Path,
    port: int = 1883,
    *,
    goal: int = 1000,
    metrics_s: float = 0.2,
    more: str = "",
    state: str = "state",
) -> Path:
    path = directory / "aggregator.toml"
    text = CONFIG.format(state_dir=directory / state, port=port, goal=goal, metrics_s=metrics_s, more=more)
    path.write_text(text)
    return path


class Running:
    """A service in a thread, from construction to ``stop``."""

    def __init__(self, config: Path) -> None:
        self.prepared = prepare(config)
        self.code: int | None = None
        self.fault: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service")
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> int | None:
        self.service.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.code

    def _run(self) -> None:
        # Opened here: SQLite's connections belong to the thread that made them.
        store = open_store(self.prepared.state_dir, self.prepared.founding, self.prepared.settings.registry)
        self.service = Service(self.prepared, store)
        self._ready.set()
        try:
            self.code = self.service.run()
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            self.fault = exc
        finally:
            store.close()


def spawn(config: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        return subprocess.Popen([sys.executable, "-m", "aggregator", "run", "--config", str(config)], stderr=stream)


class HandDevice:
    """Sends what it is told to, on a real link, and waits for receipts."""

    def __init__(self, peer: Peer, device_id: str = "press-01") -> None:
        self.topics = Topics("test")
        self.device_id = device_id
        self._peer = peer
        peer.up()
        peer.subscribe(self.topics.receipt(device_id), self.topics.current_model, self.topics.aggregator_state)

    def manifest(self) -> Manifest:
        return decode_manifest(self._received(self.topics.current_model).payload)

    def send(self, manifest: Manifest, sequence: int, **changes: Any) -> None:
        size = build(manifest.model).layout.size
        rng = np.random.default_rng(sequence)
        fields: dict[str, Any] = {
            "federation": "test",
            "epoch": manifest.epoch,
            "device_id": self.device_id,
            "incarnation": "00112233445566aa",
            "sequence": sequence,
            "base_version": manifest.version,
            "num_examples": 10,
            "num_steps": 2,
            "codec": "f32",
            "layout": manifest.layout,
            "delta": tensors.encode("f32", rng.standard_normal(size, np.float32), rng),
            **changes,
        }
        self._peer.publish(self.topics.update(self.device_id), encode(ModelUpdate(**fields)))

    def receipt(self, sequence: int) -> Receipt:
        """Return the next receipt for this update."""
        while True:
            receipt = decode_receipt(self._received(self.topics.receipt(self.device_id)).payload)
            if receipt.sequence == sequence:
                return receipt

    def state(self, status: str) -> Received:
        """Wait until the aggregator's state is this one."""
        return self._peer.inbox.wait(
            Received,
            lambda event: (
                event.topic == self.topics.aggregator_state and f'"status":"{status}"'.encode() in event.payload
            ),
        )

    def _received(self, topic: str) -> Received:
        return self._peer.inbox.wait(Received, lambda event: event.topic == topic)
