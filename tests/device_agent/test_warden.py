"""The core with a policy: when it asks the sensors, what it stops, what it says, and what it sends meanwhile."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from device_agent import commands as do
from device_agent import events as ev
from device_agent.policy import Readings
from device_agent.settings import PolicySettings, SleepSettings
from tests.device_agent.harness import Disk, Driver, settings
from tests.device_agent.test_policy import OFF

HOT, WARM, COOL = Readings(cpu_c=83.0), Readings(cpu_c=77.0), Readings(cpu_c=60.0)
WAITS = "waits: CPU at 83 C, goes on below 75 C"


def driver(disk: Disk | None = None, *, readings: Readings = COOL, tables: Any = None, **rules: Any) -> Driver:
    policy = PolicySettings(**(OFF | {"max_cpu_c": 80} | rules))
    made = Driver(settings(policy=policy, **(tables or {})), disk)
    made.readings = readings
    return made


def looks(device: Driver, commands: list[do.Command]) -> int:
    return len(device.all(do.TakeReadings, commands))


def test_a_cool_board_trains_after_one_look() -> None:
    device = driver()
    device.start()
    assert looks(device, device.commands) == 0
    device.hold(0)
    assert [type(command) for command in device.commands if isinstance(command, do.Train | do.TakeReadings)] == [
        do.TakeReadings,
        do.Train,
    ]


def test_a_hot_board_waits_says_so_and_goes_on_below_the_margin() -> None:
    device = driver(readings=HOT)
    device.start()
    device.hold(0)
    device.wait(100.0)
    assert not device.all(do.Train)
    assert (device.states()[-1].state, device.states()[-1].reason) == ("idle", WAITS)
    told = len(device.states())
    device.readings = WARM
    device.wait(100.0)
    assert not device.all(do.Train)
    assert len(device.states()) == told, "the same reason is not told again"
    assert device.last(do.PublishMetrics).metrics.policy_waits == {"cpu": 1}
    device.readings = COOL
    device.wait(20.0)
    assert len(device.all(do.Train)) == 1
    device.wait(1.0)
    assert (device.states()[-1].state, device.states()[-1].reason) == ("training", "")


def test_a_training_is_stopped_and_done_again_later() -> None:
    device = driver()
    device.start()
    device.hold(0)
    first = device.last(do.Train)
    device.readings = HOT
    device.wait(20.0)
    assert len(device.all(do.StopTask)) == 1
    device.wait(60.0)
    assert len(device.all(do.StopTask)) == 1
    device.give(ev.TaskStopped(task=first.task))
    device.wait(60.0)
    assert len(device.all(do.Train)) == 1
    assert device.states()[-1].reason == WAITS
    device.readings = COOL
    device.wait(20.0)
    again = device.last(do.Train)
    assert (again.task, again.contribution, again.sequence) == (first.task + 1, 0, first.sequence)
    device.finish_training()
    assert device.updates() == [1]
    device.wait(60.0)
    metrics = device.last(do.PublishMetrics).metrics
    assert (metrics.trainings, metrics.trainings_interrupted, metrics.updates_created) == (1, 1, 1)


def test_a_result_that_was_too_quick_to_be_stopped_counts() -> None:
    device = driver()
    device.start()
    device.hold(0)
    device.readings = HOT
    device.wait(20.0)
    assert device.all(do.StopTask)
    device.finish_training()
    assert device.updates() == [1]
    assert device.core.handle(ev.Tick(), device.now) == []


def test_a_result_of_a_training_that_the_policy_and_then_a_command_stopped_does_not() -> None:
    device = driver()
    device.start()
    device.hold(0)
    device.readings = HOT
    device.wait(20.0)
    device.command("forget")
    device.finish_training()
    assert device.updates() == []


def test_an_idle_device_never_looks() -> None:
    device = driver()
    device.start()
    device.hold(0)
    device.finish_training()
    device.answer(1)
    before = looks(device, device.commands)
    assert looks(device, device.wait(10_000.0)) == 0
    assert before <= 2


def test_a_device_that_waits_or_trains_looks_every_interval_and_no_more() -> None:
    device = driver(readings=HOT)
    device.start()
    device.hold(0)
    assert looks(device, device.wait(2000.0)) == 100
    device.readings = COOL
    device.wait(20.0)
    assert looks(device, device.wait(2000.0)) == 100


def test_without_rules_nobody_looks() -> None:
    device = driver(max_cpu_c=0, readings=HOT)
    device.start()
    device.hold(0)
    device.wait(100.0)
    assert not device.all(do.TakeReadings)
    assert len(device.all(do.Train)) == 1


def test_hours_are_waited_for_with_few_looks() -> None:
    device = driver(readings=Readings(clock_s=8 * 3600), allowed_hours=["22:00-06:00"])
    device.start()
    device.hold(0)
    assert looks(device, device.wait(3600.0)) == 4


def test_each_training_is_asked_for_anew() -> None:
    device = driver()
    device.start()
    device.hold(0)
    device.readings = HOT
    device.finish_training()
    device.answer(1)
    device.hold(1)
    assert len(device.all(do.Train)) == 1
    device.wait(1.0)
    assert device.states()[-1].reason == WAITS


def test_updates_are_sent_and_models_fetched_from_a_hot_board() -> None:
    device = driver()
    device.start()
    device.hold(0)
    device.readings = HOT
    device.finish_training()
    device.hold(1)
    assert device.updates() == [1]
    assert device.disk.model is not None
    assert device.disk.model.version == 1


def test_an_evaluation_by_command_is_done_on_a_hot_board() -> None:
    device = driver(readings=HOT)
    device.start()
    device.hold(0)
    device.command("evaluate")
    task = device.last(do.Evaluate)
    device.wait(100.0)
    assert not device.all(do.StopTask)
    device.give(ev.EvaluationDone(task=task.task, metrics={"loss": 1.0}))
    device.wait(1.0)
    assert device.states()[-1].reason == WAITS


def test_a_paused_device_wants_nothing_and_gives_that_as_its_reason() -> None:
    device = driver(readings=HOT)
    device.start()
    device.hold(0)
    device.command("pause")
    assert looks(device, device.wait(1000.0)) == 0
    assert device.states()[-1].reason == "paused by command"


def test_it_waits_offline_too() -> None:
    device = driver(readings=HOT)
    device.start()
    device.hold(0)
    device.cut()
    device.wait(100.0)
    assert not device.all(do.Train)
    device.readings = COOL
    device.wait(20.0)
    assert len(device.all(do.Train)) == 1


def test_a_device_that_waits_may_sleep_and_asks_again_when_it_wakes() -> None:
    device = driver(readings=HOT, tables={"sleep": SleepSettings(awake_s=30.0, asleep_s=3600.0)})
    device.start()
    device.hold(0)
    device.wait(60.0)
    assert device.states()[-1].state == "sleeping"
    assert looks(device, device.wait(3000.0)) == 0
    device.readings = COOL
    device.wait(600.0)
    device.connect()
    device.wait(10.0)
    assert len(device.all(do.Train)) == 1


def test_on_a_metered_line_updates_wait_until_it_is_another() -> None:
    metered: dict[str, Any] = {"metered_interfaces": ["wwan*"], "send_on_metered": False, "train_on_metered": True}
    device = driver(readings=Readings(interface="wwan0"), **metered)
    device.start()
    device.hold(0)
    device.finish_training()
    device.wait(100.0)
    assert device.updates() == []
    assert device.states()[-1].reason == "updates wait: on the metered line wwan0"
    device.readings = Readings(interface="eth0")
    device.wait(20.0)
    assert device.updates() == [1]
    device.answer(1)
    device.wait(1.0)
    assert device.states()[-1].reason == ""
    assert looks(device, device.wait(10_000.0)) == 0


def test_what_is_on_its_way_is_finished_on_a_metered_line() -> None:
    metered: dict[str, Any] = {"metered_interfaces": ["wwan*"], "send_on_metered": False}
    device = driver(readings=Readings(interface="eth0"), **metered)
    device.start()
    device.hold(0)
    device.finish_training()
    assert device.updates() == [1]
    device.readings = Readings(interface="wwan0")
    device.wait(20.0)
    device.answer(1)
    device.hold(1)
    device.wait(1.0)
    assert len(device.all(do.Train)) == 1
    assert device.states()[-1].reason == "waits: on the metered line wwan0"


def test_by_default_updates_are_sent_on_a_metered_line() -> None:
    device = driver(readings=Readings(interface="eth0"), metered_interfaces=["wwan*"])
    device.start()
    device.hold(0)
    device.readings = Readings(interface="wwan0")
    device.wait(20.0)
    device.finish_training()
    assert device.updates() == [1]


def trained_with(rows: int, disk: Disk) -> Driver:
    device = driver(disk, readings=Readings(examples=rows), min_new_examples=100)
    device.start()
    device.hold(0)
    device.finish_training()
    device.answer(1)
    return device


def test_new_examples_are_counted_from_the_last_training_also_after_a_restart() -> None:
    disk = Disk()
    trained_with(500, disk)
    device = driver(disk, readings=Readings(examples=599), min_new_examples=100)
    device.start()
    device.hold(1)
    device.wait(100.0)
    assert not device.all(do.Train)
    assert device.states()[-1].reason == "waits: 99 of 100 new examples"
    device.readings = Readings(examples=600)
    device.give(ev.DataChanged())
    assert len(device.all(do.Train)) == 1


def test_the_same_version_is_not_trained_again_for_new_examples() -> None:
    device = trained_with(500, Disk())
    device.readings = Readings(examples=5000)
    device.give(ev.DataChanged())
    device.wait(1000.0)
    assert len(device.all(do.Train)) == 1


def test_another_epochs_model_has_seen_no_examples() -> None:
    device = trained_with(500, Disk())
    device.hold(0, epoch="f" * 16)
    assert len(device.all(do.Train)) == 2


def test_forget_makes_all_examples_new() -> None:
    device = trained_with(500, Disk())
    device.hold(1)
    device.wait(30.0)
    assert len(device.all(do.Train)) == 1
    device.command("forget")
    device.hold(2)
    device.wait(20.0)
    assert len(device.all(do.Train)) == 2


def test_an_update_that_could_not_be_written_did_not_use_up_its_examples() -> None:
    device = driver(readings=Readings(examples=500), min_new_examples=100)
    device.start()
    device.hold(0)
    device.disk.write_error = "disk full"
    device.finish_training()
    device.disk.write_error = ""
    device.wait(20.0)
    assert len(device.all(do.Train)) == 2


def test_sigterm_while_the_policy_stops_a_training() -> None:
    device = driver()
    device.start()
    device.hold(0)
    device.readings = HOT
    device.wait(20.0)
    device.give(ev.StopRequested())
    device.give(ev.TaskStopped(task=device.last(do.Train).task))
    assert device.core.stopped


STEPS = st.lists(
    st.tuples(st.sampled_from(["read", "done", "stopped", "version", "cut", "connect", "wait"]), st.floats(60.0, 95.0)),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_nothing_is_trained_on_a_hot_board(steps: list[tuple[str, float]]) -> None:
    device = driver()
    device.start()
    device.hold(0)
    version = answered = 0
    for step, value in steps:
        task = len(device.all(do.Train))
        if step == "read":
            device.readings = Readings(cpu_c=value)
            device.wait(20.0)
            under_way = len(device.all(do.Train)) > answered
            assert not under_way or value < 80.0 or stopped(device)
        elif step == "done" and task > answered:
            answered = task
            device.finish_training()
        elif step == "stopped" and task > answered and stopped(device):
            answered = task
            device.give(ev.TaskStopped(task=task))
        elif step == "version":
            version += 1
            device.hold(version)
        elif step in ("cut", "connect"):
            getattr(device, step)()
        else:
            device.wait(value)
    # In the end, cool and connected and with every answer given, it trains the newest version.
    device.readings = COOL
    device.connect()
    if len(device.all(do.Train)) > answered and stopped(device):
        device.give(ev.TaskStopped(task=len(device.all(do.Train))))
    elif len(device.all(do.Train)) > answered:
        device.finish_training()
    device.hold(version + 1)
    device.wait(60.0)
    assert device.last(do.Train).manifest.version == version + 1


def stopped(device: Driver) -> bool:
    """Return whether the last training was told to stop."""
    told = [command for command in device.commands if isinstance(command, do.Train | do.StopTask)]
    return isinstance(told[-1], do.StopTask)
