"""One device floods, fifty honest ones go on: each of their updates is accepted, the first time that it is sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from aggregator.adapters.registry import open_registry
from fedmq.embedded_broker import EmbeddedBroker
from protocol import tensors
from protocol.adapters.mqtt import LinkLoop
from protocol.messages import Manifest, ModelUpdate
from protocol.packing import encode
from protocol.topics import Topics
from tests.support.aggregators import HandDevice, Running, write_config
from tests.support.federation import wait_until
from tests.support.links import Links, Peer

TOPICS = Topics("test")
SIZE = 15
HONEST = 50
ROUNDS = 4
PER_S, BURST = 20.0, 100.0
"""What a device may send."""
MORE = 3000
"""Updates beyond that which the flooding device has sent when all is over, at the least: as fast as it can."""


@pytest.fixture
def loop() -> Iterator[LinkLoop]:
    """One thread for all honest devices. (Named before ``links`` in a test, so that it outlives them.)"""
    made = LinkLoop("devices")
    made.start()
    yield made
    made.stop()


class Flood:
    """A device that does nothing but send: well-formed updates, each a new one."""

    def __init__(self, peer: Peer, manifest: Manifest) -> None:
        self.sent = 0
        self._peer = peer
        self._topic = TOPICS.update("flood")
        self._template = ModelUpdate(
            federation="test",
            epoch=manifest.epoch,
            device_id="flood",
            incarnation="f" * 16,
            sequence=1,
            base_version=manifest.version,
            num_examples=10,
            num_steps=1,
            codec="f32",
            layout=manifest.layout,
            delta=tensors.encode("f32", np.ones(SIZE, np.float32), np.random.default_rng(0)),
        )
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            update = replace(self._template, sequence=self.sent + 1)
            if self._peer.link.publish(self._topic, encode(update)):
                self.sent += 1
            else:
                self._ending.wait(0.001)  # the link holds as many as it may


def test_a_flood_slows_no_other(broker: EmbeddedBroker, tmp_path: Path, loop: LinkLoop, links: Links) -> None:
    config = write_config(
        tmp_path, broker.port, more=f"[admission]\nmessages_per_s = {PER_S}\nmessage_burst = {BURST}\n"
    )
    devices = [HandDevice(links(broker.port, f"honest-{i}", loop=loop), f"honest-{i}") for i in range(HONEST)]
    with Running(config) as running:
        manifest = devices[0].manifest()
        peer = links(broker.port, "flood")
        peer.up()
        begun = time.monotonic()

        def allowed() -> float:
            return BURST + PER_S * (time.monotonic() - begun) + 1.0

        flood = Flood(peer, manifest)
        try:
            for sequence in range(1, ROUNDS + 1):
                for device in devices:
                    device.send(manifest, sequence)
                answers = [device.receipt(sequence).status for device in devices]
                assert answers == ["accepted"] * HONEST
            wait_until(lambda: flood.sent >= allowed() + MORE, "the flood")
        finally:
            flood.end()
        state_dir = running.prepared.state_dir

    taken_at_most = allowed()
    with open_registry(state_dir) as registry:
        found = {record.device_id: record for record in registry.status().devices}
    for device in devices:
        record = found[device.device_id]
        assert (record.accepted, record.retry, record.rejected, record.duplicate) == (ROUNDS, 0, 0, 0)
    assert found["flood"].refusals["too-many"] > 0
    assert 0 < found["flood"].accepted <= taken_at_most
