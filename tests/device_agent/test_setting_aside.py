"""The core's part of interruptions: who is told to stop, what is kept and dropped, and what is counted."""

from __future__ import annotations

import random

import pytest

from device_agent import commands as do
from device_agent import events as ev
from device_agent.core import STOP_S
from device_agent.keeping import DAY_S, WriteBudget
from device_agent.settings import TrainingSettings
from tests.device_agent.harness import Driver, settings


def training(**tables: TrainingSettings) -> Driver:
    driver = Driver(settings(**tables))
    driver.start()
    driver.hold(1)
    return driver


def set_aside(driver: Driver, **fields: float) -> list[do.Command]:
    return driver.give(ev.TaskStopped(task=driver.last(do.Train).task, **fields))


def counted(driver: Driver) -> tuple[int, int]:
    counters = driver.disk.durable.counters
    return counters.trainings_interrupted, counters.trainings_resumed


def test_the_end_of_the_process_sets_a_training_aside() -> None:
    driver = training()
    commands = driver.give(ev.StopRequested())
    assert commands == [do.StopTask(keep=True)]
    assert driver.all(do.Exit, set_aside(driver, kept_share=0.25))
    assert counted(driver) == (1, 0)
    again = driver.restarted()
    again.start()
    again.wait(10.0)
    task = again.last(do.Train)
    assert (task.manifest.version, task.contribution) == (1, 0)
    again.give(ev.TrainingResumed(task=task.task, num_steps=5, planned=20))
    again.finish_training()
    assert counted(again) == (1, 1)
    assert again.last(do.Log).message in {"update ready", "training goes on", "receipt"}


def test_a_step_that_goes_on_does_not_hold_up_the_end() -> None:
    driver = training()
    driver.give(ev.StopRequested())
    assert driver.all(do.Exit, driver.wait(STOP_S))
    assert counted(driver) == (1, 0)


def test_a_result_of_the_last_moment_is_written_down() -> None:
    driver = training()
    driver.give(ev.StopRequested())
    commands = driver.finish_training()
    kinds = [type(command) for command in commands if isinstance(command, do.Persist | do.Exit | do.DropCheckpoint)]
    assert kinds == [do.Persist, do.DropCheckpoint, do.Persist, do.Exit]
    assert (driver.disk.durable.next_sequence, list(driver.disk.rows)) == (2, [1])
    assert driver.disk.durable.trained is not None


def test_a_result_of_the_last_moment_that_cannot_be_written_holds_up_nothing() -> None:
    driver = training()
    driver.give(ev.StopRequested())
    driver.disk.write_error = "disk full"
    assert driver.all(do.Exit, driver.finish_training())
    assert driver.disk.rows == {}


def test_an_evaluation_is_not_kept_at_the_end() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    driver.finish_training()
    driver.command("evaluate")
    assert driver.give(ev.StopRequested()) == [do.StopTask(keep=False)]


def test_pause_interrupts_and_resume_goes_on() -> None:
    driver = training()
    assert driver.all(do.StopTask, driver.command("pause", "1" * 16)) == [do.StopTask(keep=True)]
    set_aside(driver, kept_share=0.5)
    driver.wait(100.0)
    assert len(driver.all(do.Train)) == 1
    assert driver.states()[-1].reason == "paused by command"
    driver.command("resume", "2" * 16)
    first, second = driver.all(do.Train)
    assert (second.contribution, second.sequence) == (first.contribution, first.sequence)
    assert counted(driver)[0] == 1


def test_a_result_that_was_too_quick_for_a_pause_counts() -> None:
    driver = training()
    driver.command("pause")
    driver.finish_training()
    assert driver.updates() == [1]


@pytest.mark.parametrize(("own_s", "rest_s", "wanted_s"), [(0.0, 60.0, 60.0), (200.0, 60.0, 200.0)])
def test_after_a_deadline_it_rests_and_goes_on(own_s: float, rest_s: float, wanted_s: float) -> None:
    driver = training(training=TrainingSettings(min_interval_s=own_s))
    commands = set_aside(driver, kept_share=0.4, rest_s=rest_s)
    (told,) = (command for command in commands if isinstance(command, do.Log))
    assert told.fields == {"kept": "40.0%", "deadline_s": rest_s}
    driver.wait(wanted_s - 1.0)
    assert len(driver.all(do.Train)) == 1
    driver.wait(1.0)
    assert len(driver.all(do.Train)) == 2


def test_a_newer_version_is_trained_instead() -> None:
    driver = training()
    set_aside(driver, kept_share=0.4, rest_s=1000.0)
    driver.hold(2)
    driver.wait(1000.0)
    assert driver.last(do.Train).manifest.version == 2


def test_the_checkpoint_goes_once_the_update_is_on_disk_and_not_before() -> None:
    driver = training()
    driver.disk.write_error = "disk full"
    assert not driver.all(do.DropCheckpoint, driver.finish_training())
    driver.disk.write_error = ""
    driver.wait(700.0)
    commands = driver.finish_training()
    kinds = [type(command) for command in commands if isinstance(command, do.Persist | do.DropCheckpoint)]
    assert kinds[:2] == [do.Persist, do.DropCheckpoint]


def test_forget_keeps_nothing() -> None:
    driver = training()
    commands = driver.command("forget")
    assert driver.all(do.StopTask, commands) == [do.StopTask(keep=False)]
    assert driver.all(do.DropCheckpoint, commands)


def test_why_a_training_begins_anew_is_logged() -> None:
    driver = training()
    commands = driver.give(ev.TrainingNoted(task=1, message="a training begins anew", reason="the samples changed"))
    assert [(log.level, log.fields["reason"]) for log in driver.all(do.Log, commands)] == [
        ("warning", "the samples changed")
    ]


def test_the_budget_is_a_days_bytes_and_leaves_half_to_interruptions() -> None:
    budget = WriteBudget(1000)
    taken = [budget.take(100, 0.0, urgent=False) for _ in range(8)]
    assert taken == [True] * 5 + [False] * 3
    assert [budget.take(100, 0.0, urgent=True) for _ in range(6)] == [True] * 5 + [False]
    assert not budget.take(100, DAY_S / 11, urgent=True)
    assert budget.take(100, DAY_S / 9, urgent=True)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_asked_a_day_writes_no_more_than_two_days_bytes(seed: int) -> None:
    chance = random.Random(seed)
    budget, written, now = WriteBudget(1000), 0, 0.0
    while now < 10 * DAY_S:
        size = chance.randint(1, 300)
        written += size * budget.take(size, now, urgent=chance.random() < 0.5)
        now += chance.expovariate(1 / 600)
    assert 5000 < written <= 11_000


def test_no_budget_is_no_bound() -> None:
    assert WriteBudget(0).take(10**12, 0.0, urgent=False)
