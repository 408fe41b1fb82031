"""A device that is refused again and again is not looked at any more, until an operator says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.adapters.inbox import Inbox
from aggregator.adapters.operating import quarantine
from aggregator.adapters.preparing import prepare
from aggregator.adapters.registry import open_registry
from aggregator.commands import Log, Reply
from aggregator.configuration import AdmissionTable, ScheduleTable
from aggregator.events import QuarantineRequested
from aggregator.intake import QUARANTINE_RETRY_S
from fedmq.embedded_broker import EmbeddedBroker
from protocol.link import Received
from tests.aggregator.harness import SIZE, Bench, only, settings_with
from tests.support.aggregators import HandDevice, Running, write_config
from tests.support.links import Links

LIMIT = 5
HUGE = np.full(SIZE, 1e4, np.float32)


def bench_of(**limits: Any) -> Bench:
    limits = {"messages_per_s": 0.0, "bytes_per_s": 0.0, "quarantine_after": LIMIT} | limits
    return Bench(settings_with(schedule=ScheduleTable(goal=0, interval_s=60.0), admission=AdmissionTable(**limits)))


def ask(bench: Bench, device: str, reason: str) -> Reply:
    (reply,) = only(bench.feed(QuarantineRequested(request_id="1", device_id=device, reason=reason)), Reply)
    return reply


def fail(bench: Bench, device: str, times: int) -> list[str]:
    return [bench.answer(bench.update(device, delta=HUGE), device).reason.partition(":")[0] for _ in range(times)]


def test_refused_again_and_again() -> None:
    bench = bench_of()
    assert fail(bench, "a", LIMIT) == ["norm"] * LIMIT
    bench.now += 2.0

    receipt = bench.answer(bench.update("a"), "a")

    assert (receipt.status, receipt.next_after_s) == ("retry", QUARANTINE_RETRY_S)
    assert receipt.reason == "quarantined: an operator has to release this device"
    assert bench.core.fleet.quarantined == 1
    assert bench.core.status.metrics().devices_quarantined == 1
    assert len(bench.core.ledger.buffer) == 0


def test_the_operator_is_told_once_and_why() -> None:
    bench = bench_of()
    logs = [log for _ in range(LIMIT + 3) for log in only(bench.send(bench.update("a", delta=HUGE), "a"), Log)]
    assert len(logs) == 1
    assert (logs[0].text, logs[0].fields["device"]) == ("quarantine", "a")
    assert str(logs[0].fields["reason"]).startswith("5 updates refused in a row, at last: norm: norm 38")


def test_one_that_is_accepted_in_between_begins_the_count_anew() -> None:
    bench = bench_of()
    for _ in range(3):
        assert "quarantined" not in fail(bench, "a", LIMIT - 1)
        assert bench.answer(bench.update("a"), "a").status == "accepted"


@pytest.mark.parametrize(
    "fields", [{"epoch": "a" * 16}, {"layout": "0" * 64}, {"base_version": 99}], ids=["epoch", "layout", "version"]
)
def test_what_the_aggregator_s_own_past_explains_is_forgiven(fields: dict[str, Any]) -> None:
    bench = bench_of()
    for _ in range(3 * LIMIT):
        assert bench.answer(bench.update("a", **fields), "a").status == "rejected"
    assert bench.core.fleet.quarantined == 0


def test_stale_duplicate_and_early_updates_are_no_fault() -> None:
    bench = bench_of()
    first = bench.update("a")
    for _ in range(3 * LIMIT):
        bench.send(first, "a")
    assert bench.core.fleet.quarantined == 0


def test_noise_leads_there_too() -> None:
    bench = bench_of()
    for _ in range(LIMIT):
        bench.send(b"noise", "a")
    assert bench.core.fleet.quarantined == 1


def test_zero_means_never() -> None:
    bench = bench_of(quarantine_after=0)
    fail(bench, "a", 100)
    assert bench.core.fleet.quarantined == 0


def test_it_survives_a_restart_and_others_are_not_touched() -> None:
    bench = bench_of()
    fail(bench, "a", LIMIT)

    again = bench.restart()

    assert again.answer(again.update("a"), "a").reason.startswith("quarantined")
    assert again.answer(again.update("b"), "b").status == "accepted"


def test_a_release_starts_the_count_anew() -> None:
    bench = bench_of()
    fail(bench, "a", LIMIT)

    assert ask(bench, "a", "").body == {"device": "a", "released": True}
    assert ask(bench, "a", "").body == {"device": "a", "released": False}
    assert ask(bench, "never-seen", "").body == {"device": "never-seen", "released": False}

    assert "quarantined" not in fail(bench, "a", LIMIT - 1)
    assert bench.answer(bench.update("a"), "a").status == "accepted"


def test_an_operator_can_put_a_device_there_that_was_never_seen() -> None:
    bench = bench_of()
    assert ask(bench, "stolen", "stolen on Monday").body == {"device": "stolen", "quarantined": "stolen on Monday"}
    assert bench.answer(bench.update("stolen"), "stolen").reason.startswith("quarantined")
    assert bench.core.fleet.devices["stolen"].quarantined == "stolen on Monday"


def test_a_full_fleet_says_so() -> None:
    bench = bench_of(max_devices=1)
    bench.send(bench.update("a"), "a")
    assert "fleet-full" in ask(bench, "b", "because").error


def test_on_a_running_aggregator_and_on_its_store(broker: EmbeddedBroker, tmp_path: Path, links: Links) -> None:
    config = write_config(tmp_path, broker.port)
    prepared = prepare(config)
    with Running(config):
        device = HandDevice(links(broker.port, "device"), "dev-1")
        manifest = device.manifest()  # from here on it can be asked
        assert quarantine(prepared, "dev-1", "a test")["quarantined"] == "a test"
        device.send(manifest, 1)
        assert device.receipt(1).reason.startswith("quarantined")
    assert quarantine(prepared, "dev-1", "") == {"device": "dev-1", "released": True}
    assert quarantine(prepared, "dev-2", "offline")["quarantined"] == "offline"
    with open_registry(prepared.state_dir) as registry:
        found = {record.device_id: record.quarantined for record in registry.status().devices}
    assert found == {"dev-1": "", "dev-2": "offline"}


def test_a_flood_crowds_only_itself_out_of_the_inbox() -> None:
    inbox = Inbox(max_waiting=3)
    flood = [Received(topic="up/flood", payload=b"x", mid=i) for i in range(1, 101)]
    honest = [Received(topic=f"up/{i}", payload=b"y", mid=200 + i) for i in range(20)]
    for event in (*flood, *honest):
        assert inbox.deliver(event)

    taken = [event for _ in range(3) for event in inbox.take(0.0) if isinstance(event, Received)]

    assert [event.mid for event in taken] == [event.mid for event in (*flood, *honest)], "each has to be acknowledged"
    assert [event for event in taken if event.topic.startswith("up/flood")] == flood[:3]
    assert [event for event in taken if event.payload == b"y"] == honest
    assert inbox.dropped == 97
    assert inbox.deliver(flood[0])
    assert inbox.take(0.0) == [flood[0]], "there is room again"
