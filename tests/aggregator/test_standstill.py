"""A version of which too many updates are rejected: it comes without them, or the operator is told."""

from __future__ import annotations

import numpy as np

from aggregator.commands import Command, Log, SaveAggregation
from aggregator.configuration import AdmissionTable, AggregatorSettings, ScheduleTable
from aggregator.events import MetricsDue, QuarantineRequested
from protocol.link import Received
from protocol.messages import Participation
from protocol.sampling import participates
from protocol.status import DeviceState, WorkName, encode_status
from tests.aggregator.harness import EPOCH, SIZE, Bench, only, settings_with

HUGE = np.full(SIZE, 1e4, np.float32)


def settings_of(goal: int = 4, quorum: int = 1, fraction: float = 1.0) -> AggregatorSettings:
    return settings_with(
        schedule=ScheduleTable(goal=goal, quorum=quorum, interval_s=0.0),
        admission=AdmissionTable(messages_per_s=0.0, bytes_per_s=0.0, quarantine_after=20),
        participation=Participation(codec="f32", sampling_fraction=fraction),
    )


def bench_of(*devices: str, settings: AggregatorSettings | None = None) -> Bench:
    bench = Bench(settings or settings_of())
    for device in devices:
        say(bench, device, "idle")
    return bench


def say(bench: Bench, device: str, state: WorkName) -> None:
    told = DeviceState(device_id=device, state=state)
    bench.feed(Received(topic=bench.topics.device_state(device), payload=encode_status(told)))


def good(bench: Bench, *devices: str) -> None:
    for device in devices:
        assert bench.answer(bench.update(device), device).status == "accepted"


def bad(bench: Bench, *devices: str) -> None:
    for device in devices:
        assert bench.answer(bench.update(device, delta=HUGE), device).reason.startswith("norm: ")


def look(bench: Bench) -> list[Command]:
    return bench.feed(MetricsDue())


def complaints(commands: list[Command]) -> list[str]:
    return [log.text for log in only(commands, Log) if log.level == "error"]


def test_the_goal_is_out_of_reach_because_of_one_that_is_rejected() -> None:
    bench = bench_of("a", "b", "c", "d")
    good(bench, "a", "b", "c")
    look(bench)
    assert bench.version == 0, "it waits for the fourth"
    bad(bench, "d")
    assert bench.version == 0, "others are told of their refusal first, and looked at now and then"

    commands = look(bench)

    assert bench.version == 1
    (saved,) = only(commands, SaveAggregation)
    assert [line.device_id for line in saved.aggregation.lineage] == ["a", "b", "c"]
    (told,) = [log for log in only(commands, Log) if log.level == "warning"]
    assert told.fields == {"updates": 3, "refused": 1}
    counters = bench.core.fleet.counters
    assert counters.accepted == counters.folded == 3


def test_not_while_anybody_may_still_send() -> None:
    bench = bench_of("a", "b", "c", "d", "e")
    good(bench, "a", "b", "c")
    bad(bench, "d")
    look(bench)
    assert bench.version == 0, "e may be training"
    say(bench, "e", "lost")
    look(bench)
    assert bench.version == 1


def test_devices_that_are_away_are_no_reason() -> None:
    bench = bench_of("a", "b")
    good(bench, "a", "b")
    look(bench)
    assert bench.version == 0, "the goal is what the operator wants; nobody was refused"


def test_those_that_were_refused_do_not_count_for_more_than_they_are() -> None:
    bench = bench_of("a", "b", "d")
    good(bench, "a", "b")
    for _ in range(5):
        bad(bench, "d")
    look(bench)
    assert bench.version == 0, "three devices are not four"


def test_never_below_the_quorum_and_never_of_nothing() -> None:
    bench = bench_of("a", "b", "c", "d", settings=settings_of(quorum=3))
    good(bench, "a", "b")
    bad(bench, "c", "d")
    look(bench)
    assert bench.version == 0
    good(bench, "c")
    look(bench)
    assert bench.version == 1, "c had another try"


def test_a_quarantined_device_is_waited_for_by_nobody() -> None:
    bench = bench_of("a", "b", "c", "d")
    good(bench, "a", "b", "c")
    bench.feed(QuarantineRequested(request_id="1", device_id="d", reason="not ours"))
    look(bench)
    assert bench.version == 1


def test_who_was_not_drawn_for_the_version_is_waited_for_by_nobody() -> None:
    drawn = [name for name in map(str, range(40)) if participates(name, EPOCH, 0, 0.5)][:4]
    other = next(name for name in map(str, range(40)) if not participates(name, EPOCH, 0, 0.5))
    bench = bench_of(*drawn, other, settings=settings_of(fraction=0.5))
    good(bench, *drawn[:3])
    bad(bench, drawn[3])
    look(bench)
    assert bench.version == 1


def test_when_everybody_is_refused_the_operator_is_told_once_for_each_version() -> None:
    bench = bench_of("a", "b")
    bad(bench, "a", "b")
    (told,) = complaints(look(bench))
    assert told == "no device's update of version 0 is accepted: 2 refused, nobody else is there"
    assert complaints(look(bench)) == []
    assert bench.version == 0
    good(bench, "a", "b")
    assert complaints(look(bench)) == []


def test_a_restart_knows_who_was_refused() -> None:
    bench = bench_of("a", "b", "c", "d")
    good(bench, "a", "b", "c")
    bad(bench, "d")
    bench = bench.restart()
    look(bench)
    assert bench.version == 1


def test_the_rejected_update_and_the_one_after_it_count_once_together() -> None:
    bench = bench_of("a", "b", settings=settings_of(goal=2))
    bad(bench, "a")
    good(bench, "a")
    again = bench.answer(bench.update("a"), "a")
    assert (again.status, again.reason.split(":")[0]) == ("retry", "one-per-version"), "no turn was won by it"
    good(bench, "b")
    assert bench.version == 1
    counters = bench.core.fleet.counters
    assert (counters.accepted, counters.folded, counters.rejected) == (2, 2, 1)
