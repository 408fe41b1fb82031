"""Cards: what they say of versions of every kind, and what they say is missing."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator import card as cards
from aggregator.adapters.preparing import prepare
from aggregator.adapters.registry import NotKept
from aggregator.card import Card
from aggregator.card_text import card_json, card_text
from aggregator.commands import SaveAnswer, SaveSurvey
from aggregator.records import Answer
from aggregator.spreads import held_out, spread
from models import build
from models.metrics import ClassificationMetrics
from models.statistics import FeatureStatistics
from protocol.surveys import Survey
from tests.support.plants import Plant, given

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "cards.md"


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


# -- what is in it ---------------------------------------------------------------------------------------------------


def test_what_a_version_was_made_of(plant: Plant) -> None:
    lineage = (given("a", 0, 0, 30), given("b", 0, 3, 40), given("a", 0, 0, 10, clip=0.5))
    plant.withheld("the loss is not finite")
    plant.version(lineage)

    found = plant.card(1)

    made = found.lineage.made_of
    assert made is not None
    assert (made.updates, made.devices, made.examples, made.clipped) == (3, 2, 80, 1)
    assert made.weight == pytest.approx(30 + 10 + 20)
    assert made.staleness == {"0": 2, "3": 1}
    assert made.weight_by_staleness == pytest.approx({"0": 2 / 3, "3": 1 / 3})
    assert [(s.device, s.updates, s.examples, s.staleness) for s in made.heaviest] == [("a", 2, 40, 0), ("b", 1, 40, 3)]
    assert [s.weight_share for s in made.heaviest] == pytest.approx([2 / 3, 1 / 3])
    assert (found.lineage.parent, found.lineage.state, found.kind) == (0, "current", "aggregate")
    assert [(w.reason, w.updates) for w in found.lineage.withheld_before] == [("the loss is not finite", 1)]
    assert found.size.parameters == 15
    assert (found.size.blob_bytes, found.size.update_bytes, found.size.mean_update_bytes) == (60, 300, 100.0)
    assert found.hashes.parameters == hashlib.sha256(np.full(15, 1, "<f4").tobytes()).hexdigest()
    assert found.terms["training"]["learning_rate"] == 0.1
    assert found.terms["security"] == {
        "tls": False, "signed": False, "signing_keys": [], "sealed": False, "sealing_suite": "", "sealing_key": "",
    }  # fmt: skip
    assert "withheld before it" in card_text(found)


def test_a_large_fleet_does_not_make_a_large_card(plant: Plant) -> None:
    plant.version(tuple(given(f"press-{k:04}", 0, 0, 10 + k) for k in range(1500)))
    found = plant.card()
    assert found.lineage.made_of is not None
    assert (len(found.lineage.made_of.heaviest), found.lineage.made_of.more_devices) == (100, 1400)
    assert found.lineage.made_of.heaviest[0].device == "press-1499"
    assert len(card_json(found)) < 40_000
    assert "and 1,490 devices more" in card_text(found)


def test_a_rollback_and_what_it_took_back(plant: Plant) -> None:
    plant.version((given("a", 0, 0, 30),))
    plant.version((given("a", 1, 0, 30),))
    plant.version((given("b", 2, 0, 30),), "rollback", ((2, 2),), rolled_back_to=1)

    assert plant.card(1).lineage.state == "superseded"
    taken = plant.card(2)
    assert (taken.lineage.state, taken.lineage.withdrawn_by) == ("withdrawn", 3)
    assert "withdrawn by version 3" in card_text(taken)
    found = plant.card(3)
    assert (found.kind, found.lineage.parameters_of, found.lineage.parent) == ("rollback", 1, 2)
    assert (found.lineage.set_aside, found.lineage.made_of) == (1, None)
    assert "lineage.made_of" not in found.missing
    assert "1 update of the open buffer were set aside" in " ".join(card_text(found).split())


def test_devices_measure_the_version_that_they_trained_from(plant: Plant) -> None:
    plant.version((given("a", 0, 0, 30, metrics={"holdout_accuracy_before": 0.1, "holdout_accuracy": 0.9}),))
    figures = [{"holdout_accuracy_before": k / 10, "holdout_loss_before": 1 - k / 10} for k in range(11)]
    plant.version(tuple(given(f"d{k:02}", 1, 0, 30, metrics=figures[k]) for k in range(11)))

    accuracy, loss = plant.card(1).measured.held_out
    assert (accuracy.measure, accuracy.devices, accuracy.worst, accuracy.worst_device) == ("accuracy", 11, 0.0, "d00")
    assert [accuracy.p10, accuracy.p25, accuracy.p50, accuracy.p90] == pytest.approx([0.1, 0.25, 0.5, 0.9])
    assert [accuracy.mean, accuracy.best] == pytest.approx([0.5, 1.0])
    assert (loss.worst, loss.worst_device, loss.best) == (1.0, "d00", 0.0)
    assert [loss.p10, loss.p90] == pytest.approx([0.9, 0.1])
    assert plant.card(0).measured.held_out[0].mean == 0.1
    assert plant.card(2).missing["measured.held_out"].startswith("no device that holds out examples")


def test_the_last_word_of_a_device_counts_and_models_are_kept_apart() -> None:
    more = {"holdout_accuracy_global": 0.5, "holdout_accuracy_personal": 0.75, "holdout_accuracy_local": 0.25}
    found = held_out([given("a", 0, 0, 1, metrics={"holdout_accuracy_global": 0.0}), given("a", 0, 0, 1, metrics=more)])
    assert [(each.whose, each.mean) for each in found] == [("global", 0.5), ("personal", 0.75), ("local", 0.25)]
    assert spread("global", "mse", {"a": 2.0}).p90 == 2.0


def asked(plant: Plant, opened: float = 1.7e9) -> None:
    """Ask the fleet: statistics, answered by one device; and an evaluation, answered for versions 1 and 2."""
    total = FeatureStatistics.of(np.arange(8.0).reshape(2, 4), np.array([0, 2]), 3)
    survey = Survey(id="1" * 16, kind="statistics")
    answer = Answer(survey="1" * 16, device_id="a", incarnation="c" * 16, sequence=1, version=0, examples=2)
    plant.put(SaveSurvey(survey=survey, opened=opened, closed=None, total=total))
    plant.put(SaveAnswer(answer=answer, total=total))
    plant.put(
        SaveSurvey(
            survey=Survey(id="2" * 16, kind="evaluation"), opened=1.7e9, closed=None, total=ClassificationMetrics()
        )
    )
    for number, (version, correct) in enumerate([(1, 10), (1, 40), (2, 0)], start=1):
        one = ClassificationMetrics(count=10 * number, correct=correct // number, loss_sum=20.0)
        told = msgspec.structs.replace(
            answer,
            survey="2" * 16,
            device_id=f"d{number}",
            version=version,
            examples=10 * number,
            figures=one.summary(),
        )
        plant.put(SaveAnswer(answer=told, total=one))


def test_what_the_fleet_was_asked(plant: Plant) -> None:
    plant.version((given("a", 0, 0, 30),))
    plant.version((given("a", 1, 0, 30),))
    asked(plant)

    found = plant.card(1)
    (survey,) = found.measured.surveys
    assert (survey.devices, survey.examples, survey.open) == (2, 30, True)
    assert survey.overall["accuracy"] == pytest.approx(1.0)
    assert plant.card(2).measured.surveys[0].figures[0].worst == 0.0
    assert (found.data["survey"], found.data["before"], found.data["classes"]) == ("1" * 16, True, [1, 0, 1])
    assert [(each["name"], each["mean"]) for each in found.data["features"]] == [(str(k), k + 2.0) for k in range(4)]
    for text in ("## Data", "before this version was made", "Asked of the fleet", "0: 1 (50.0 %)"):
        assert text in card_text(found)
    assert "data" not in found.missing


def test_statistics_that_came_later_are_called_later(plant: Plant) -> None:
    asked(plant, opened=1.8e9)
    plant.version((given("a", 0, 0, 30),))
    found = plant.card(1)
    assert found.data["before"] is False
    assert "after this version was made" in " ".join(card_text(found).split())


def test_features_have_the_names_of_the_pipeline(tmp_path: Path) -> None:
    more = '[features]\nchannels = ["temperature"]\nmax_gap_s = 60\nwindow = 10\nlabel = "majority"\n'
    more += 'compute = ["mean", "deviation", "minimum", "maximum"]\n'
    plant = Plant(tmp_path, more)
    asked(plant, 0.0)
    names = [each["name"] for each in plant.card().data["features"]]
    assert len(names) == 4
    assert all("temperature" in name for name in names)
    assert names[0] in card_text(plant.card())


# -- what is not in it -----------------------------------------------------------------------------------------------


def test_what_is_missing_is_said(plant: Plant) -> None:
    found = plant.card(0)
    assert set(found.missing) == {"measured.aggregator", "measured.held_out", "measured.surveys", "data", "exports"}
    assert found.missing["data"] == "no statistics were asked: `fedmq-aggregator survey statistics`"
    assert (found.data, found.measured.surveys, found.exports, found.lineage.made_of) == ({}, [], [], None)
    text = card_text(found)
    assert "## Not known" in text
    assert "## Data" not in text
    assert max(map(len, text.splitlines())) <= 80
    with pytest.raises(NotKept, match="there is no version 7"):
        plant.card(7)


def test_a_version_without_its_parameters_has_a_card(tmp_path: Path) -> None:
    plant = Plant(tmp_path, "[registry]\nkeep_parameters = 1")
    for number in range(3):
        plant.version((given("a", number, 0, 30),))
    found = plant.card(1)
    assert not found.parameters_kept
    assert found.hashes.parameters == hashlib.sha256(np.full(15, 1, "<f4").tobytes()).hexdigest()
    assert "keep_parameters" in found.missing["parameters"]
    assert found.size.parameters == 15


def test_what_the_fleet_found_before_it_was_published(plant: Plant) -> None:
    plant.withheld("the loss is not finite")
    plant.withheld("accuracy is worse by 0.4 on 9 devices; 0.02 worse is allowed", "withdrawn")
    figures = {"devices": 8.0, "worse": -0.25, "margin": 0.02, "fleet_accuracy": 0.75, "fleet_accuracy_before": 0.5}
    why = "accuracy is better by 0.25 on 8 devices; 0.02 worse is allowed"
    plant.version((given("a", 0, 0, 30),), why=why, found={"accuracy": 0.7, **figures})
    plant.version((given("a", 1, 0, 30),))

    found = plant.card(1)

    assert [each.reason for each in found.lineage.withheld_before] == ["the loss is not finite"]
    assert [each.reason[:24] for each in found.lineage.withdrawn_before] == ["accuracy is worse by 0.4"]
    tried = found.lineage.tried
    assert tried is not None
    assert (tried.why, tried.devices) == (why, 8)
    assert tried.figures == {name: value for name, value in figures.items() if name != "devices"}
    told = " ".join(card_text(found).split())
    assert f"tried it before it was published: {why}. On 8 devices: accuracy 0.75, its parent's 0.5." in told
    assert "withdrawn before it, " in told
    assert plant.card(2).lineage.tried is None


def test_a_store_from_before_cards_goes_on(plant: Plant) -> None:
    plant.version((given("a", 0, 0, 30),))
    with closing(sqlite3.connect(plant.state_dir / "aggregator.sqlite")) as db:
        db.executescript("DROP TABLE terms; DROP TABLE candidate")
        db.executescript("ALTER TABLE versions DROP COLUMN terms; PRAGMA user_version = 4")
    plant.version((given("a", 1, 0, 30),))
    assert (plant.card(1).terms, plant.card(2).terms["model"]["kind"]) == ({}, "softmax")
    assert "from before" in plant.card(1).missing["terms"]
    assert "## Privacy" not in card_text(plant.card(1))


def test_terms_are_those_at_the_time_and_kept_once(plant: Plant) -> None:
    plant.version((given("a", 0, 0, 30),))
    plant.version((given("a", 1, 0, 30),))
    plant.config.write_text(plant.config.read_text().replace("learning_rate = 0.1", "learning_rate = 0.25"))
    plant.prepared = prepare(plant.config)
    plant.put()
    plant.prepared = prepare(plant.config)
    plant.version((given("a", 2, 0, 30),))
    assert [plant.card(n).terms["training"]["learning_rate"] for n in range(4)] == [0.1, 0.1, 0.1, 0.25]
    with closing(sqlite3.connect(plant.state_dir / "aggregator.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM terms").fetchone() == (2,)
    # A start of other settings under which no version was made leaves nothing.
    plant.config.write_text(plant.config.read_text().replace("learning_rate = 0.25", "learning_rate = 0.5"))
    plant.prepared = prepare(plant.config)
    plant.put()
    plant.config.write_text(plant.config.read_text().replace("learning_rate = 0.5", "learning_rate = 0.25"))
    plant.prepared = prepare(plant.config)
    plant.put()
    with closing(sqlite3.connect(plant.state_dir / "aggregator.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM terms").fetchone() == (2,)


def test_every_field_is_documented() -> None:
    text = DOCUMENT.read_text()
    structs = [kind for kind in vars(cards).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    for kind in structs:
        for name in kind.__struct_fields__:
            assert f"`{name}`" in text, f"{kind.__name__}.{name}"


def test_the_example_of_the_document_is_a_card() -> None:
    block = DOCUMENT.read_text().split("```json\n")[1].split("```")[0]
    card = msgspec.json.decode(block, type=Card)
    assert card.card == cards.CARD_FORMAT
    assert build(card.model["spec"]).layout.size == card.size.parameters
    assert card_text(card).startswith("# Version")
