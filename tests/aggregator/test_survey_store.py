"""Surveys on disk: whole with their sums, bounded, in stores of an older schema, and as the command line shows them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.__main__ import main
from aggregator.adapters.opening import open_store
from aggregator.adapters.preparing import prepare
from aggregator.adapters.registry import open_registry
from aggregator.adapters.store import Store
from aggregator.adapters.survey_rows import KEPT_CLOSED
from aggregator.commands import SaveAnswer, SaveSurvey
from aggregator.records import Answer
from models.metrics import ClassificationMetrics
from models.statistics import FeatureStatistics
from protocol.settings import ConfigurationError
from protocol.surveys import Survey
from tests.support.aggregators import write_config
from tests.support.stores import journal, opened

NOTHING = FeatureStatistics.none(2, 2)


def asked(number: int, kind: Any = "statistics", *, closed: float | None = None) -> SaveSurvey:
    survey = Survey(id=f"{number:016x}", kind=kind)
    total = NOTHING if kind == "statistics" else ClassificationMetrics()
    return SaveSurvey(survey=survey, opened=1.7e9, closed=closed, total=total)


def answer(number: int, device: str, total: Any, figures: dict[str, float], sequence: int = 1) -> SaveAnswer:
    given = Answer(
        survey=f"{number:016x}",
        device_id=device,
        incarnation="c" * 16,
        sequence=sequence,
        version=3,
        examples=10,
        figures=figures,
    )
    return SaveAnswer(answer=given, total=total)


def some(seed: int) -> FeatureStatistics:
    x = np.random.default_rng(seed).normal(seed, 1.0, (10, 2))
    return FeatureStatistics.of(x, np.arange(10) % 2, 2)


def again(store: Store, directory: Path) -> Store:
    store.close()
    return opened(directory)


def test_sum_answers_and_sequence_come_back_together(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply([asked(1)])
    total = some(1)
    store.apply([answer(1, "a", total, {}), journal("b", 1), answer(1, "b", total + some(2), {}, 2)])

    store = again(store, tmp_path)
    restored = store.restore()
    (record,) = restored.surveys
    assert record.answered == ("a", "b")
    assert record.with_examples == 2
    assert FeatureStatistics.from_data(record.total, 2, 2).to_data() == (total + some(2)).to_data()
    assert restored.sequences["a", "c" * 16] == 1
    assert restored.sequences["b", "c" * 16] == 2
    with pytest.raises(Exception, match="UNIQUE"):
        store.apply([answer(1, "a", total, {}, 7)])  # the core never does: the table would not take it
    assert store.restore().sequences["a", "c" * 16] == 1
    store.close()


def test_old_surveys_go_with_their_answers(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply([asked(0)])
    for number in range(1, KEPT_CLOSED + 6):
        store.apply([asked(number), answer(number, "a", some(number), {}, number)])
        store.apply([asked(number, closed=1.8e9)])
    store.close()
    with open_registry(tmp_path) as registry:
        kept = registry.surveys()
        assert [line.id for line in kept] == [f"{n:016x}" for n in (0, *range(6, KEPT_CLOSED + 6))]
        assert not registry.answers(f"{3:016x}")
        assert len(registry.answers(f"{6:016x}")) == 1
    assert [record.survey.id for record in opened(tmp_path).restore().surveys] == [f"{0:016x}"]


def test_a_store_from_before_surveys_goes_on(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply([journal("a", 1)])
    store.close()
    with closing(sqlite3.connect(tmp_path / "aggregator.sqlite")) as db:
        db.executescript("DROP TABLE surveys; DROP TABLE answers; PRAGMA user_version = 3")
        db.executescript("DROP TABLE terms; DROP TABLE candidate; ALTER TABLE versions DROP COLUMN terms")

    store = opened(tmp_path)
    assert len(store.restore().journal) == 1
    store.apply([asked(1)])
    assert len(again(store, tmp_path).restore().surveys) == 1


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    monkeypatch.setenv("COLUMNS", "80")
    path = write_config(tmp_path, more=getattr(request, "param", ""))
    prepared = prepare(path)
    model = prepared.model
    assert model.task == "classification"
    store = open_store(prepared.state_dir, prepared.founding, prepared.settings.registry)
    x = np.random.default_rng(1).normal(5.0, 2.0, (40, model.inputs))
    labels = np.arange(40) % model.outputs
    total = FeatureStatistics.of(x, labels, model.outputs)
    first = SaveSurvey(survey=Survey(id="1" * 16, kind="statistics"), opened=1.7e9, closed=None, total=total)
    given = Answer(
        survey="1" * 16, device_id="press-01", incarnation="c" * 16, sequence=1, version=0, examples=40, figures={}
    )
    store.apply([first, SaveAnswer(answer=given, total=total)])
    store.apply([SaveSurvey(survey=Survey(id="2" * 16, kind="evaluation"), opened=1.7e9, closed=None, total=NO)])
    merged = NO
    for number in range(11):
        one = ClassificationMetrics(count=10, correct=number, loss_sum=20.0 - number)
        merged += one
        figures = one.summary()
        told = Answer(
            survey="2" * 16,
            device_id=f"press-{number:02}",
            incarnation="d" * 16,
            sequence=1,
            version=2 + number % 2,
            examples=10,
            figures=figures,
        )
        store.apply([SaveAnswer(answer=told, total=merged)])
    store.close()
    return path


NO = ClassificationMetrics()


def run(config: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--config", str(config)])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_what_the_command_line_shows(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(config, capsys, "surveys")
    assert code == 0
    assert "statistics" in out
    assert "evaluation" in out
    assert max(map(len, out.splitlines())) <= 80

    code, out, _ = run(config, capsys, "survey", "show", "11")
    assert code == 0
    assert "1 devices answered" in out
    assert "examples by class" in out
    found = json.loads(run(config, capsys, "survey", "show", "11", "--json")[1])
    assert found["rows"] == 40
    assert found["features"][0].keys() >= {"mean", "deviation", "minimum", "maximum", "missing", "p50"}

    code, out, _ = run(config, capsys, "survey", "show", "2")
    assert code == 0
    assert "10th percentile" in out
    found = json.loads(run(config, capsys, "survey", "show", "2", "--json")[1])
    assert found["overall"] == {"accuracy": 0.5, "loss": 1.5}
    assert found["devices"]["accuracy"] == {"mean": 0.5, "p10": 0.1, "worst": 0.0}
    assert found["devices"]["loss"]["worst"] == 2.0
    assert found["worst"] == {"accuracy": "press-00", "loss": "press-00"}
    assert found["versions"] == {"2": 6, "3": 5}


FEATURES = """
[features]
channels = ["x", "y"]
rate_hz = 10
window = 5
stride = 5
max_gap_s = 1.0
compute = ["mean", "deviation"]
"""


@pytest.mark.parametrize(
    ("config", "names"),
    [("", ["0", "1", "2", "3"]), (FEATURES, ["x mean", "x deviation", "y mean", "y deviation"])],
    indirect=["config"],
)
def test_features_are_called_as_the_pipeline_calls_them(
    config: Path, capsys: pytest.CaptureFixture[str], names: list[str]
) -> None:
    found = json.loads(run(config, capsys, "survey", "show", "11", "--json")[1])
    assert [feature["name"] for feature in found["features"]] == names
    assert [feature["feature"] for feature in found["features"]] == [0, 1, 2, 3]
    _, out, _ = run(config, capsys, "survey", "show", "11")
    assert all(any(line.startswith(f"{name} ") for line in out.splitlines()) for name in names)
    assert max(map(len, out.splitlines())) <= 80


def test_what_the_command_line_refuses(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(config, capsys, "survey", "show", "9")
    assert (code, "there are: 1111111111111111" in err) == (1, True)
    code, _, err = run(config, capsys, "survey", "statistics")
    assert (code, "start it first" in err) == (1, True)
    code, _, err = run(config, capsys, "survey", "close", "11")
    assert (code, "start it first" in err) == (1, True)
    assert run(config, capsys, "survey", "statistics", "--fraction", "1.5")[0] == 2


def test_statistics_before_training_need_a_place_for_the_constants(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text() + "\n[statistics]\nbefore_training = true\n")
    with pytest.raises(ConfigurationError, match="standardize = true"):
        prepare(path)
