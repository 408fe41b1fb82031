"""Surveys: each device counts once, whatever it sends, and nothing that contradicts itself is added."""

from __future__ import annotations

from dataclasses import replace as with_figures
from typing import Any

import msgpack
import numpy as np
import pytest
from msgspec.structs import replace

from aggregator.commands import Publish, Reply, SaveAggregation, SaveAnswer, SaveFindings, SaveIssued, SaveSurvey
from aggregator.configuration import AdmissionTable, ScheduleTable, StatisticsTable
from aggregator.events import SurveyCloseRequested, SurveyRequested
from models import Dataset, build
from models.answering import metrics_to_data, statistics_of
from models.layers import CONSTANTS
from models.metrics import ClassificationMetrics
from models.statistics import FeatureStatistics
from protocol.messages import Manifest
from protocol.packing import decode_manifest
from protocol.surveys import Report, pack_content
from tests.aggregator.harness import EPOCH, FEDERATION, INCARNATION, SPEC, Bench, only, settings_with

MODEL = build(SPEC)
STATISTICS, EVALUATION = "a" * 16, "b" * 16


def examples(seed: int, count: int = 20) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset.for_model(MODEL, rng.normal(seed, 2.0, (count, 4)), rng.integers(0, 3, count))


def content(seed: int, count: int = 20) -> dict[str, Any]:
    return {"examples": count, "statistics": statistics_of(MODEL, examples(seed, count)).to_data()}


def asked(bench: Bench, kind: Any = "statistics", **fields: Any) -> list[Any]:
    name = STATISTICS if kind == "statistics" else EVALUATION
    wish: dict[str, Any] = {"fraction": 1.0, "min_examples": 1, "request_id": name} | fields
    return bench.feed(SurveyRequested(kind=kind, **wish))


def report(device: str, figures: Any, *, survey: str = STATISTICS, sequence: int = 1, **fields: Any) -> Report:
    packed = figures if isinstance(figures, bytes) else pack_content(figures)
    body: dict[str, Any] = {
        "federation": FEDERATION,
        "epoch": EPOCH,
        "device_id": device,
        "incarnation": INCARNATION,
        "sequence": sequence,
        "base_version": 0,
        "survey": survey,
        "content": packed,
    }
    return Report(**(body | fields))


def announced(bench: Bench) -> Manifest:
    return decode_manifest(bench.broker[bench.topics.current_model])


def total(bench: Bench, survey: str = STATISTICS) -> FeatureStatistics:
    return bench.core._surveys.statistics(survey)


def test_a_survey_is_stored_then_announced_under_a_higher_number() -> None:
    bench = Bench()
    before = announced(bench).issued

    commands = asked(bench)

    kinds = [type(command) for command in commands]
    assert kinds.index(SaveSurvey) < kinds.index(Publish)
    assert kinds.index(SaveIssued) < kinds.index(Publish)
    assert only(commands, Reply)[0].body == {"survey": STATISTICS, "kind": "statistics"}
    manifest = announced(bench)
    assert [survey.id for survey in manifest.surveys] == [STATISTICS]
    assert manifest.issued > before
    bench.feed(SurveyCloseRequested(request_id="c" * 16, survey=STATISTICS))
    assert announced(bench).surveys == []


def test_answers_add_up_over_restarts_and_each_device_counts_once() -> None:
    bench = Bench()
    asked(bench)
    wanted = FeatureStatistics.none(4, 3)
    for number in range(6):
        device = f"d{number}"
        sent = report(device, content(number))
        commands = bench.send(sent, device)
        kinds = [type(command) for command in commands]
        assert kinds.index(SaveAnswer) < kinds.index(Publish)
        wanted += statistics_of(MODEL, examples(number))
        bench = bench.restart()
        assert bench.answer(sent, device).status == "duplicate"
        again = bench.answer(replace(sent, sequence=2), device)
        assert (again.status, again.reason[:8]) == ("stale", "answered")
        another = bench.answer(replace(sent, incarnation="f" * 16), device)
        assert (another.status, another.reason[:8]) == ("stale", "answered")
    assert total(bench).to_data() == wanted.to_data()
    assert bench.core.fleet.counters.reports_accepted == 6
    assert bench.core.fleet.counters.accepted == 0
    assert bench.core.fleet.counters.received == 24


def test_updates_and_reports_share_the_row_of_numbers() -> None:
    bench = Bench()
    asked(bench)
    assert bench.answer(bench.update("d", sequence=1), "d").status == "accepted"
    assert bench.answer(report("d", content(1), sequence=2), "d").status == "accepted"
    assert bench.answer(bench.update("d", sequence=2), "d").status == "duplicate"
    assert bench.answer(bench.update("d", sequence=3), "d").status == "accepted"
    assert bench.restart().answer(report("d", content(1), sequence=3), "d").status == "duplicate"


def test_reports_come_in_chunks_too() -> None:
    bench = Bench()
    asked(bench)
    sent = report("d", content(1, 500))
    chunks = bench.chunks(sent, 256)
    for chunk in chunks[:-1]:
        assert not bench.receipts(bench.send(chunk, "d"))
    assert bench.answer(chunks[-1], "d").status == "accepted"
    assert total(bench).rows == 500


def figures_with(**changed: Any) -> dict[str, Any]:
    found = content(1)
    return found | {"statistics": found["statistics"] | changed}


def moved(**changed: Any) -> dict[str, Any]:
    found = with_figures(statistics_of(MODEL, examples(1)), **changed)
    return {"examples": 20, "statistics": found.to_data()}


HOSTILE: dict[str, Any] = {
    "no msgpack": b"\xc1",
    "no map": [1, 2],
    "nested": b"\x91" * 2000 + b"\x01",
    "other figures": {"examples": 20, "metrics": {}},
    "more than claimed": {**content(1), "examples": 19},
    "no whole number": {**content(1), "examples": 20.0},
    "a huge claim": {**content(1), "examples": 2**52},
    "negative counts": figures_with(present=[-1, 20, 20, 20]),
    "classes beyond rows": figures_with(classes=[20, 20, 20]),
    "classes short of rows": figures_with(classes=[1, 0, 0]),
    "too few columns": figures_with(mean=b"\0" * 8),
    "buckets that hold more": figures_with(buckets=[[0, [21]]] * 4),
    "buckets out of reach": figures_with(buckets=[[10**9, [20]]] * 4),
    "NaN": moved(mean=np.full(4, np.nan)),
    "infinite squares": moved(squares=np.full(4, np.inf), minimum=np.full(4, -1e300), maximum=np.full(4, 1e300)),
    "beyond float32": moved(minimum=np.full(4, -1e200)),
    "mean outside": moved(mean=np.full(4, 1e6)),
    "impossible squares": moved(squares=np.full(4, 1e9)),
}


@pytest.mark.parametrize("figures", HOSTILE.values(), ids=HOSTILE)
def test_what_contradicts_itself_is_refused_and_changes_nothing(figures: Any) -> None:
    bench = Bench()
    asked(bench)
    bench.send(report("good", content(2)), "good")
    before = total(bench).to_data()
    packed = figures if isinstance(figures, bytes) else msgpack.packb(figures)

    answer = bench.answer(report("evil", packed), "evil")

    assert (answer.status, answer.reason.split(":")[0]) == ("rejected", "bad-report")
    assert total(bench).to_data() == before
    assert bench.answer(report("evil", content(3), sequence=1), "evil").status == "accepted", "an honest one later"


def test_reports_to_what_is_not_asked() -> None:
    bench = Bench()
    assert bench.answer(report("d", content(1)), "d").reason.startswith("closed-survey")
    asked(bench, fraction=1e-9)
    assert bench.answer(report("d", content(1)), "d").reason.startswith("not-asked")
    assert bench.answer(report("d", content(1), epoch="0" * 16), "d").reason.startswith("other-epoch")
    assert bench.answer(report("d", content(1), base_version=9), "d").reason.startswith("unknown-version")
    assert bench.answer(report("other", content(1)), "d").reason.startswith("wrong-device")
    bench.feed(SurveyCloseRequested(request_id="c" * 16, survey=STATISTICS))
    late = bench.answer(report("d", content(1)), "d")
    assert (late.status, late.reason[:13]) == ("stale", "closed-survey")


def test_fewer_examples_than_wanted_stay_with_their_device() -> None:
    bench = Bench()
    asked(bench, min_examples=30)
    assert bench.answer(report("d", content(1)), "d").reason.startswith("bad-report")
    nothing = {"examples": 0, "statistics": FeatureStatistics.none(4, 3).to_data()}
    assert bench.answer(report("d", nothing), "d").status == "accepted"
    assert total(bench).rows == 0


def test_a_flood_of_bad_reports_ends_in_quarantine() -> None:
    bench = Bench(settings_with(admission=AdmissionTable(messages_per_s=0.0, bytes_per_s=0.0, quarantine_after=5)))
    asked(bench)
    for sequence in range(1, 6):
        bench.send(report("evil", b"\xc1", sequence=sequence), "evil")
    assert bench.answer(report("evil", content(1), sequence=6), "evil").reason.startswith("quarantined")


def test_at_most_four_are_open_and_each_is_closed_once() -> None:
    bench = Bench()
    for number in range(4):
        assert not only(asked(bench, request_id=f"{number:016x}"), Reply)[0].error
    assert "close one first" in only(asked(bench, request_id="f" * 16), Reply)[0].error
    close = SurveyCloseRequested(request_id="c" * 16, survey=f"{2:016x}")
    assert not only(bench.feed(close), Reply)[0].error
    assert "no open survey" in only(bench.feed(close), Reply)[0].error
    assert len(announced(bench.restart()).surveys) == 3


def test_an_evaluation_adds_up_and_keeps_a_small_row_of_each_device() -> None:
    bench = Bench()
    asked(bench, "evaluation")
    for number, correct in enumerate([9, 3]):
        metrics = metrics_to_data(ClassificationMetrics(count=10, correct=correct, loss_sum=5.0))
        sent = report(f"d{number}", {"examples": 10, "metrics": metrics}, survey=EVALUATION)
        (saved,) = only(bench.send(sent, f"d{number}"), SaveAnswer)
        assert saved.answer.figures == {"accuracy": correct / 10, "loss": 0.5}
    assert saved.total == ClassificationMetrics(count=20, correct=12, loss_sum=10.0)
    for wrong in ({"correct": 11}, {"count": 9}, {"loss_sum": float("nan")}, {"loss_sum": -1.0}, {"loss_sum": 1e300}):
        figures = {"examples": 10, "metrics": metrics | wrong}
        assert bench.answer(report("evil", figures, survey=EVALUATION), "evil").reason.startswith("bad-report"), wrong


STANDARDIZED = {**SPEC, "standardize": True}


def waiting(**table: Any) -> Bench:
    statistics = StatisticsTable(**{"before_training": True, "min_devices": 2, "wait_s": 60.0} | table)
    settings = settings_with(model=STANDARDIZED, statistics=statistics, schedule=ScheduleTable(goal=1))
    bench = Bench(settings)
    bench.tick(0.0)
    return bench


def test_version_0_waits_for_statistics_and_version_1_has_their_constants() -> None:
    bench = waiting()
    manifest = announced(bench)
    (survey,) = manifest.surveys
    assert (manifest.version, manifest.trains) == (0, False)
    refused = bench.answer(bench.update("eager", layout=bench.model.layout.digest), "eager")
    assert (refused.status, refused.reason[:11]) == ("stale", "not-trained")

    bench.send(report("d1", content(1), survey=survey.id), "d1")
    bench = bench.restart()
    bench.tick(0.0)
    assert announced(bench).surveys == [survey]
    nothing = {"examples": 0, "statistics": FeatureStatistics.none(4, 3).to_data()}
    bench.send(report("empty", nothing, survey=survey.id), "empty")
    assert bench.version == 0
    commands = bench.send(report("d2", content(2), survey=survey.id), "d2")

    assert [type(c) for c in commands[:4]] == [SaveAnswer, Publish, SaveSurvey, SaveFindings]
    (saved,) = only(commands, SaveAggregation)
    assert saved.version
    assert saved.version.kind == "statistics"
    both = statistics_of(MODEL, examples(1)) + statistics_of(MODEL, examples(2))
    values = bench.model.layout.views(bench.core.ledger.server.master)
    np.testing.assert_allclose(values[f"{CONSTANTS}.mean"], both.mean, rtol=1e-6)
    np.testing.assert_allclose(values[f"{CONSTANTS}.scale"], 1.0 / both.deviation, rtol=1e-6)
    manifest = announced(bench)
    assert (manifest.version, manifest.trains, manifest.surveys) == (1, True, [])
    old = bench.answer(bench.update("slow", base_version=0), "slow")
    assert old.reason.startswith("withdrawn-version")
    assert (
        bench.answer(bench.update("d1", sequence=2, delta=np.ones(bench.model.layout.size)), "d1").status == "accepted"
    )
    assert bench.restart().answer(report("late", content(3), survey=survey.id), "late").status == "stale"


def test_after_the_wait_one_device_is_enough() -> None:
    bench = waiting(min_devices=50)
    (survey,) = announced(bench).surveys
    bench.tick(61.0)
    assert bench.version == 0
    bench.send(report("d1", content(1), survey=survey.id), "d1")
    assert bench.version == 1

    bench = waiting(min_devices=50)
    bench.send(report("d1", content(1), survey=survey.id), "d1")
    assert bench.version == 0
    bench.tick(61.0)
    assert bench.version == 1


def test_the_survey_that_training_waits_for_cannot_be_closed() -> None:
    bench = waiting()
    (survey,) = announced(bench).surveys
    (reply,) = only(bench.feed(SurveyCloseRequested(request_id="c" * 16, survey=survey.id)), Reply)
    assert "training waits" in reply.error
