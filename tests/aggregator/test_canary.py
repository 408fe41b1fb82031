"""Candidates: tried by devices, then published or withdrawn, with books that always add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from aggregator.commands import Log, Publish, SaveAggregation, SaveSurvey, SaveVerdict
from aggregator.events import (
    MetricsDue,
    ScheduleDue,
)
from protocol.status import DeviceState, encode_status
from tests.aggregator.canaries import (
    announced,
    books_hold,
    fill,
    say,
    settings_of,
    tried,
    trying,
    verdict,
)
from tests.aggregator.harness import Bench, only, settings_with


def test_a_full_buffer_becomes_a_candidate_and_the_current_version_stays() -> None:
    bench = Bench(settings_of())
    before = bench.core.ledger.server
    issued = announced(bench).issued
    bench.send(bench.update("a"), "a")

    commands = bench.send(bench.update("b"), "b")

    (saved,) = only(commands, SaveAggregation)
    assert (saved.aggregation.outcome, saved.version, saved.server) == ("candidate", None, None)
    kinds = [type(command) for command in commands]
    chunks = [i for i, c in enumerate(commands) if isinstance(c, Publish) and "/blob/" in c.topic]
    assert kinds.index(SaveAggregation) < kinds.index(SaveSurvey) < min(chunks)
    manifest = announced(bench)
    assert manifest.version == bench.version == 0
    assert manifest.issued > issued
    candidate = tried(bench)
    assert (candidate.version, candidate.survey) == (1, manifest.surveys[0].id)
    assert manifest.surveys[0].kind == "comparison"
    assert bench.broker[bench.topics.blob(candidate.blob.digest, 0)]
    np.testing.assert_array_equal(bench.core.ledger.server.master, before.master)
    np.testing.assert_array_equal(bench.core.ledger.server.vectors, before.vectors)
    books_hold(bench)


def test_not_worse_is_published_under_its_number_with_the_state_it_leads_to() -> None:
    bench, without = trying(), Bench(settings_with(**_without_canary()))
    fill(without)
    say(bench, "c", 10, 12)
    assert bench.version == 0

    commands = say(bench, "d", 10, 10)

    found = verdict(commands)
    assert (found.outcome, found.metrics["devices"]) == ("published", 2.0)
    assert found.metrics["worse"] == pytest.approx(-0.05)
    assert bench.version == 1
    manifest = announced(bench)
    assert (manifest.version, manifest.candidate, manifest.surveys) == (1, None, [])
    ours, theirs = bench.core.ledger, without.core.ledger
    assert ours.version.parameters == theirs.version.parameters
    np.testing.assert_array_equal(ours.server.master, theirs.server.master)
    np.testing.assert_array_equal(ours.server.vectors, theirs.server.vectors)
    books_hold(bench)
    assert bench.core.fleet.counters.versions_published == 1


def _without_canary() -> dict[str, Any]:
    table = settings_of()
    return {name: getattr(table, name) for name in ("schedule", "downlink", "aggregation", "participation")}


def test_worse_is_withdrawn_and_training_goes_on_as_if_it_had_never_been() -> None:
    bench = trying()
    before = bench.core.ledger.server
    candidate = tried(bench)
    say(bench, "c", 18, 3)

    commands = say(bench, "d", 17, 4)

    found = verdict(commands)
    assert (found.outcome, found.version) == ("withdrawn", None)
    assert "accuracy is worse by 0.7" in found.reason
    assert [log.level for log in only(commands, Log)] == ["error"]
    manifest = announced(bench)
    assert (manifest.version, manifest.candidate, manifest.surveys) == (0, None, [])
    assert bench.topics.blob(candidate.blob.digest, 0) not in bench.broker, "left on the broker"
    assert bench.topics.blob(manifest.blob.digest, 0) in bench.broker
    counters = bench.core.fleet.counters
    assert (counters.set_aside, counters.folded, counters.versions_withdrawn) == (2, 0, 1)
    books_hold(bench)
    # Who has trained this version may do so again, and a good step follows from the old state.
    assert manifest.participation.contributions_per_version == 2
    np.testing.assert_array_equal(bench.core.ledger.server.vectors, before.vectors)
    fill(bench)
    assert tried(bench).survey != candidate.survey
    assert tried(bench).version == 1
    fill(bench, "x")
    assert bench.core.ledger.buffer.contributions[0].staleness == 1, "of the version after the candidate"
    say(bench, "c", 10, 10)
    say(bench, "d", 10, 10)
    assert bench.version == 1
    assert announced(bench).participation.contributions_per_version == 1
    assert len(bench.core.ledger.buffer) == 1
    books_hold(bench)


@pytest.mark.parametrize("good", [True, False])
def test_a_restart_at_any_point_leads_to_the_same(good: bool) -> None:
    steady, shaky = trying(), trying().restart()
    for device in ("c", "d"):
        say(steady, device, 15, 15 if good else 2)
        say(shaky, device, 15, 15 if good else 2)
        shaky = shaky.restart()
    fill(steady, "x")
    fill(shaky, "x")
    assert steady.version == shaky.version == int(good)
    assert steady.bits() == shaky.bits()
    assert announced(steady).participation == announced(shaky).participation
    assert shaky.restart().bits() == steady.bits()
    books_hold(shaky)


def test_one_candidate_at_a_time_and_the_next_buffer_waits_for_it() -> None:
    bench = trying()
    first = tried(bench)

    commands = fill(bench, "x", "y", "z")
    commands += bench.feed(ScheduleDue())

    assert not only(commands, SaveAggregation)
    assert len(bench.core.ledger.buffer) == 3
    for _ in range(2):
        assert bench.answer(bench.update("x"), "x").status == "accepted", "its comparison would wait behind it"
    refused = bench.answer(bench.update("x"), "x")
    assert (refused.status, refused.reason[:15]) == ("retry", "one-per-version"), "the buffer is bounded"
    say(bench, "c", 10, 10)
    commands = say(bench, "d", 10, 10)
    assert verdict(commands).outcome == "published"
    (saved,) = only(commands, SaveAggregation)
    assert saved.aggregation.outcome == "candidate"
    assert len(saved.aggregation.lineage) == 5
    assert (announced(bench).version, tried(bench).version) == (1, 2)
    assert tried(bench).survey != first.survey
    assert bench.restart().core.ledger.candidate is not None
    books_hold(bench)


@pytest.mark.parametrize(("on_timeout", "version"), [("withdraw", 0), ("publish", 1)])
def test_too_few_answers_in_time(on_timeout: str, version: int) -> None:
    bench = trying(settings_of(wait_s=60.0, on_timeout=on_timeout))
    say(bench, "c", 10, 10)
    assert not only(bench.tick(59.0), SaveVerdict)
    found = verdict(bench.tick(2.0))
    assert "1 of 2 devices" in found.reason
    assert bench.version == version
    assert bench.core.deadline() is None


def test_the_time_limit_begins_anew_with_the_process() -> None:
    bench = trying(settings_of(wait_s=60.0))
    bench.tick(59.0)
    bench = bench.restart()
    bench.now = 100.0  # when it connected
    assert not only(bench.tick(59.0), SaveVerdict)
    assert verdict(bench.tick(2.0)).outcome == "withdrawn"


def test_near_the_margin_more_answers_are_awaited_until_nobody_is_left() -> None:
    bench = trying(settings_of(certainty=1.0, max_worse=0.0))
    for name in ("c", "d", "e"):
        here = DeviceState(device_id=name, state="idle", boot="1")
        bench.feed(bench_message(bench, bench.topics.device_state(name), encode_status(here)))
    assert not only(say(bench, "c", 10, 5), SaveVerdict)
    assert not only(say(bench, "d", 10, 16), SaveVerdict), "better, though who knows"
    assert not only(bench.feed(MetricsDue()), SaveVerdict), "one that is there has not answered"
    gone = DeviceState(device_id="e", state="stopped", boot="1")
    bench.feed(bench_message(bench, bench.topics.device_state("e"), encode_status(gone)))
    assert verdict(bench.feed(MetricsDue())).outcome == "published"


def bench_message(bench: Bench, topic: str, payload: bytes) -> Any:
    return replace(bench.message(payload), topic=topic)


def test_certain_answers_decide_at_once() -> None:
    bench = trying(settings_of(certainty=1.0))
    say(bench, "c", 18, 3)
    assert verdict(say(bench, "d", 18, 4)).outcome == "withdrawn"


def test_a_loss_is_judged_by_its_share() -> None:
    for max_worse, outcome in ((0.2, "published"), (0.19, "withdrawn")):
        bench = trying(settings_of(measure="loss", max_worse=max_worse))
        # 15 of 20 wrong before, 18 after: the loss rises by a fifth, which is exactly what the first one allows.
        say(bench, "c", 5, 2)
        found = verdict(say(bench, "d", 5, 2))
        assert found.metrics["margin"] == pytest.approx(max_worse * 0.75)
        assert found.outcome == outcome
