"""Candidates: what operators decide, what lies on the broker meanwhile, and what is refused of devices."""

from __future__ import annotations

from dataclasses import replace as changed
from typing import Any

import pytest
from msgspec.structs import replace

from aggregator.commands import Reply
from aggregator.configuration import (
    AggregatorSettings,
    CanaryTable,
)
from aggregator.events import (
    RollbackRequested,
    SurveyCloseRequested,
    SurveyRequested,
)
from aggregator.manifests import largest_manifest_bytes
from models.answering import metrics_to_data
from models.metrics import ClassificationMetrics
from protocol.surveys import pack_content
from tests.aggregator.canaries import (
    PUBLISH,
    WITHDRAW,
    announced,
    books_hold,
    fill,
    report,
    say,
    settings_of,
    tried,
    trying,
    verdict,
)
from tests.aggregator.harness import SIZE, only


def test_operators_decide_too() -> None:
    bench = trying()
    (reply,) = only(bench.feed(PUBLISH), Reply)
    assert (reply.body["outcome"], bench.version) == ("published", 1)
    assert only(bench.feed(PUBLISH), Reply)[0].error == "no candidate is being tried"
    fill(bench)
    (reply,) = only(bench.feed(WITHDRAW), Reply)
    assert (reply.body["outcome"], reply.body["candidate"], bench.version) == ("withdrawn", 2, 1)
    books_hold(bench)
    closing = SurveyCloseRequested(request_id="f" * 16, survey="")
    fill(bench)
    error = only(bench.feed(changed(closing, survey=tried(bench).survey)), Reply)[0].error
    assert "canary" in error


def test_a_rollback_gives_the_candidate_up() -> None:
    bench = trying()
    bench.feed(PUBLISH)
    first = bench.restored.version.parameters
    fill(bench, "a", "b", "x")
    assert tried(bench).version == 2

    commands = bench.feed(RollbackRequested(request_id="9" * 16, target=0, parameters=b"\0" * 4 * SIZE))

    assert verdict(commands).outcome == "withdrawn"
    assert bench.version == 2
    assert bench.core.ledger.version.parameters != first
    assert announced(bench).candidate is None
    assert only(commands, Reply)[0].body["updates_set_aside"] == 3
    books_hold(bench)
    assert bench.core.fleet.counters.set_aside == 3


def test_surveys_of_operators_go_on_beside_it() -> None:
    bench = trying()
    for number in range(4):
        wish = SurveyRequested(request_id=f"{number:016x}", kind="evaluation", fraction=1.0, min_examples=1)
        assert not only(bench.feed(wish), Reply)[0].error
    assert len(announced(bench).surveys) == 5
    assert len(bench.broker[bench.topics.current_model]) <= largest_manifest_bytes(
        bench.settings, bench.model, surveys=announced(bench).surveys[1:]
    )
    bench.feed(PUBLISH)
    assert len(announced(bench).surveys) == 4


@pytest.mark.parametrize("keep", [1, 2])
def test_the_blob_of_the_current_version_stays_whatever_is_tried(keep: int) -> None:
    bench = trying(settings_of(keep_versions=keep))
    for action in (WITHDRAW, PUBLISH, WITHDRAW, WITHDRAW, PUBLISH, PUBLISH):
        if bench.core.ledger.candidate is None:
            fill(bench)
        for again in (bench, bench.restart()):
            manifest = announced(again)
            assert again.topics.blob(manifest.blob.digest, 0) in again.broker
            assert manifest.candidate
            assert again.topics.blob(manifest.candidate.blob.digest, 0) in again.broker
        bench.feed(action)
    blobs = [topic for topic in bench.broker if "/blob/" in topic]
    assert len(blobs) <= keep + 1


HOSTILE: dict[str, dict[str, Any]] = {
    "other counts": {"content": pack_content({"examples": 20, "metrics": metrics_to_data(ClassificationMetrics())})},
    "no candidate": {"content": pack_content({"examples": 0, "statistics": {}})},
    "not msgpack": {"content": b"\xc1"},
}


@pytest.mark.parametrize("fields", HOSTILE.values(), ids=HOSTILE)
def test_hostile_comparisons_are_refused(fields: dict[str, Any]) -> None:
    bench = trying()
    answer = bench.answer(replace(report(bench, "evil", 10, 10), **fields), "evil")
    assert (answer.status, answer.reason.split(":")[0]) == ("rejected", "bad-report")
    assert bench.core.ledger.candidate is not None


def test_each_device_compares_once_and_closed_ones_are_stale() -> None:
    bench = trying()
    first = report(bench, "c", 10, 10)
    assert bench.answer(first, "c").status == "accepted"
    assert bench.answer(first, "c").status == "duplicate"
    assert bench.answer(report(bench, "c", 10, 10), "c").reason.startswith("answered")
    late = report(bench, "d", 10, 10)
    bench.feed(PUBLISH)
    assert bench.answer(late, "d").reason.startswith("closed-survey")


def test_without_canaries_an_open_candidate_is_still_decided() -> None:
    bench = trying()
    off = changed_settings(bench.settings)
    bench = bench.restart(off)
    say(bench, "c", 10, 10)
    say(bench, "d", 10, 10)
    say(bench, "e", 10, 10)
    assert bench.version == 1
    fill(bench)
    assert bench.version == 2, "published at once"


def changed_settings(settings: AggregatorSettings) -> AggregatorSettings:
    return replace(settings, canary=CanaryTable())
