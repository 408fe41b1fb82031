"""A device answers each survey once in the life of its outbox, between trainings, when it may work at all."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from device_agent import commands as do
from device_agent import events as ev
from device_agent.policy import Readings
from device_agent.sealing import sealed_answer
from device_agent.settings import PolicySettings
from protocol.messages import Manifest, Sealing
from protocol.packing import decode_up
from protocol.sealing import Opener
from protocol.surveys import Report, SealedReport, Survey
from tests.device_agent.harness import DEVICE, Driver, manifest, model_bytes, settings

FIRST, SECOND = (Survey(id=letter * 16, kind="statistics") for letter in "ab")
CONTENT = b"\x80"


def asking(version: int = 0, *surveys: Survey, **fields: Any) -> Manifest:
    return replace(manifest(version), surveys=list(surveys), **fields)


def holding(what: Manifest, **tables: Any) -> Driver:
    driver = Driver(settings(**tables))
    driver.start()
    driver.announce(what)
    driver.chunks(what, model_bytes(what.version))
    return driver


def answers(driver: Driver) -> list[str]:
    return [command.survey.id for command in driver.all(do.Answer)]


def finish(driver: Driver) -> list[do.Command]:
    task = driver.last(do.Answer)
    done = ev.SurveyAnswered(task=task.task, survey=task.survey, content=CONTENT)
    return driver.give(sealed_answer(done, task, DEVICE))


def reports(driver: Driver) -> list[Report]:
    return [message for message in driver.sent() if isinstance(message, Report)]


def counts(driver: Driver) -> dict[str, int]:
    counters = driver.core._parts.ledger.state.counters
    names = ("created", "accepted", "duplicate", "stale", "rejected", "dropped")
    return {name: found for name in names if (found := getattr(counters, f"reports_{name}"))}


def test_surveys_come_before_training_one_after_the_other_and_once() -> None:
    driver = holding(asking(0, FIRST, SECOND))
    assert answers(driver) == [FIRST.id]
    persisted = driver.all(do.Persist, finish(driver))[0]
    assert persisted.put
    assert (persisted.put.entry.survey, persisted.state.answered) == (FIRST.id, [FIRST.id])
    assert persisted.state.next_sequence == 2
    assert answers(driver) == [FIRST.id, SECOND.id]
    assert not driver.all(do.Train)
    finish(driver)
    assert len(driver.all(do.Train)) == 1
    assert [(r.sequence, r.survey, r.content) for r in reports(driver)] == [(1, FIRST.id, CONTENT)]
    driver.answer(1)
    driver.answer(2, "stale", reason="closed-survey: closed")
    assert counts(driver) == {"created": 2, "accepted": 1, "stale": 1}
    assert driver.core._parts.ledger.state.counters.updates_accepted == 0

    again = driver.restarted()
    again.start()
    again.announce(asking(0, FIRST, SECOND))
    again.wait(100.0)
    assert not answers(again)


def test_killed_before_the_row_it_answers_again_and_after_it_never() -> None:
    driver = holding(asking(0, FIRST))
    again = driver.restarted()
    again.start()
    again.announce(asking(0, FIRST))
    assert answers(again) == [FIRST.id]
    finish(again)
    third = again.restarted()
    third.start()
    third.announce(asking(0, FIRST))
    assert not answers(third)
    assert [report.sequence for report in reports(third)] == [1]


def test_a_version_that_is_not_to_be_trained_is_not() -> None:
    driver = holding(asking(0, FIRST, trains=False))
    finish(driver)
    driver.wait(1000.0)
    assert not driver.all(do.Train)
    what = asking(1)
    driver.announce(what)
    driver.chunks(what, model_bytes(1))
    assert len(driver.all(do.Train)) == 1


def test_a_survey_of_others_is_not_answered() -> None:
    driver = holding(asking(0, replace(FIRST, fraction=1e-9)))
    assert not answers(driver)
    assert len(driver.all(do.Train)) == 1


def test_a_survey_opened_while_training_waits_for_its_end() -> None:
    driver = holding(manifest(0))
    driver.announce(asking(0, FIRST), live=True)
    assert not answers(driver)
    driver.finish_training()
    assert answers(driver) == [FIRST.id]


def test_paused_it_answers_nothing() -> None:
    driver = Driver()
    driver.start()
    driver.command("pause")
    what = asking(0, FIRST)
    driver.announce(what)
    driver.chunks(what, model_bytes(0))
    assert not answers(driver)
    driver.command("resume", "1" * 16)
    assert answers(driver) == [FIRST.id]


def test_the_policy_holds_answers_up_as_it_does_trainings() -> None:
    driver = Driver(settings(policy=PolicySettings(max_cpu_c=80.0)))
    driver.readings = Readings(cpu_c=95.0)
    driver.start()
    what = asking(0, FIRST)
    driver.announce(what)
    driver.chunks(what, model_bytes(0))
    driver.wait(300.0)
    assert not answers(driver)
    driver.readings = Readings(cpu_c=40.0)
    driver.wait(300.0)
    assert answers(driver) == [FIRST.id]


def test_what_fails_is_tried_again_ever_more_rarely() -> None:
    driver = holding(asking(0, FIRST))
    for _ in range(5):
        driver.give(ev.TaskFailed(task=driver.last(do.Answer).task, reason="no samples", fault="data"))
        before = len(answers(driver))
        driver.wait(1000.0)
        assert len(answers(driver)) > before
    assert len(answers(driver)) < 20
    assert driver.core.line().endswith("no samples")


def test_a_report_that_could_not_be_written_is_made_again() -> None:
    driver = holding(asking(0, FIRST))
    driver.disk.write_error = "disk full"
    finish(driver)
    assert counts(driver) == {}
    driver.disk.write_error = ""
    driver.wait(1000.0)
    assert len(answers(driver)) == 2
    finish(driver)
    assert counts(driver) == {"created": 1}


def test_an_interrupted_training_is_kept_when_a_report_is_written() -> None:
    driver = holding(asking(0, FIRST))
    assert not driver.all(do.DropCheckpoint, finish(driver))


@pytest.mark.parametrize("suite", ["x25519"])
def test_sealed_where_updates_are(suite: Any) -> None:
    opener = Opener([(suite, bytes(range(32)))])
    sealing = Sealing(suite=suite, key=opener.sealing.key)
    driver = holding(asking(0, FIRST, sealing=sealing))
    finish(driver)
    ((row),) = driver.disk.rows.values()
    sent = decode_up(row.payload)
    assert isinstance(sent, SealedReport)
    report = opener.open_report(sent)
    assert (report.content, report.survey, report.sequence) == (CONTENT, FIRST.id, 1)
