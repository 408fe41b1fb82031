from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from aggregator.admission import Refused
from aggregator.commands import Acknowledge, Log, SaveFleet
from aggregator.configuration import AdmissionTable
from aggregator.fleet import MAX_REFUSAL_CODES, Fleet
from aggregator.records import Counters, DeviceRecord, JournalEntry
from protocol.link import Received
from protocol.status import DeviceMetrics, DeviceState, WorkName, encode_status
from tests.aggregator.harness import Bench, only, settings_with
from tests.support.stores import contribution


def entry(staleness: int) -> JournalEntry:
    return JournalEntry(contribution=replace(contribution(), staleness=staleness), codec="f32", delta=b"", norm=2.5)


def fleet_of(*records: DeviceRecord, limit: int = 100) -> Fleet:
    return Fleet(records, Counters(), limit)


def state(device: str, work: WorkName, version: int | None = 3) -> DeviceState:
    return DeviceState(device_id=device, state=work, version=version)


def test_who_is_there() -> None:
    fleet = fleet_of()
    for name, work in (("a", "idle"), ("b", "training"), ("c", "sleeping"), ("d", "lost"), ("e", "stopped")):
        fleet.note_state(name, DeviceState(device_id=name, state=work), 1.0, retained=False)  # type: ignore[arg-type]
    fleet.seen("f", 1.0)

    assert fleet.online_estimate == 3
    fleet.note_state("a", state("a", "lost"), 2.0, retained=False)
    fleet.note_state("d", state("d", "idle"), 2.0, retained=False)
    fleet.note_state("d", state("d", "training"), 3.0, retained=False)
    assert fleet.online_estimate == 3
    fleet.refresh()
    assert fleet.online_estimate == 3


def test_a_retained_state_says_nothing_of_when() -> None:
    fleet = fleet_of(DeviceRecord(device_id="a", first_seen=1.0, last_seen=5.0))

    fleet.note_state("a", state("a", "idle"), 99.0, retained=True)
    assert fleet.devices["a"].last_seen == 5.0
    fleet.note_state("a", state("a", "idle", None), 99.0, retained=False)

    assert (fleet.devices["a"].last_seen, fleet.devices["a"].version) == (99.0, 3)


def test_a_full_fleet_takes_no_strangers() -> None:
    fleet = fleet_of(limit=2)
    fleet.seen("a", 1.0)
    fleet.seen("b", 1.0)

    with pytest.raises(Refused) as caught:
        fleet.seen("c", 1.0)

    assert (caught.value.status, caught.value.code) == ("rejected", "fleet-full")
    fleet.seen("a", 2.0)
    assert list(fleet.devices) == ["a", "b"]


def test_only_what_changed_is_stored_and_only_once() -> None:
    fleet = fleet_of(*(DeviceRecord(device_id=str(i)) for i in range(1000)))
    assert fleet.take_dirty() is None

    fleet.accepted(fleet.seen("7", 1.0), entry(0), 100)
    dirty = fleet.take_dirty()

    assert dirty is not None
    assert [record.device_id for record in dirty[0]] == ["7"]
    assert fleet.take_dirty() is None


def test_staleness_has_a_bounded_histogram() -> None:
    fleet = fleet_of()
    for tau in (0, 0, 15, 16, 500, 10**9):
        fleet.accepted(fleet.seen("a", 1.0), entry(tau), 10)

    assert fleet.counters.staleness == {"0": 2, "15": 1, "16+": 3}
    assert fleet.devices["a"].last_staleness == 10**9


def test_reasons_are_bounded() -> None:
    fleet = fleet_of()
    for i in range(1000):
        fleet.refused(None, "rejected", f"code-{i}")

    assert len(fleet.counters.refusals) == MAX_REFUSAL_CODES
    assert fleet.counters.rejected == 1000


def test_records_of_devices_are_not_shared_with_what_was_restored() -> None:
    record, counters = DeviceRecord(device_id="a"), Counters()
    fleet = Fleet((record,), counters, 10)

    fleet.refused(fleet.seen("a", 1.0), "rejected", "norm")

    assert (record.rejected, record.refusals, counters.rejected, counters.refusals) == (0, {}, 0, {})


# -- through the core, as bytes -------------------------------------------------------------------------------------


def test_what_a_device_says_of_itself_is_kept() -> None:
    bench = Bench()
    state_topic, metrics_topic = bench.topics.device_state("dev"), bench.topics.device_metrics("dev")
    bench.feed(Received(topic=state_topic, payload=encode_status(state("dev", "training"))))
    figures = DeviceMetrics(device_id="dev", training_s=1.5, holdout_accuracy=0.75)
    commands = bench.feed(Received(topic=metrics_topic, payload=encode_status(figures), qos=0))

    (record,) = only(commands, SaveFleet)[0].devices
    assert (record.state, record.version, record.training_s, record.holdout_accuracy) == ("training", 3, 1.5, 0.75)
    assert record.last_seen == bench.now


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"\xff\xfe",
        b"[1]",
        b'{"device_id":"dev","state":"dancing"}',
        b'{"device_id":"dev","state":"idle","version":true}',
        b'{"device_id":"dev","state":"idle","version":"3"}',
        b'{"device_id":"dev","state":"idle","version":1e400}',
        b'{"state":"idle"}',
        b"[" * 100_000,
        b'{"a":' * 3000,
        b'{"device_id":"dev","state":"idle","reason":"' + b"x" * 20_000 + b'"}',
    ],
)
def test_a_wrong_report_is_counted_acknowledged_and_otherwise_ignored(payload: bytes) -> None:
    bench = Bench()
    before = bench.bits()
    received = Received(topic=bench.topics.device_state("dev"), payload=payload, mid=4)

    commands = bench.feed(received)

    assert only(commands, Acknowledge) == [Acknowledge(received)]
    assert only(commands, Log)[0].level == "warning"
    assert len(only(commands, Log)[0].text) < 1000
    assert bench.refusals == {"malformed": 1}
    assert not bench.core.fleet.devices
    assert bench.bits() == before


@pytest.mark.parametrize("kind", ["state", "metrics"])
def test_nobody_speaks_for_another_device(kind: str) -> None:
    bench = Bench()
    topic = f"{bench.topics.root}/device/dev/{kind}"
    payload = msgspec.json.encode({"device_id": "other", "state": "idle", "training_s": 1.0})

    bench.feed(Received(topic=topic, payload=payload))

    assert bench.refusals == {"wrong-device": 1}
    assert not bench.core.fleet.devices


def test_a_full_fleet_says_so_on_every_topic() -> None:
    bench = Bench(settings_with(admission=AdmissionTable(max_devices=1)))
    bench.send(bench.update("first"), "first")

    payload = encode_status(state("second", "idle"))
    bench.feed(Received(topic=bench.topics.device_state("second"), payload=payload))
    receipt = bench.answer(bench.update("second"), "second")

    assert receipt.status == "rejected"
    assert receipt.reason.startswith("fleet-full")
    assert bench.refusals == {"fleet-full": 2}
    assert bench.answer(bench.update("first"), "first").status == "accepted"


def test_a_cleared_state_is_nothing() -> None:
    bench = Bench()

    bench.feed(Received(topic=bench.topics.device_state("dev"), payload=b""))

    assert not bench.refusals
    assert not bench.core.fleet.devices


def test_the_fleet_survives_a_restart_without_anything_retained() -> None:
    bench = Bench()
    bench.feed(Received(topic=bench.topics.device_state("dev"), payload=encode_status(state("dev", "idle"))))
    bench.send(bench.update())
    bench.send(b"junk")

    again = bench.restart()

    assert again.core.fleet.devices == bench.core.fleet.devices
    assert again.core.fleet.counters == bench.core.fleet.counters
    assert again.core.fleet.online_estimate == 1


def test_figures_of_devices_add_up_to_the_sums() -> None:
    bench = Bench()
    for name in ("a", "b"):
        good = bench.update(name)
        bench.send(good, name)
        bench.send(good, name)
        bench.send(bench.update(name, base_version=5), name)
        bench.send(bench.raw(device_id="c"), name)
        bench.send(bench.probe(bench.update(name)), name)
        bench.send(b"junk", name)

    counters, devices = bench.core.fleet.counters, bench.core.fleet.devices.values()
    for name in ("accepted", "duplicate", "stale", "rejected", "retry", "bytes_received"):
        assert getattr(counters, name) == sum(getattr(record, name) for record in devices), name
    assert (counters.accepted, counters.duplicate, counters.rejected, counters.retry) == (2, 2, 6, 2)
