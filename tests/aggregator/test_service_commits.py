"""While one batch is on its way to the disk the next is decided: nothing is said too early, nothing is lost, no version
is built on what was not stored."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aggregator.adapters import inbox
from aggregator.adapters.control import ControlFailed, RollbackRequest, ask
from aggregator.adapters.opening import open_store
from aggregator.adapters.registry import open_registry
from aggregator.adapters.store import Store
from aggregator.commands import Command
from aggregator.intake import Intake
from aggregator.ledger import Ledger
from fedmq.embedded_broker import EmbeddedBroker
from protocol.adapters.mqtt import MqttLink
from protocol.link import Received
from protocol.messages import Receipt
from protocol.packing import decode_receipt, decode_up
from tests.support.aggregators import HandDevice, Running, spawn, write_config
from tests.support.links import Links, Peer
from tests.support.patience import PATIENCE_S
from tests.support.stores import no_file_larger_than


class Disk:
    """Lets commits pass one by one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._permits = threading.Semaphore(0)
        self.tried = 0
        commit = Store.commit

        def when_permitted(store: Store) -> None:
            self.tried += 1
            assert self._permits.acquire(timeout=PATIENCE_S)
            commit(store)

        monkeypatch.setattr(Store, "commit", when_permitted)

    def permit(self, commits: int) -> None:
        self._permits.release(commits)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.005)


class Stage:
    """A running aggregator that has accepted update 1 and, of a batch for each event, may be given more."""

    def __init__(self, running: Running, peer: Peer, disk: Disk) -> None:
        self.running = running
        self.disk = disk
        self.peer = peer
        self.device = HandDevice(peer)
        self.manifest = self.device.manifest()
        disk.permit(1)  # of the device's state and the like there is nothing to store
        self.send(1)
        assert self.device.receipt(1).status == "accepted"

    def send(self, sequence: int) -> None:
        self.device.send(self.manifest, sequence)

    def behind_one_that_waits(self, *steps: Callable[[], None]) -> None:
        """Leave update 2 waiting for its commit, with what ``steps`` lead to waiting in the inbox."""
        tried = self.disk.tried
        self.send(2)
        until(lambda: self.disk.tried == tried + 1)
        for step in steps:
            before = self.running.service._inbox.waiting
            step()
            until(lambda before=before: self.running.service._inbox.waiting > before)  # type: ignore[misc]

    def one_under_way(self, following: Callable[[], bool]) -> None:
        """Let the commit of update 2 pass; wait until that of update 3 is under way and what follows is decided."""
        tried = self.disk.tried
        self.disk.permit(1)
        until(lambda: self.disk.tried == tried + 1 and following())
        assert self.device.receipt(2).status == "accepted"
        assert self.receipts() == [1, 2]

    @property
    def ledger(self) -> Ledger:
        return self.running.service._core.ledger

    def decided(self, sequence: int) -> bool:
        return sequence in self.ledger.sequences.values()

    def receipts(self) -> list[int]:
        return [receipt.sequence for receipt in receipts(self.peer)]

    def accepted(self) -> list[int]:
        return accepted(self.running.prepared.state_dir)


def receipts(peer: Peer) -> list[Receipt]:
    found = [event for event in peer.inbox.all(Received) if "/receipt/" in event.topic]
    return [decode_receipt(event.payload) for event in found]


def accepted(state_dir: Path) -> list[int]:
    with open_registry(state_dir) as registry:
        return sorted(sequence for _, _, sequence in registry.accepted())


def accepted_of(state_dir: Path, device_id: str) -> set[int]:
    with open_registry(state_dir) as registry:
        return {sequence for device, _, sequence in registry.accepted() if device == device_id}


def versions(state_dir: Path) -> list[int]:
    with open_registry(state_dir) as registry:
        return [line.version for line in registry.versions()]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr("aggregator.adapters.disk_waits.RETRY_MIN_S", 0.01)
    monkeypatch.setattr("aggregator.adapters.disk_waits.RETRY_MAX_S", 0.05)
    monkeypatch.setattr("aggregator.service.WORTH_A_HAND_OVER", 1)
    monkeypatch.setattr(inbox, "BATCH_EVENTS", 1)
    return Disk(monkeypatch)


Staged = Callable[[int], Stage]


@pytest.fixture
def staged(broker: EmbeddedBroker, links: Links, tmp_path: Path, disk: Disk) -> Iterator[Staged]:
    stages: list[Stage] = []

    def make(goal: int) -> Stage:
        running = Running(write_config(tmp_path, broker.port, goal=goal, metrics_s=60.0))
        stages.append(Stage(running, links(broker.port), disk))
        return stages[-1]

    yield make
    disk.permit(1000)
    for stage in stages:
        stage.running.stop()


def test_what_is_decided_meanwhile_is_not_said_before_it_is_stored(staged: Staged) -> None:
    stage = staged(1000)
    stage.behind_one_that_waits(lambda: stage.send(3), lambda: stage.send(4))
    stage.one_under_way(lambda: stage.decided(4))
    assert stage.accepted() == [1, 2]

    stage.disk.permit(1)
    assert stage.device.receipt(3).status == "accepted"
    assert stage.accepted() == [1, 2, 3]
    stage.disk.permit(1)
    assert stage.device.receipt(4).status == "accepted"
    assert stage.accepted() == [1, 2, 3, 4]


def test_replay_of_what_was_committed_so_gives_the_same_bits(staged: Staged) -> None:
    stage = staged(1000)
    stage.behind_one_that_waits(*[lambda n=n: stage.send(n) for n in range(3, 12)])
    stage.disk.permit(1000)
    assert stage.device.receipt(11).status == "accepted"
    assert stage.running.stop() == 0
    live = stage.ledger.buffer
    prepared = stage.running.prepared
    store = open_store(prepared.state_dir, prepared.founding, prepared.settings.registry)
    replayed = Ledger(prepared.settings, prepared.model, store.restore(), prepared.evaluate).buffer
    store.close()
    assert replayed.contributions == live.contributions
    assert replayed.sum.total.tobytes() == live.sum.total.tobytes()
    assert replayed.sum.weight == live.sum.weight


def test_a_commit_that_fails_takes_back_what_was_decided_behind_it_twice_in_a_row(staged: Staged) -> None:
    stage = staged(1000)
    stage.behind_one_that_waits(lambda: stage.send(3), lambda: stage.send(4))
    stage.one_under_way(lambda: stage.decided(4))
    with no_file_larger_than(1):
        stage.disk.permit(1000)
        assert [stage.device.receipt(n).status for n in (3, 4)] == ["retry", "retry"]
        assert not stage.decided(3)
        assert stage.accepted() == [1, 2]
        stage.send(3)
        stage.send(4)
        assert [stage.device.receipt(n).status for n in (3, 4)] == ["retry", "retry"]
        assert stage.accepted() == [1, 2]
    for number in (3, 4):
        while True:
            stage.send(number)
            if (status := stage.device.receipt(number).status) != "retry":
                break
        assert status == "accepted"
    assert stage.accepted() == [1, 2, 3, 4]
    assert [c.sequence for c in stage.ledger.buffer.contributions] == [1, 2, 3, 4]
    assert stage.receipts() == [1, 2, 3, 4, *stage.receipts()[4:]]


def test_no_version_of_updates_that_were_not_stored(staged: Staged) -> None:
    stage = staged(4)
    stage.behind_one_that_waits(lambda: stage.send(3), lambda: stage.send(4))
    stage.one_under_way(lambda: stage.ledger.version.version == 1)
    with no_file_larger_than(1):
        stage.disk.permit(1000)
        assert [stage.device.receipt(n).status for n in (3, 4)] == ["retry", "retry"]
        assert versions(stage.running.prepared.state_dir) == [0]
        assert stage.ledger.version.version == 0
    for number in (3, 4):
        while True:
            stage.send(number)
            if stage.device.receipt(number).status != "retry":
                break
    assert stage.device.manifest().version == 1  # the first that was announced behind version 0
    with open_registry(stage.running.prepared.state_dir) as registry:
        assert [c.sequence for c in registry.lineage(1).contributions] == [1, 2, 3, 4]
    assert versions(stage.running.prepared.state_dir) == [0, 1]


@pytest.mark.parametrize("full", [False, True])
def test_a_rollback_behind_a_version_that_is_not_stored_yet(staged: Staged, *, full: bool) -> None:
    stage = staged(1)
    assert stage.device.manifest().version == 1  # all that announcing it leads to comes before what is sent now
    state_dir = stage.running.prepared.state_dir
    with ThreadPoolExecutor(1) as operator:
        asked = []
        stage.behind_one_that_waits(
            lambda: stage.send(3),
            lambda: asked.append(operator.submit(ask, state_dir, RollbackRequest(version=0))),
        )
        stage.one_under_way(lambda: stage.ledger.version.kind == "rollback")
        if full:
            with no_file_larger_than(1):
                stage.disk.permit(1000)
                with pytest.raises(ControlFailed, match="cannot store"):
                    asked[0].result(PATIENCE_S)
                assert stage.device.receipt(3).status == "retry"
            assert versions(state_dir) == [0, 1, 2]
        else:
            stage.disk.permit(1000)
            assert asked[0].result(PATIENCE_S)["version"] == 4
            assert versions(state_dir) == [0, 1, 2, 3, 4]
            with open_registry(state_dir) as registry:
                assert registry.parameters(4) == registry.parameters(0)


@pytest.mark.parametrize("full", [False, True])
def test_stopping_while_a_commit_is_under_way(staged: Staged, *, full: bool) -> None:
    stage = staged(1000)
    stage.behind_one_that_waits(lambda: stage.send(3), stage.running.service.stop, lambda: stage.send(4))
    stage.one_under_way(lambda: stage.running.service._core._speaker.stopping)
    if full:
        with no_file_larger_than(1):
            stage.disk.permit(1000)
            assert stage.running.stop() == 0
    else:
        stage.disk.permit(1000)
        assert stage.running.stop() == 0
    stage.device.state("offline")
    status = next(receipt.status for receipt in receipts(stage.peer) if receipt.sequence == 3)
    assert status == ("retry" if full else "accepted")
    assert stage.accepted() == ([1, 2] if full else [1, 2, 3])


def test_a_message_that_breaks_the_core_while_a_commit_is_under_way(
    staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = staged(1000)
    sound = Intake.receive
    broken = threading.Event()

    def receive(self: Intake, device_id: str, received: Received, now: float, wall: float) -> list[Command]:
        if received.payload == b"poison":
            broken.set()
            raise ZeroDivisionError
        return sound(self, device_id, received, now, wall)

    monkeypatch.setattr(Intake, "receive", receive)
    topic = stage.device.topics.update("press-01")
    stage.behind_one_that_waits(
        lambda: stage.send(3), lambda: stage.peer.publish(topic, b"poison"), lambda: stage.send(4)
    )
    stage.one_under_way(broken.is_set)
    stage.disk.permit(1000)
    assert stage.device.receipt(3).status == "accepted"
    assert stage.device.receipt(4).status == "accepted"
    assert stage.receipts() == [1, 2, 3, 4]
    assert stage.accepted() == [1, 2, 3, 4]


def test_acknowledged_in_order_of_arrival_and_only_when_stored(
    broker: EmbeddedBroker, links: Links, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.service.WORTH_A_HAND_OVER", 1)
    monkeypatch.setattr(inbox, "BATCH_EVENTS", 5)
    acknowledged: list[tuple[int, int]] = []
    too_early: list[int] = []
    acknowledge = MqttLink.acknowledge

    def watched(link: MqttLink, received: Received) -> None:
        if "/up/" in received.topic:
            sequence = decode_up(received.payload).sequence
            acknowledged.append((received.mid, sequence))
            if sequence not in accepted(tmp_path / "state"):
                too_early.append(sequence)
        acknowledge(link, received)

    monkeypatch.setattr(MqttLink, "acknowledge", watched)
    with Running(write_config(tmp_path, broker.port, goal=7)):
        device = HandDevice(links(broker.port))
        manifest = device.manifest()
        for sequence in range(1, 61):
            device.send(manifest, sequence)
        assert device.receipt(60).status == "accepted"
    assert [sequence for _, sequence in acknowledged] == list(range(1, 61))
    assert acknowledged == sorted(acknowledged)
    assert too_early == []


def test_killed_with_much_under_way(broker: EmbeddedBroker, links: Links, tmp_path: Path) -> None:
    config = write_config(tmp_path, broker.port, goal=50)
    # Some 48 KB each, so that a few are enough to lie beside the database.
    config.write_text(config.read_text().replace("inputs = 4", "inputs = 3999"))
    peers = [links(broker.port, f"tester-{number}") for number in range(4)]
    devices = [HandDevice(peer, f"press-{number}") for number, peer in enumerate(peers)]
    chance = random.Random(3)
    process = spawn(config, tmp_path / "log")
    manifest = devices[0].manifest()
    rounds, each = 3, 20  # fewer of one device than the inbox takes
    for first in range(1, rounds * each, each):
        for sequence in range(first, first + each):
            for device in devices:
                device.send(manifest, sequence)
        devices[0].receipt(chance.randint(first, first + each - 3))
        process.kill()
        process.wait()
        for device, peer in zip(devices, peers, strict=True):
            said = {receipt.sequence for receipt in receipts(peer) if receipt.status == "accepted"}
            assert said <= accepted_of(tmp_path / "state", device.device_id)
        process = spawn(config, tmp_path / "log")

    for device, peer in zip(devices, peers, strict=True):
        answered = {receipt.sequence for receipt in receipts(peer)}
        for sequence in range(1, rounds * each + 1):  # as a device does that has heard nothing
            if sequence not in answered:
                device.send(manifest, sequence)
                assert device.receipt(sequence).status in {"accepted", "duplicate"}
    process.kill()
    process.wait()
    for device in devices:
        assert accepted_of(tmp_path / "state", device.device_id) == set(range(1, rounds * each + 1))
    assert len(accepted(tmp_path / "state")) == len(devices) * rounds * each
    assert versions(tmp_path / "state") == list(range(1 + len(devices) * rounds * each // 50))
    assert "Traceback" not in (tmp_path / "log").read_text()
