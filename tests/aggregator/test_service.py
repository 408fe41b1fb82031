"""The service between a real broker and a real store: what is acknowledged is safe, whatever fails."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from aggregator.adapters.control import NotRunning, RollbackRequest, StatusRequest, ask
from aggregator.adapters.registry import open_registry
from aggregator.adapters.snapshot import SNAPSHOT_NAME, read_snapshot
from aggregator.commands import Command
from aggregator.intake import Intake
from fedmq.embedded_broker import EmbeddedBroker
from protocol.link import Received
from tests.support.aggregators import HandDevice, Running, spawn, write_config
from tests.support.links import Links
from tests.support.patience import PATIENCE_S
from tests.support.stores import no_file_larger_than


def accepted(state_dir: Path) -> list[int]:
    with open_registry(state_dir) as registry:
        return sorted(sequence for _, _, sequence in registry.accepted())


def test_accepted_means_stored(broker: EmbeddedBroker, links: Links, tmp_path: Path) -> None:
    with Running(write_config(tmp_path, broker.port, goal=3)) as running:
        device = HandDevice(links(broker.port))
        manifest = device.manifest()
        for sequence in range(1, 8):
            device.send(manifest, sequence)
            assert device.receipt(sequence).status == "accepted"
            assert accepted(running.prepared.state_dir) == list(range(1, sequence + 1))
        device.send(manifest, 4)
        assert device.receipt(4).status == "duplicate"
        with open_registry(running.prepared.state_dir) as registry:
            assert [line.version for line in registry.versions()] == [0, 1, 2]
            assert registry.status().buffered == 1
        assert running.stop() == 0


def test_stopping_says_goodbye_and_leaves_all_in_order(broker: EmbeddedBroker, links: Links, tmp_path: Path) -> None:
    config = write_config(tmp_path, broker.port, goal=1)
    process = spawn(config, tmp_path / "log")
    device = HandDevice(links(broker.port))
    manifest = device.manifest()
    device.send(manifest, 1)
    assert device.receipt(1).status == "accepted"

    process.send_signal(signal.SIGTERM)

    assert process.wait(PATIENCE_S) == 0
    device.state("offline")
    snapshot = read_snapshot(tmp_path / "state", "test", manifest.layout)
    assert snapshot
    assert snapshot.version == 1
    left = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert left == ["aggregator.sqlite", SNAPSHOT_NAME, "lock"]
    assert "Traceback" not in (tmp_path / "log").read_text()
    with pytest.raises(NotRunning):
        ask(tmp_path / "state", StatusRequest())


def test_killed_after_the_receipt(broker: EmbeddedBroker, links: Links, tmp_path: Path) -> None:
    config = write_config(tmp_path, broker.port, goal=3)
    process = spawn(config, tmp_path / "log")
    device = HandDevice(links(broker.port))
    manifest = device.manifest()
    for sequence in (1, 2):
        device.send(manifest, sequence)
        assert device.receipt(sequence).status == "accepted"
    process.kill()
    process.wait()
    device.state("offline")
    device.send(manifest, 2)  # while nobody is there: the broker keeps it

    process = spawn(config, tmp_path / "log")
    assert device.receipt(2).status == "duplicate"
    device.send(manifest, 3)
    assert device.receipt(3).status == "accepted"
    # The control socket of the killed process was in the way of nothing.
    assert ask(tmp_path / "state", StatusRequest())["version"] == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0

    with open_registry(tmp_path / "state") as registry:
        assert [c.sequence for c in registry.lineage(1).contributions] == [1, 2, 3]


def test_a_full_disk_costs_nothing_but_time(
    broker: EmbeddedBroker, links: Links, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.adapters.disk_waits.RETRY_MIN_S", 0.01)
    monkeypatch.setattr("aggregator.adapters.disk_waits.RETRY_MAX_S", 0.05)
    with Running(write_config(tmp_path, broker.port)) as running:
        device = HandDevice(links(broker.port))
        manifest = device.manifest()
        device.send(manifest, 1)
        assert device.receipt(1).status == "accepted"
        wal = running.prepared.state_dir / "aggregator.sqlite-wal"
        sequence = 1
        with no_file_larger_than(wal.stat().st_size + 40_000):
            while True:
                sequence += 1
                device.send(manifest, sequence)
                receipt = device.receipt(sequence)
                if receipt.status != "accepted":
                    break
            assert receipt.status == "retry"
            assert "not-stored" in receipt.reason
            assert receipt.next_after_s > 0
            assert accepted(running.prepared.state_dir) == list(range(1, sequence))
            # It is still there, and says what it can.
            assert ask(running.prepared.state_dir, StatusRequest())["version"] == 0

        while True:  # room again: it goes on by itself
            device.send(manifest, sequence)
            receipt = device.receipt(sequence)
            if receipt.status != "retry":
                break
        assert receipt.status == "accepted"
        assert accepted(running.prepared.state_dir) == list(range(1, sequence + 1))
        device.send(manifest, sequence)
        assert device.receipt(sequence).status == "duplicate"
        assert running.stop() == 0


def test_stopping_while_the_disk_is_full(
    broker: EmbeddedBroker, links: Links, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.adapters.disk_waits.RETRY_MIN_S", 0.01)
    running = Running(write_config(tmp_path, broker.port))
    device = HandDevice(links(broker.port))
    manifest = device.manifest()
    with no_file_larger_than(1):
        device.send(manifest, 1)
        assert device.receipt(1).status == "retry"
        assert running.stop() == 0
    device.state("offline")
    assert accepted(running.prepared.state_dir) == []


def test_a_message_that_breaks_the_core_is_dropped_once(
    broker: EmbeddedBroker, links: Links, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()
    sound = Intake.receive

    def receive(self: Intake, device_id: str, received: Received, now: float, wall: float) -> list[Command]:
        if received.payload == b"poison":
            broken.set()
            raise ZeroDivisionError
        return sound(self, device_id, received, now, wall)

    monkeypatch.setattr(Intake, "receive", receive)
    with Running(write_config(tmp_path, broker.port)) as running:
        peer = links(broker.port)
        device = HandDevice(peer)
        manifest = device.manifest()
        device.send(manifest, 1)
        for _ in range(3):
            peer.publish(device.topics.update("press-01"), b"poison")
        device.send(manifest, 2)
        assert device.receipt(1).status == "accepted"
        assert device.receipt(2).status == "accepted"
        assert broken.is_set()
        assert running.stop() == 0
    broken.clear()
    with Running(write_config(tmp_path, broker.port)) as running:  # the broker does not deliver it again
        device.send(manifest, 3)
        assert device.receipt(3).status == "accepted"
        assert accepted(running.prepared.state_dir) == [1, 2, 3]
    assert not broken.is_set()


def test_a_message_that_breaks_the_core_after_it_was_held_back(
    broker: EmbeddedBroker, links: Links, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path, broker.port)
    with Running(config):
        peer = links(broker.port)
        device = HandDevice(peer)
        manifest = device.manifest()
    device.send(manifest, 1)
    peer.publish(device.topics.update("press-01"), b"poison")
    device.send(manifest, 2)
    sound = Intake.receive

    def receive(self: Intake, device_id: str, received: Received, now: float, wall: float) -> list[Command]:
        if received.payload == b"poison":
            raise ZeroDivisionError
        return sound(self, device_id, received, now, wall)

    monkeypatch.setattr(Intake, "receive", receive)
    with Running(config) as running:
        assert device.receipt(1).status == "accepted"
        assert device.receipt(2).status == "accepted"
        assert running.stop() == 0
    assert accepted(tmp_path / "state") == [1, 2]


def test_a_fault_that_no_message_caused_ends_the_process(
    broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("aggregator.core.AggregatorCore._metrics_due", broken)
    running = Running(write_config(tmp_path, broker.port))
    running._thread.join(PATIENCE_S)
    assert isinstance(running.fault, ZeroDivisionError)


def test_rolling_back_a_running_aggregator(broker: EmbeddedBroker, links: Links, tmp_path: Path) -> None:
    with Running(write_config(tmp_path, broker.port, goal=2)) as running:
        device = HandDevice(links(broker.port))
        manifest = device.manifest()
        for sequence in (1, 2, 3):
            device.send(manifest, sequence)
            assert device.receipt(sequence).status == "accepted"

        body = ask(running.prepared.state_dir, RollbackRequest(version=0))

        assert body == {"version": 2, "rolled_back_to": 0, "updates_set_aside": 1}
        while device.manifest().version != 2:
            pass
        with open_registry(running.prepared.state_dir) as registry:
            assert registry.parameters(2) == registry.parameters(0)
            assert registry.lineage(2).outcome == "set-aside"
        assert accepted(running.prepared.state_dir) == [1, 2, 3]


def test_versions_by_interval(broker: EmbeddedBroker, links: Links, tmp_path: Path) -> None:
    config = write_config(tmp_path, broker.port, goal=0)
    config.write_text(config.read_text().replace("goal = 0", "goal = 0\ninterval_s = 0.3"))
    with Running(config):
        device = HandDevice(links(broker.port))
        device.send(device.manifest(), 1)
        assert device.manifest().version == 1
