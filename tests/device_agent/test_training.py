from __future__ import annotations

import random

import pytest

from device_agent import commands as do
from device_agent import events as ev
from device_agent.settings import DataSettings, MetricsSettings, TrainingSettings
from protocol.messages import DeviceCommand
from protocol.packing import encode
from protocol.sampling import participates
from tests.device_agent.harness import DEVICE, EPOCH, TOPICS, Driver, manifest, model_bytes, settings


def trains(driver: Driver, commands: list[do.Command] | None = None) -> list[tuple[int, int]]:
    return [(task.manifest.version, task.contribution) for task in driver.all(do.Train, commands)]


def fail(driver: Driver, reason: str = "bad file", fault: ev.Fault = "data") -> list[do.Command]:
    return driver.give(ev.TaskFailed(task=driver.last(do.Train).task, reason=reason, fault=fault))


def test_a_version_is_trained_on_once_also_over_a_restart() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    driver.finish_training()
    driver.answer(1)
    driver.wait(1000.0)
    again = driver.restarted()
    again.start()
    again.announce(manifest(1))
    again.wait(1000.0)
    assert (trains(driver), trains(again)) == ([(1, 0)], [])


def test_as_often_as_the_manifest_says() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1, contributions_per_version=3)
    for _ in range(2):
        driver.finish_training()
    again = driver.restarted()
    again.start()
    again.announce(manifest(1, contributions_per_version=3))
    again.finish_training()
    again.wait(100.0)
    assert trains(driver) == [(1, 0), (1, 1), (1, 2)]
    assert trains(again) == [(1, 2)]


def test_a_training_that_a_kill_interrupted_is_done_again() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    again = driver.restarted()
    again.start()
    assert trains(again) == []  # first it hears whether there is something newer
    again.announce(manifest(1))
    assert trains(again) == [(1, 0)]


def test_a_newer_manifest_does_not_stop_a_training_and_is_trained_next() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    driver.hold(2)
    assert trains(driver) == [(1, 0)]
    driver.finish_training()
    assert driver.disk.rows[1].entry.base_version == 1
    assert trains(driver) == [(1, 0), (2, 0)]


def test_no_training_on_the_old_model_while_the_new_one_is_on_its_way() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    newer = manifest(2)
    driver.announce(newer)
    driver.finish_training()
    driver.announce(manifest(1))
    assert trains(driver) == [(1, 0)]
    driver.chunks(newer, model_bytes(2))
    assert trains(driver) == [(1, 0), (2, 0)]


def test_a_device_trains_offline_with_the_cached_model() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    again = driver.restarted()
    again.start(connect=False)
    assert trains(again) == []
    again.cut()
    assert trains(again) == [(1, 0)]
    again.finish_training()
    assert again.updates() == []
    assert again.updates(again.connect()) == [1]


def test_a_model_that_a_power_cut_took_back_is_not_trained_again() -> None:
    driver = Driver()
    driver.start()
    old = driver.hold(1)
    driver.finish_training()
    driver.answer(1)
    driver.hold(2)
    driver.finish_training()
    driver.disk.model = old  # the outbox was synced later than the renaming
    again = driver.restarted()
    again.start(connect=False)
    again.cut()
    again.wait(1000.0)
    assert trains(again) == []
    again.connect()
    again.hold(2)
    again.wait(10.0)
    assert trains(again) == []
    again.hold(3)
    assert trains(again) == [(3, 0)]


def test_a_broker_that_says_nothing_does_not_keep_a_device_from_training() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    again = driver.restarted()
    again.start()
    again.wait(6.0)
    assert trains(again) == [(1, 0)]


def test_who_takes_part_is_drawn_by_hash() -> None:
    driver = Driver()
    driver.start()
    for version in range(40):
        driver.hold(version, sampling_fraction=0.5)
        if trains(driver) and trains(driver)[-1][0] == version:
            driver.finish_training()
    drawn = [version for version in range(40) if participates(DEVICE, EPOCH, version, 0.5)]
    assert [version for version, _ in trains(driver)] == drawn
    assert 8 < len(drawn) < 32


def test_rest_between_trainings() -> None:
    driver = Driver(settings(training=TrainingSettings(min_interval_s=30.0)))
    driver.start()
    driver.hold(1)
    driver.finish_training()
    driver.hold(2)
    assert trains(driver, driver.wait(29.0)) == []
    assert trains(driver, driver.wait(2.0)) == [(2, 0)]


def test_the_aggregator_sets_the_pace() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    driver.finish_training()
    driver.answer(1, next_after_s=100.0)
    driver.hold(2)
    assert trains(driver, driver.wait(99.0)) == []
    assert trains(driver, driver.wait(2.0)) == [(2, 0)]


def test_a_failing_training_is_told_and_tried_again_ever_more_rarely() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    fail(driver)
    driver.wait(0.5)
    assert driver.states()[-1].reason == "bad file"
    for _ in range(300):
        driver.wait(100.0)
        if driver.core.deadline(driver.now) is not None and len(trains(driver)) > 1:
            fail(driver)
    assert 20 < len(trains(driver)) < 320
    assert driver.disk.rows == {}


@pytest.mark.parametrize("news", ["samples", "version", "plan"])
def test_what_failed_is_tried_at_once_when_something_changed(news: str) -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    fail(driver)
    count = len(trains(driver))
    if news == "samples":
        driver.give(ev.DataChanged())
    elif news == "version":
        driver.hold(2)
    else:
        driver.announce(manifest(1, contributions_per_version=2))
    assert len(trains(driver)) == count + 1


def test_a_damaged_cache_is_fetched_again_but_not_in_a_loop() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    commands = fail(driver, "the cached model is damaged", "cache")
    assert driver.all(do.DropModel, commands)
    assert driver.subscribed(commands) == [TOPICS.current_model]
    driver.hold(1)
    assert len(trains(driver)) == 1
    driver.wait(10.0)
    assert len(trains(driver)) == 2


def test_samples_are_looked_at_as_often_as_configured() -> None:
    driver = Driver(settings(data=DataSettings(path="x.csv", watch_s=10.0)))
    driver.start()
    assert 9 <= len(driver.all(do.CheckData, driver.wait(100.0))) <= 10


def test_a_look_at_the_samples_waits_for_another_wake_up() -> None:
    data, metrics = DataSettings(path="x.csv", watch_s=30.0), MetricsSettings(interval_s=30.0)
    driver = Driver(settings(data=data, metrics=metrics))
    driver.start(connect=False)
    driver.now += 0.05
    driver.connect()
    driver.wait(60.0)
    before, wakes = len(driver.all(do.CheckData)), 0
    until = driver.now + 3000.0
    while (deadline := driver.core.deadline(driver.now)) is not None and deadline < until:
        driver.now = max(driver.now, deadline)
        driver.give(ev.Tick())
        wakes += 1
    assert len(driver.all(do.CheckData)) - before in (99, 100)
    assert wakes in (99, 100)


def test_pause_and_resume_survive_a_restart() -> None:
    driver = Driver()
    driver.start()
    driver.command("pause", "1" * 16)
    driver.hold(1)
    assert trains(driver) == []
    again = driver.restarted()
    again.start()
    again.announce(manifest(1))
    again.wait(100.0)
    assert trains(again) == []
    assert again.states()[-1].reason == "paused by command"
    again.command("resume", "2" * 16)
    assert trains(again) == [(1, 0)]


def test_a_command_is_obeyed_once() -> None:
    driver = Driver()
    driver.start()
    driver.command("pause", "1" * 16)
    driver.command("resume", "2" * 16)
    again = driver.restarted()
    again.start()
    for command in ("1" * 16, "1" * 16):
        again.command("pause", command)
    again.hold(1)
    assert trains(again) == [(1, 0)]


def test_a_retained_command_is_refused() -> None:
    driver = Driver()
    driver.start()
    payload = encode(DeviceCommand(federation="fed", request_id="3" * 16, action="pause", target=DEVICE, issued=1))
    driver.receive(TOPICS.command_all, payload, retain=True)
    driver.hold(1)
    assert trains(driver) == [(1, 0)]


def test_evaluate_measures_the_held_model_and_publishes() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    driver.command("evaluate")
    assert driver.all(do.Evaluate) == []  # one task at a time
    driver.finish_training()
    task = driver.last(do.Evaluate)
    assert task.manifest.version == 1
    driver.give(ev.EvaluationDone(task=task.task, metrics={"accuracy": 0.75, "loss": 0.5}))
    driver.wait(1.5)
    metrics = driver.last(do.PublishMetrics).metrics
    assert (metrics.holdout_accuracy, metrics.holdout_loss) == (0.75, 0.5)


def test_forget_drops_model_and_outbox_and_starts_over() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    driver.finish_training()
    driver.hold(2)
    commands = driver.command("forget")
    assert driver.disk.rows == {}
    assert driver.disk.model is None
    assert driver.subscribed(commands) == [TOPICS.current_model]
    assert driver.disk.durable.counters.updates_dropped == 1
    driver.give(ev.TaskStopped(task=driver.last(do.Train).task))
    driver.hold(2)
    assert trains(driver) == [(1, 0), (2, 0), (2, 0)]
    driver.finish_training()
    assert driver.updates()[-1] == 2


def test_the_same_events_and_seed_lead_to_the_same_commands() -> None:
    def run() -> list[do.Command]:
        chance = random.Random(5)
        driver = Driver(seed=9)
        driver.start()
        for version in range(1, 10):
            driver.hold(version)
            driver.finish_training()
            driver.wait(chance.uniform(0.0, 300.0))
            driver.answer(version, chance.choice(["accepted", "retry", "stale"]))
        return driver.commands

    assert run() == run()


def test_while_an_update_was_asked_to_wait_the_device_trains_no_other_behind_it() -> None:
    driver = Driver()
    driver.start()
    driver.hold(version=1)
    driver.finish_training()
    driver.answer(1, "retry", next_after_s=30.0)
    driver.hold(version=2)
    assert [version for version, _ in trains(driver)] == [1]

    driver.answer(1, "accepted")

    assert [version for version, _ in trains(driver)] == [1, 2]


def test_offline_it_trains_on_even_then() -> None:
    driver = Driver()
    driver.start()
    driver.hold(version=1)
    driver.finish_training()
    driver.answer(1, "retry", next_after_s=1e6)
    driver.hold(version=2)

    driver.cut()
    driver.wait(30.0)

    assert [version for version, _ in trains(driver)] == [1, 2]
