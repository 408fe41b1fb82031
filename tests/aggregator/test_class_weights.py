"""Weights of the classes: from what devices count to the plan that they are told, over restarts and rollbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.adapters.opening import open_store
from aggregator.adapters.preparing import Prepared, prepare
from aggregator.adapters.snapshot import SnapshotKeeper
from aggregator.commands import Reply, SaveFindings
from aggregator.configuration import AggregatorSettings, RegistryTable, ScheduleTable, StatisticsTable
from aggregator.events import RollbackRequested, SurveyCloseRequested
from aggregator.manifests import check_manifest_fits, largest_manifest_bytes
from aggregator.records import Findings
from models import Dataset, TrainingPlan, build
from models.answering import statistics_of
from models.weighting import class_weights
from protocol.messages import MAX_MANIFEST_BYTES
from protocol.packing import encode
from protocol.settings import ConfigurationError
from tests.aggregator.harness import SPEC, Bench, only, settings_with
from tests.aggregator.test_surveys import announced, report
from tests.support.aggregators import write_config

MODEL = build(SPEC)
COUNTS = [30, 9, 1]


def content() -> dict[str, Any]:
    labels = np.repeat(np.arange(3), COUNTS)
    data = Dataset.for_model(MODEL, np.random.default_rng(0).normal(size=(len(labels), 4)), labels)
    return {"examples": len(labels), "statistics": statistics_of(MODEL, data).to_data()}


def settings(**table: Any) -> AggregatorSettings:
    wanted: dict[str, Any] = {"class_weights": "balanced", "min_devices": 2, "wait_s": 60.0} | table
    return settings_with(statistics=StatisticsTable(**wanted), schedule=ScheduleTable(goal=1))


def asking(**table: Any) -> Bench:
    bench = Bench(settings(**table))
    bench.tick(0.0)
    return bench


def weights_of(bench: Bench) -> tuple[float, ...]:
    return TrainingPlan.from_data(announced(bench).training).class_weights


def all_answer(bench: Bench) -> list[Any]:
    (survey,) = announced(bench).surveys
    return [bench.send(report(name, content(), survey=survey.id), name) for name in ("d1", "d2")]


def test_the_first_version_to_be_trained_comes_with_the_weights() -> None:
    bench = asking(before_training=True)
    assert announced(bench).trains is False
    assert weights_of(bench) == ()

    all_answer(bench)

    wanted = class_weights([2 * count for count in COUNTS], "balanced")
    assert (bench.version, announced(bench).trains, weights_of(bench)) == (1, True, tuple(wanted))
    assert weights_of(bench.restart()) == tuple(wanted)
    bench.answer(bench.update("d1", delta=np.ones(MODEL.layout.size), sequence=7), "d1")
    assert (bench.version, weights_of(bench)) == (2, tuple(wanted))


def test_without_a_survey_before_training_weights_come_while_it_goes_on() -> None:
    bench = asking(before_training=False)
    assert announced(bench).trains
    bench.answer(bench.update("d9"), "d9")
    before = announced(bench)
    assert (before.version, weights_of(bench)) == (1, ())

    (reply,) = only(bench.feed(SurveyCloseRequested(request_id="c" * 16, survey=before.surveys[0].id)), Reply)
    assert "class weights wait for this survey" in reply.error
    bench.restart()
    *_, commands = all_answer(bench)

    assert only(commands, SaveFindings) == [SaveFindings(Findings(class_counts=(60, 18, 2)))]
    after = announced(bench)
    assert (after.version, after.surveys, after.issued > before.issued) == (1, [], True)
    assert max(weights_of(bench)) > 3.0
    bench.tick(1000.0)
    assert announced(bench).surveys == [], "nobody is asked twice"
    assert weights_of(bench.restart()) == weights_of(bench)


def test_weights_switched_on_after_the_survey_before_training_need_no_other() -> None:
    bench = asking(before_training=True)
    all_answer(bench)
    bench = bench.restart(settings(before_training=True, class_weights="none"))
    assert weights_of(bench) == ()

    bench = bench.restart(settings(class_weights="effective", effective_beta=0.9, max_class_weight=3.0))
    bench.tick(0.0)

    wanted = class_weights([60, 18, 2], "effective", beta=0.9, most=3.0)
    assert (announced(bench).surveys, weights_of(bench)) == ([], tuple(wanted))


def test_a_rollback_changes_the_model_and_not_the_weights() -> None:
    bench = asking(before_training=True)
    all_answer(bench)
    before = bench.core.ledger.version.parameters
    bench.answer(bench.update("d1", delta=np.ones(MODEL.layout.size), sequence=7), "d1")
    weights = weights_of(bench)

    bench.feed(RollbackRequested(request_id="r" * 16, target=1, parameters=before))

    assert (bench.version, weights_of(bench)) == (3, weights)


def prepared(directory: Path, more: str) -> Prepared:
    path = write_config(directory)
    path.write_text(path.read_text() + more)
    return prepare(path)


def test_counts_survive_the_store_and_its_loss(tmp_path: Path) -> None:
    made = prepared(tmp_path, '[statistics]\nclass_weights = "balanced"\n')
    found = Findings(class_counts=tuple(range(3)))
    store = open_store(made.state_dir, made.founding, RegistryTable())
    store.apply([SaveFindings(found)])
    store.close()

    store = open_store(made.state_dir, made.founding, RegistryTable())
    restored = store.restore()
    assert restored.findings == found
    keeper = SnapshotKeeper(made.state_dir, made.settings.aggregator.federation, made.model, restored)
    keeper.note(restored.version, restored.shelf)
    keeper.write()
    store.close()
    (made.state_dir / "aggregator.sqlite").write_bytes(b"damage" * 1000)

    store = open_store(made.state_dir, made.founding, RegistryTable())
    again = store.restore()
    assert (again.epoch != restored.epoch, again.findings) == (True, found)
    keeper.note_findings(Findings(class_counts=(9, 9, 9)))
    keeper.write()
    store.close()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('[statistics]\nclass_weights = "balancd"\n', "class_weights"),
        ('[statistics]\nclass_weights = "balanced"\nmax_class_weight = 0.5\n', "max_class_weight"),
        ('[statistics]\nclass_weights = "effective"\neffective_beta = 1.0\n', "effective_beta"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        prepared(tmp_path, more)


@pytest.mark.parametrize(
    ("model", "training", "statistics", "words"),
    [
        ({"kind": "linear", "outputs": 3}, "", 'class_weights = "balanced"', "task is regression, without classes"),
        ({}, "class_weights = [1, 2, 3]", 'class_weights = "balanced"', r"\[training\] class_weights says other"),
        ({}, "class_weights = [1, 2]", "", "class_weights has 2 numbers, the model 3 classes"),
        ({"kind": "linear", "outputs": 3}, "class_weights = [1, 2, 3]", "", "the model no classes"),
    ],
)
def test_weights_have_to_be_of_the_models_classes_and_said_once(
    tmp_path: Path, model: dict[str, Any], training: str, statistics: str, words: str
) -> None:
    spec = "\n".join(f"{key} = {value!r}" for key, value in (SPEC | model).items())
    text = (
        f'[aggregator]\nfederation = "x"\nstate_dir = "{tmp_path}"\n[model]\n{spec}\n[training]\n{training}\n'
        f"[statistics]\n{statistics}\n"
    )
    path = tmp_path / "aggregator.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        prepare(path)


def test_more_classes_than_a_manifest_has_room_for_are_refused_at_the_start() -> None:
    many = settings_with(
        model={**SPEC, "outputs": 500}, statistics=StatisticsTable(class_weights="balanced", before_training=True)
    )
    with pytest.raises(ConfigurationError, match=r"class_weights \(4500, for 500 classes\)"):
        check_manifest_fits(many, build(many.model))

    some = settings_with(model={**SPEC, "outputs": 200}, statistics=StatisticsTable(class_weights="balanced"))
    model = build(some.model)
    check_manifest_fits(some, model)
    bench = Bench(some)
    bench.tick(0.0)
    bench.core.ledger.find(class_counts=tuple(range(1, 201)))
    assert len(encode(announced(bench.restart()))) <= largest_manifest_bytes(some, model) <= MAX_MANIFEST_BYTES
