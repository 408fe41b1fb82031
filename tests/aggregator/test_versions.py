"""When versions are made, withheld and rolled back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.commands import Acknowledge, Command, Journal, Log, Publish, Reply, SaveAggregation, SaveFleet
from aggregator.configuration import AggregationTable, DownlinkTable, EvaluationTable, ScheduleTable
from aggregator.events import (
    RollbackRequested,
    ScheduleDue,
)
from protocol.messages import Participation
from tests.aggregator.canaries import announced
from tests.aggregator.harness import SIZE, Bench, only, settings_with

WHEN_ASKED = ScheduleTable(goal=0, interval_s=60.0)


def kinds(commands: list[Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def numbers(bench: Bench) -> tuple[int, int, int, int]:
    counters = bench.core.fleet.counters
    return counters.accepted, counters.folded, counters.set_aside, len(bench.core.ledger.buffer)


# -- when a version is made -----------------------------------------------------------------------------


def test_a_goal_makes_a_version_at_once() -> None:
    bench = Bench(settings_with(schedule=ScheduleTable(goal=3)))

    assert [bench.send(bench.update()) and bench.version for _ in range(7)] == [0, 0, 1, 1, 1, 2, 2]


def test_the_clock_makes_a_version_of_what_there_is() -> None:
    bench = Bench(settings_with(schedule=ScheduleTable(goal=3, interval_s=60.0)))
    bench.send(bench.update())

    bench.feed(ScheduleDue())

    assert bench.version == 1
    assert not only(bench.feed(ScheduleDue()), SaveAggregation), "an empty buffer makes no version"


@pytest.mark.parametrize("goal", [0, 2])
def test_never_below_the_quorum(goal: int) -> None:
    bench = Bench(settings_with(schedule=ScheduleTable(goal=goal, interval_s=60.0, quorum=4)))
    for _ in range(3):
        bench.send(bench.update())
        bench.feed(ScheduleDue())
    assert bench.version == 0

    bench.send(bench.update())
    bench.feed(ScheduleDue())

    assert bench.version == 1
    assert bench.core.ledger.version.num_updates == 4


def test_a_goal_that_was_lowered_is_reached_by_the_next_message() -> None:
    once = Participation(codec="f32")
    bench = Bench(settings_with(schedule=ScheduleTable(goal=10), participation=once))
    for name in "abc":
        bench.send(bench.update(name), name)

    again = bench.restart(settings_with(schedule=ScheduleTable(goal=3), participation=once))
    again.send(again.update("a", sequence=99), "a")

    assert again.version == 1


def test_the_version_is_stored_before_anybody_hears_of_it() -> None:
    bench = Bench(settings_with(schedule=ScheduleTable(goal=1)))

    commands = bench.send(bench.update())

    stored = [i for i, c in enumerate(commands) if isinstance(c, Journal | SaveAggregation)]
    journal, saved = stored
    receipt = next(i for i, c in enumerate(commands) if isinstance(c, Publish) and "/receipt/" in c.topic)
    announced = [i for i, c in enumerate(commands) if isinstance(c, Publish) and "/receipt/" not in c.topic]
    assert journal < receipt
    assert journal < saved < min(announced)
    acknowledged = next(i for i, c in enumerate(commands) if isinstance(c, Acknowledge))
    assert acknowledged > max(stored)
    assert kinds(commands)[-2:] == ["Acknowledge", "SaveFleet"]


def test_staleness_counts_from_the_version_at_acceptance() -> None:
    bench = Bench(settings_with(schedule=ScheduleTable(goal=1), aggregation=AggregationTable(max_staleness=2)))
    bench.send(bench.update())
    bench.send(bench.update(base_version=0))
    bench.send(bench.update(base_version=0))
    receipt = bench.answer(bench.update(base_version=0))

    assert (receipt.status, receipt.version) == ("stale", 3)
    assert receipt.reason.startswith("too-old")
    counters = bench.core.fleet.counters
    assert counters.staleness == {"0": 1, "1": 1, "2": 1}
    assert (counters.stale, counters.refusals) == (1, {"too-old": 1})


# -- withheld -------------------------------------------------------------------------------------------


class Judge:
    """An evaluation that says what it is told to."""

    def __init__(self, **metrics: float) -> None:
        self.metrics = metrics

    def __call__(self, parameters: NDArray[np.float32]) -> dict[str, float]:
        assert parameters.shape == (SIZE,)
        return dict(self.metrics)


GATES: dict[str, tuple[EvaluationTable, dict[str, float], dict[str, Any]]] = {
    "accuracy": (EvaluationTable(max_accuracy_drop=0.1), {"accuracy": 0.5}, {}),
    "loss": (EvaluationTable(max_loss_ratio=2.0), {"loss": 3.0}, {}),
    "norm": (EvaluationTable(max_step_norm=1.0), {}, {}),
    "not finite": (EvaluationTable(), {}, {"server_learning_rate": 1e39}),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(
    "downlink", [DownlinkTable(), DownlinkTable(encoding="f16"), DownlinkTable(delta_codec="int8")]
)
def test_a_bad_version_is_withheld_and_the_next_good_one_has_its_number(gate: str, downlink: DownlinkTable) -> None:
    evaluation, bad, aggregation = GATES[gate]
    judge = Judge(accuracy=0.9, loss=1.0)
    table = AggregationTable(**aggregation)
    bench = Bench(
        settings_with(schedule=WHEN_ASKED, evaluation=evaluation, aggregation=table, downlink=downlink), judge
    )
    before, server = bench.core.ledger.version, bench.core.ledger.server
    bench.send(bench.update())
    judge.metrics |= bad

    commands = bench.feed(ScheduleDue())

    (saved,) = only(commands, SaveAggregation)
    assert (saved.version, saved.server, saved.aggregation.version) == (None, None, None)
    assert (saved.aggregation.outcome, len(saved.aggregation.lineage)) == ("withheld", 1)
    assert saved.aggregation.reason
    (log,) = only(commands, Log)
    assert log.level == "error"
    assert saved.aggregation.reason in log.text
    assert bench.core.ledger.version is before
    assert bench.core.ledger.server is server
    assert len(bench.core.ledger.buffer) == 0
    assert only(commands, SaveFleet)[0].counters.versions_withheld == 1, "kept at once"

    judge.metrics = {"accuracy": 0.9, "loss": 1.0}
    bench.send(bench.update(delta=np.full(SIZE, 1e-3 if gate != "not finite" else 0.0)))
    bench.feed(ScheduleDue())
    assert bench.version == 1
    assert bench.restart().core.fleet.counters.versions_withheld == 1
    assert numbers(bench) == (2, 2, 0, 0)


def test_after_a_withheld_version_devices_may_contribute_again_but_not_the_same() -> None:
    judge = Judge(accuracy=0.9)
    once = Participation(codec="f32", contributions_per_version=1)
    evaluation = EvaluationTable(max_accuracy_drop=0.1)
    bench = Bench(settings_with(schedule=WHEN_ASKED, evaluation=evaluation, participation=once), judge)
    first = bench.update()
    bench.send(first)
    judge.metrics = {"accuracy": 0.1}
    bench.feed(ScheduleDue())

    assert bench.answer(first).status == "duplicate"
    assert bench.answer(bench.update()).status == "accepted"


def test_whoever_has_trained_the_version_is_asked_to_train_it_again_when_the_next_one_is_withheld() -> None:
    judge = Judge(accuracy=0.9)
    once = Participation(codec="f32", contributions_per_version=1)
    evaluation = EvaluationTable(max_accuracy_drop=0.1)
    bench = Bench(settings_with(schedule=WHEN_ASKED, evaluation=evaluation, participation=once), judge)

    def asked() -> tuple[int, int]:
        manifest = announced(bench)
        return manifest.version, manifest.participation.contributions_per_version

    before = announced(bench).issued
    judge.metrics = {"accuracy": 0.1}
    for attempt in (2, 3):
        bench.send(bench.update())
        bench.feed(ScheduleDue())
        assert asked() == (0, attempt)
    assert announced(bench).issued > before, "an announcement that devices take for a new one"
    bench = bench.restart()
    assert asked() == (0, 3)
    judge.metrics = {"accuracy": 0.9}
    bench.send(bench.update())
    bench.feed(ScheduleDue())
    assert asked() == (1, 1)


def test_the_yardstick_is_the_version_that_is_out() -> None:
    judge = Judge(accuracy=0.9)
    bench = Bench(
        settings_with(schedule=ScheduleTable(goal=1), evaluation=EvaluationTable(max_accuracy_drop=0.1)), judge
    )
    for accuracy, version in ((0.85, 1), (0.5, 1), (0.74, 1), (0.76, 2), (0.67, 3)):
        judge.metrics = {"accuracy": accuracy}
        bench.send(bench.update())
        assert bench.version == version
    assert bench.core.ledger.version.metrics == {"accuracy": 0.67}


# -- rollback -------------------------------------------------------------------------------------------


def rolled(bench: Bench, target: int, parameters: bytes) -> tuple[list[Command], Reply]:
    commands = bench.feed(RollbackRequested(request_id="r1", target=target, parameters=parameters))
    (reply,) = only(commands, Reply)
    assert reply.request_id == "r1"
    return commands, reply


def history(bench: Bench, count: int) -> list[bytes]:
    kept = [bench.core.ledger.version.parameters]
    for i in range(count):
        bench.send(bench.update(delta=np.full(SIZE, 0.1 * (i + 1))))
        bench.feed(ScheduleDue())
        kept.append(bench.core.ledger.version.parameters)
    return kept


def test_a_rollback_is_a_new_version_with_old_parameters() -> None:
    bench = Bench(settings_with(schedule=WHEN_ASKED))
    kept = history(bench, 4)

    commands, reply = rolled(bench, 2, kept[2])

    assert reply.body == {"version": 5, "rolled_back_to": 2, "updates_set_aside": 0}
    version = bench.core.ledger.version
    assert (version.version, version.kind, version.rolled_back_to) == (5, "rollback", 2)
    assert version.parameters == kept[2]
    (saved,) = only(commands, SaveAggregation)
    assert saved.withdrawn == ((3, 4),)
    assert commands.index(saved) < commands.index(reply)


def test_the_open_buffer_is_set_aside_and_the_counters_say_so() -> None:
    bench = Bench(settings_with(schedule=WHEN_ASKED))
    kept = history(bench, 3)
    open_ones = [bench.update() for _ in range(5)]
    for update in open_ones:
        bench.send(update)
    assert numbers(bench) == (8, 8, 0, 5)

    commands, reply = rolled(bench, 1, kept[1])

    assert reply.body["updates_set_aside"] == 5
    assert numbers(bench) == (8, 3, 5, 0)
    (saved,) = only(commands, SaveAggregation)
    assert saved.aggregation.outcome == "set-aside"
    assert len(saved.aggregation.lineage) == 5
    assert saved.version is not None
    assert (saved.version.num_updates, saved.version.total_weight, saved.version.step_norm) == (0, 0.0, 0.0)
    again = bench.restart()
    assert numbers(again) == (8, 3, 5, 0)
    assert {again.answer(update).status for update in open_ones} == {"duplicate"}


def test_updates_that_build_on_what_was_taken_back_are_stale_and_stay_so() -> None:
    bench = Bench(settings_with(schedule=WHEN_ASKED))
    kept = history(bench, 4)
    rolled(bench, 2, kept[2])

    again = bench.restart()
    for bench_now in (bench, again):
        statuses = {v: bench_now.answer(bench_now.update(base_version=v)).status for v in range(6)}
        assert statuses == {0: "accepted", 1: "accepted", 2: "accepted", 3: "stale", 4: "stale", 5: "accepted"}
    assert bench.refusals == {"withdrawn-version": 2}


def test_rollbacks_may_follow_each_other() -> None:
    bench = Bench(settings_with(schedule=WHEN_ASKED))
    kept = history(bench, 3)
    rolled(bench, 1, kept[1])
    rolled(bench, 0, kept[0])

    assert (bench.version, bench.core.ledger.version.parameters) == (5, kept[0])
    accepted = [v for v in range(6) if bench.answer(bench.update(base_version=v)).status == "accepted"]
    assert accepted == [0, 5]
    bench.feed(ScheduleDue())
    assert bench.version == 6


@pytest.mark.parametrize("target", [2, 3, 99])
def test_only_an_older_version_can_be_rolled_back_to(target: int) -> None:
    bench = Bench(settings_with(schedule=WHEN_ASKED))
    kept = history(bench, 2)
    before = bench.bits()

    _, reply = rolled(bench, target, kept[0])

    assert "not older" in reply.error
    assert bench.bits() == before


@pytest.mark.parametrize("parameters", [b"", bytes(4 * SIZE - 4), bytes(4 * SIZE + 1)])
def test_parameters_of_another_model_are_not_rolled_back_to(parameters: bytes) -> None:
    bench = Bench(settings_with(schedule=WHEN_ASKED))
    history(bench, 2)
    before = bench.bits()

    _, reply = rolled(bench, 1, parameters)

    assert "another model" in reply.error
    assert bench.bits() == before


def test_a_rollback_begins_the_server_optimizer_anew() -> None:
    table = AggregationTable(server_optimizer="momentum")
    bench = Bench(settings_with(schedule=WHEN_ASKED, aggregation=table))
    kept = history(bench, 3)
    assert bench.core.ledger.server.vectors[0].any()

    rolled(bench, 1, kept[1])

    assert not bench.core.ledger.server.vectors[0].any()
    assert bench.core.ledger.server.master.tobytes() == kept[1]
