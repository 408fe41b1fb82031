"""Every fault that is known to repeat, for a day or a week of virtual time: what the log says of it is bounded.

The faults are driven through the real cores and through the link's own counting; the lines go through the real handler.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from aggregator.adapters.snapshot import INTERVAL_S, SnapshotKeeper
from aggregator.commands import Log as AggregatorLog
from aggregator.events import StoreFailed
from aggregator.publishing import RETRY_S
from device_agent import commands as do
from device_agent import events as ev
from device_agent.service import LEVELS
from device_agent.troubles import Troubles
from models import build
from protocol.adapters.repeats import Repeats
from protocol.backoff import Backoff
from protocol.clock import moment
from protocol.loglines import with_fields
from protocol.repetition import FAULT_LINES_PER_H
from tests.aggregator.harness import Bench, fresh, settings_with
from tests.device_agent.harness import Driver
from tests.support.journal import Journal
from tests.support.stores import version_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = 86400.0
WEEK = 7 * DAY


class Told:
    """What a device's core tells, logged as the service does it."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.driver = Driver()
        self._troubles = Troubles()
        self._heard = 0

    def listen(self) -> None:
        self.journal.now = self.driver.now
        for command in self.driver.commands[self._heard :]:
            if isinstance(command, do.Log):
                for told in (command, *self._troubles.after(command, self.driver.now)):
                    self.journal.log.log(LEVELS[told.level], "%s", with_fields(told.message, told.fields))
        self._heard = len(self.driver.commands)

    def fail_for_a_day(self, fail: Callable[[do.Train], object]) -> int:
        """Have each training end so; return how many there were."""
        seen, until = -1, self.driver.now + DAY
        count = 0
        while self.driver.now < until:
            tasks = self.driver.all(do.Train)
            if tasks and tasks[-1].task != seen:
                seen = tasks[-1].task
                count += 1
                fail(tasks[-1])
            self.driver.wait(10.0)
            self.listen()
        return count


@pytest.fixture
def told() -> Told:
    made = Told()
    made.driver.start()
    made.driver.hold()
    made.listen()
    made.journal.lines.clear()
    return made


def test_trainings_that_fail(told: Told) -> None:
    count = told.fail_for_a_day(
        lambda task: told.driver.give(
            ev.TaskFailed(task=task.task, reason="samples.csv: line 7 has 3 columns", fault="data")
        )
    )
    assert count > 50
    assert told.journal.busiest_hour() <= FAULT_LINES_PER_H
    assert any("training failed reason='samples.csv: line 7" in line for line in told.journal.texts)
    told.driver.wait(4000.0)
    told.driver.finish_training()
    told.listen()
    assert any(f"over: training failed after {count} failures in 25 h" in line for line in told.journal.texts)


def test_a_full_disk_of_a_device(told: Told) -> None:
    told.driver.disk.write_error = "database or disk is full"
    count = told.fail_for_a_day(lambda _task: told.driver.finish_training())
    assert count > 50
    assert told.journal.busiest_hour() <= FAULT_LINES_PER_H
    told.driver.disk.write_error = ""
    told.driver.wait(4000.0)
    told.driver.finish_training()
    told.listen()
    assert any("over: cannot write the outbox after" in line for line in told.journal.texts)


def test_receipts_that_say_later(told: Told) -> None:
    told.driver.finish_training()
    sequence = told.driver.updates()[-1]
    told.listen()
    told.journal.lines.clear()
    sent, until = 0, told.driver.now + DAY
    while told.driver.now < until:
        told.driver.wait(30.0)
        now_sent = len(told.driver.sent())
        if now_sent > sent:
            sent = now_sent
            told.driver.answer(sequence, "retry", reason="the aggregator cannot store it: disk full")
        told.listen()
    assert sent > 50
    assert told.journal.busiest_hour() <= FAULT_LINES_PER_H
    told.driver.answer(sequence)
    told.listen()
    assert any("over: receipt retry after" in line for line in told.journal.texts)


@pytest.mark.parametrize(
    "reasons",
    [
        ["broker port 8883 cannot be reached: Connection refused"],
        ["the name 'broker' cannot be resolved: Temporary failure in name resolution", "did not answer within 15 s"],
        ["the broker's certificate is not valid before 2026-01-01 00:00 UTC, and the clock here says {}"],
        ["the broker refused our certificate: it was revoked"],
    ],
    ids=["refused", "flapping", "clock", "revoked"],
)
def test_a_broker_that_is_away_for_a_week(reasons: list[str]) -> None:
    journal, rng = Journal(), random.Random(1)
    backoff = Backoff(0.5, 60.0, rng)
    repeats = Repeats(journal.log, "link press-07 to broker:8883", lambda: journal.now)
    attempts = 0
    while journal.now < WEEK:
        repeats.note(rng.choice(reasons).format(moment(journal.now)))
        attempts += 1
        journal.now += backoff.next_s()
    assert attempts > 10_000
    assert journal.busiest_hour() <= len(reasons) * FAULT_LINES_PER_H
    assert len(journal.lines) <= len(reasons) * (FAULT_LINES_PER_H + WEEK / 3600.0)
    assert "(again " in journal.texts[-1]
    assert repeats.tally() == f" after {attempts} failures in 7 d"


def test_a_link_that_comes_and_goes() -> None:
    """Each connection is a success, so that every failure is the first one."""
    journal = Journal()
    repeats = Repeats(journal.log, "link press-07 to broker:8883", lambda: journal.now)
    while journal.now < DAY:
        repeats.note("the broker closed the connection")
        journal.now += 2.0
        journal.log.info(f"link press-07: connected by MQTT 5{repeats.tally()}")
        journal.now += 1.0
    assert journal.busiest_hour() <= 2 * FAULT_LINES_PER_H


def test_a_full_disk_of_the_aggregator() -> None:
    bench, journal = Bench(), Journal()
    while journal.now < DAY:
        for command in bench.core.handle(StoreFailed(reason="database or disk is full", lost=()), journal.now, 0.0):
            if isinstance(command, AggregatorLog):
                journal.log.log(LEVELS[command.level], "%s", with_fields(command.text, command.fields))
        journal.now += 10.0
    assert journal.busiest_hour() <= FAULT_LINES_PER_H
    assert journal.texts[0] == ("<3>cannot store; devices are asked to keep updates reason='database or disk is full'")


def test_a_broker_that_takes_no_model() -> None:
    journal = Journal()
    while journal.now < DAY:
        text = f"the broker did not take the model; trying again in {RETRY_S:g} s"
        journal.log.warning("%s", with_fields(text, {"reason": "the link is down"}))
        journal.now += RETRY_S
    assert journal.busiest_hour() <= FAULT_LINES_PER_H


def test_a_snapshot_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = build({"kind": "softmax", "inputs": 4, "outputs": 3})
    keeper = SnapshotKeeper(tmp_path / "none", "test", model, fresh(settings_with(), model, "5" * 16))
    keeper.note(version_record(0, np.zeros(15, np.float32)), ())
    for number in range(1000):
        keeper.write_if_due(number * INTERVAL_S)
    assert len(caplog.records) == 1, "by the clock it was the same moment"
    (tmp_path / "none").mkdir()
    with caplog.at_level("INFO"):
        keeper.write()
    assert "written again after 1000 failures" in caplog.text


def test_a_version_every_second_is_no_flood_either() -> None:
    journal = Journal()
    for version in range(86_400):
        journal.now = float(version)
        fields = {"version": version, "updates": 8, "accuracy": 0.9 + version % 7 / 100}
        journal.log.info("%s", with_fields("version made", fields))
    assert journal.busiest_hour() <= 2 * FAULT_LINES_PER_H
