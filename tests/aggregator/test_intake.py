"""What becomes of updates: journalled, answered, counted once, whole or in chunks."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from aggregator.commands import Acknowledge, Command, Journal, Publish, SaveAggregation
from aggregator.configuration import AdmissionTable, PaceTable, ScheduleTable
from aggregator.events import MetricsDue, StoreFailed
from protocol.chunks import blob_of
from protocol.link import Received
from protocol.messages import Participation
from protocol.packing import encode
from tests.aggregator.harness import Bench, only, settings_with

LONG = settings_with(schedule=ScheduleTable(goal=0, interval_s=60.0))
"""Nothing closes the buffer by itself."""


@pytest.fixture
def bench() -> Bench:
    made = Bench(LONG)
    made.send(made.update("steady"), "steady")
    return made


def order_of(commands: list[Command]) -> list[str]:
    return [type(c).__name__ for c in commands if isinstance(c, Journal | SaveAggregation | Publish | Acknowledge)]


def test_validate_persist_then_acknowledge() -> None:
    bench = Bench(LONG)

    commands = bench.send(bench.update())

    assert order_of(commands) == ["Journal", "Publish", "Acknowledge"]


def test_the_journal_holds_what_a_restart_needs() -> None:
    bench = Bench(LONG)
    update = bench.update(codec="int8", metrics={"loss": 0.5})

    (command,) = only(bench.send(update), Journal)

    entry = command.entry
    assert (entry.codec, entry.delta) == ("int8", update.delta)
    line = entry.contribution
    assert (line.device_id, line.incarnation, line.sequence) == ("dev", update.incarnation, update.sequence)
    assert (line.num_examples, line.num_steps, line.weight, line.staleness) == (10, 2, 10.0, 0)
    assert line.metrics == {"loss": 0.5}
    assert line.update_bytes == len(encode(update))


def test_a_thousand_duplicates_count_once() -> None:
    bench = Bench(LONG)
    update = bench.update()
    bench.send(update)
    once = bench.bits()

    receipts = [bench.answer(update) for _ in range(999)]

    assert {(receipt.status, receipt.reason) for receipt in receipts} == {("duplicate", "")}
    assert bench.bits() == once
    counters = bench.core.fleet.counters
    assert (counters.accepted, counters.folded, counters.duplicate, counters.received) == (1, 1, 999, 1000)
    assert len(bench.restored.journal) == 1


def test_a_duplicate_is_known_after_restarts_versions_and_rollbacks() -> None:
    bench = Bench(settings_with(schedule=ScheduleTable(goal=1)))
    update = bench.update()
    bench.send(update)
    assert bench.version == 1

    for _ in range(3):
        bench = bench.restart()
        assert bench.answer(update).status == "duplicate"
        for chunk in bench.chunks(update):
            assert bench.answer(chunk).status == "duplicate"
        assert bench.answer(bench.probe(update)).status == "duplicate"
    assert bench.version == 1


def test_a_new_outbox_of_the_same_device_is_not_a_duplicate() -> None:
    bench = Bench(LONG)
    bench.send(bench.update(sequence=5))

    assert bench.answer(bench.update(sequence=5, incarnation="d" * 16)).status == "accepted"
    assert bench.answer(bench.update(sequence=4)).status == "duplicate"


def test_a_refused_update_may_be_sent_right_under_the_same_number() -> None:
    bench = Bench(LONG)
    assert bench.answer(bench.update(sequence=3, num_examples=10**7)).status == "rejected"

    assert bench.answer(bench.update(sequence=3)).status == "accepted"


def test_one_update_per_version_and_device() -> None:
    once = Participation(codec="f32", contributions_per_version=1)
    bench = Bench(settings_with(schedule=ScheduleTable(goal=2), participation=once))
    bench.send(bench.update("a"), "a")
    second = bench.update("a")
    before = bench.bits()

    receipt = bench.answer(second, "a")

    assert receipt.status == "retry"
    assert receipt.reason.startswith("one-per-version")
    assert receipt.next_after_s > 0
    assert bench.bits() == before
    bench.send(bench.update("b"), "b")
    assert bench.version == 1
    assert bench.answer(second, "a").status == "accepted", "kept by its device, and now one version old"


def test_a_limit_of_three() -> None:
    bench = Bench(settings_with(schedule=LONG.schedule, participation=Participation(contributions_per_version=3)))

    assert [bench.answer(bench.update()).status for _ in range(5)] == ["accepted"] * 3 + ["retry"] * 2


def test_receipts_carry_the_pace() -> None:
    bench = Bench(settings_with(schedule=LONG.schedule, pace=PaceTable(updates_per_s=0.5)))
    bench.core.fleet.online_estimate = 10
    assert bench.answer(bench.update()).next_after_s == 20.0
    bench.core.load = 1.0
    assert bench.answer(bench.update()).next_after_s == 30.0


# -- chunks and probes ------------------------------------------------------------------------------------------------


def test_an_update_in_chunks_counts_as_one() -> None:
    bench = Bench(LONG)
    update = bench.update()
    *first, last = bench.chunks(update)
    for chunk in first:
        commands = bench.send(chunk)
        assert order_of(commands) == ["Acknowledge"]

    commands = bench.send(last)

    assert order_of(commands) == ["Journal", "Publish", "Acknowledge"]
    assert only(commands, Journal)[0].entry.contribution.update_bytes == len(encode(update))
    assert bench.answer(last).status == "duplicate"
    whole = Bench(LONG)
    whole.send(update)
    assert whole.bits() == bench.bits()


def test_a_probe_tells_what_is_missing() -> None:
    bench = Bench(LONG)
    update = bench.update()
    chunks = bench.chunks(update)
    assert bench.answer(bench.probe(update)).missing == []
    for chunk in (chunks[0], chunks[2]):
        bench.send(chunk)

    receipt = bench.answer(bench.probe(update))

    assert receipt.status == "retry"
    assert receipt.missing == [i for i in range(len(chunks)) if i not in (0, 2)]
    for index in receipt.missing:
        commands = bench.send(chunks[index])
    assert bench.receipts(commands)[0].status == "accepted"
    assert bench.answer(bench.probe(update)).status == "duplicate"


def test_uploads_that_never_end_are_forgotten() -> None:
    bench = Bench(settings_with(schedule=LONG.schedule, admission=AdmissionTable(assembly_timeout_s=60.0)))
    update = bench.update()
    bench.send(bench.chunks(update)[0])
    bench.now += 59.0
    bench.feed(MetricsDue())
    assert bench.answer(bench.probe(update)).missing

    bench.now += 1.0
    bench.feed(MetricsDue())

    assert bench.answer(bench.probe(update)).missing == []


def test_many_unfinished_uploads_stay_within_the_bound() -> None:
    bench = Bench(settings_with(schedule=LONG.schedule, admission=AdmissionTable(max_assembly_bytes=4096)))
    for i in range(200):
        name = f"d{i}"
        bench.send(bench.chunks(bench.update(name))[0], name)

    assert bench.core._intake._uploads.total_bytes <= 4096


def test_a_restart_forgets_unfinished_uploads_and_the_probe_says_so() -> None:
    bench = Bench(LONG)
    update = bench.update()
    bench.send(bench.chunks(update)[0])

    again = bench.restart()

    receipt = again.answer(again.probe(update))
    assert (receipt.status, receipt.missing) == ("retry", [])


@pytest.mark.parametrize(
    ("inner", "outer", "code"),
    [
        ({"sequence": 7}, {"sequence": 8}, "malformed"),
        ({"incarnation": "a" * 16}, {"incarnation": "b" * 16}, "malformed"),
        ({"device": "other"}, {"device_id": "dev"}, "wrong-device"),
        ({"federation": "elsewhere"}, {"federation": "bench"}, "other-federation"),
        ({}, {"device_id": "other"}, "wrong-device"),
        ({}, {"federation": "elsewhere"}, "other-federation"),
    ],
)
def test_chunks_cannot_smuggle(bench: Bench, inner: dict[str, Any], outer: dict[str, Any], code: str) -> None:
    before = bench.bits()
    for chunk in bench.chunks(bench.update(**inner), 1000, **outer):
        commands = bench.send(chunk)

    (receipt,) = bench.receipts(commands)
    assert receipt.status == "rejected"
    assert receipt.reason.startswith(code)
    assert receipt.device_id == "dev"
    assert bench.bits() == before


def test_chunks_of_something_else_than_an_update(bench: Bench) -> None:
    update = bench.update()
    for whole in (b"junk" * 20, encode(bench.probe(update)), bench.raw(num_examples=True)):
        (chunk,) = bench.chunks(update, 1000)
        forged = msgpack.unpackb(encode(chunk))
        blob = blob_of(whole, "update", 1000)
        forged["blob"] = {
            "digest": blob.digest,
            "total_bytes": len(whole),
            "chunk_bytes": 1000,
            "encoding": "update",
        }
        forged["data"] = whole
        receipt = bench.answer(msgpack.packb(forged))
        assert receipt.status == "rejected"
        assert receipt.reason.startswith("malformed")


def test_a_huge_claim_is_refused_at_its_first_chunk(bench: Bench) -> None:
    forged = msgpack.unpackb(encode(bench.chunks(bench.update())[0]))
    forged["blob"] |= {"total_bytes": 200 * 2**20, "chunk_bytes": 65536}

    receipt = bench.answer(msgpack.packb(forged))

    assert receipt.status == "rejected"
    assert receipt.reason.startswith("oversized")


def test_a_claim_of_countless_chunks_is_malformed(bench: Bench) -> None:
    forged = msgpack.unpackb(encode(bench.chunks(bench.update())[0]))
    forged["blob"] |= {"total_bytes": 200 * 2**20, "chunk_bytes": 1}

    assert bench.answer(msgpack.packb(forged)).reason.startswith("malformed")


# -- a store that cannot store ----------------------------------------------------------------------------------------


def test_when_nothing_can_be_stored_devices_keep_their_updates() -> None:
    bench = Bench(LONG)
    before = bench.bits()
    update = bench.update()
    lost = (
        bench.message(encode(update)),
        bench.message(b"junk"),
        Received(topic=bench.topics.device_state("dev"), payload=b"{}", mid=9),
        Received(topic="elsewhere", payload=b"", mid=10),
        MetricsDue(),
    )

    commands = bench.feed(StoreFailed(reason="no space left on device", lost=lost))

    (receipt,) = bench.receipts(commands)
    assert (receipt.status, receipt.sequence) == ("retry", update.sequence)
    assert receipt.reason.startswith("not-stored")
    assert "no space left" in receipt.reason
    assert receipt.next_after_s > 0
    assert [c.received for c in only(commands, Acknowledge)] == list(lost[:4])
    assert bench.bits() == before
    assert bench.answer(update).status == "accepted"
