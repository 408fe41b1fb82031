"""What others see of a device: state, metrics, will; sleeping and stopping."""

from __future__ import annotations

import json

from device_agent import commands as do
from device_agent import events as ev
from device_agent.double import EXIT_TWICE, MAX_TAKEOVERS
from device_agent.settings import MetricsSettings, SleepSettings
from protocol.link import LinkDown, LinkUp, Subscribed
from protocol.retries import peace_s
from protocol.status import DeviceState, WorkName, encode_status
from tests.device_agent.harness import STATE, TOPICS, Driver, manifest, model_bytes, settings

SLEEPER = settings(sleep=SleepSettings(awake_s=10.0, asleep_s=100.0))


def names(driver: Driver, commands: list[do.Command] | None = None) -> list[str]:
    return [state.state for state in driver.states(commands)]


def test_the_state_is_retained_and_told_with_every_connection() -> None:
    driver = Driver()
    driver.start()
    [publish] = [command for command in driver.all(do.Publish) if command.topic == STATE]
    assert publish.retain
    assert json.loads(publish.payload) == {
        "device_id": "press-07",
        "state": "idle",
        "boot": "b" * 16,
        "version": None,
        "reason": "",
        "drifting": False,
    }
    driver.cut()
    assert names(driver, driver.connect()) == ["idle"]


def test_the_will_says_lost() -> None:
    will = Driver().core.will
    assert will.retain
    assert will.topic == STATE
    assert json.loads(will.payload)["state"] == "lost"


def test_states_are_told_as_they_change() -> None:
    driver = Driver()
    driver.start()
    driver.wait(1.0)
    what = manifest(1)
    driver.announce(what)
    driver.wait(1.0)
    driver.chunks(what, model_bytes(1))
    driver.wait(1.0)
    driver.finish_training()
    driver.wait(1.0)
    driver.answer(1)
    driver.wait(1.0)
    assert names(driver) == ["idle", "fetching", "training", "reporting", "idle"]
    assert driver.states()[-1].version == 1


def test_a_burst_of_states_is_told_by_its_last() -> None:
    driver = Driver()
    driver.start()
    driver.wait(1.0)
    for version in range(1, 20):
        driver.hold(version)
        driver.finish_training()
        driver.answer(version)
    driver.wait(1.0)
    assert names(driver) == ["idle", "fetching", "idle"]
    assert driver.states()[-1].version == 19


def test_metrics_come_at_intervals_and_soon_after_something_happened() -> None:
    driver = Driver(settings(metrics=MetricsSettings(interval_s=30.0)))
    driver.start()
    assert len(driver.all(do.PublishMetrics)) == 1
    assert len(driver.all(do.PublishMetrics, driver.wait(61.0))) == 2
    before = len(driver.all(do.PublishMetrics))
    driver.hold(1)
    driver.finish_training()
    driver.answer(1)
    driver.wait(5.0)
    assert len(driver.all(do.PublishMetrics)) - before == 2
    metrics = driver.last(do.PublishMetrics).metrics
    assert (metrics.version, metrics.trained_version, metrics.trainings) == (1, 1, 1)
    assert (metrics.updates_created, metrics.updates_accepted, metrics.outbox_updates) == (1, 1, 0)
    assert metrics.bytes_received > 400
    assert metrics.uptime_s > 60


def test_counters_survive_a_restart() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    driver.finish_training()
    driver.answer(1)
    again = driver.restarted()
    again.start()
    metrics = again.last(do.PublishMetrics).metrics
    assert (metrics.updates_created, metrics.updates_accepted, metrics.trainings) == (1, 1, 1)


def test_a_stop_while_idle_says_goodbye_at_once() -> None:
    driver = Driver()
    driver.start()
    commands = driver.give(ev.StopRequested())
    assert names(driver, commands) == ["stopped"]
    assert [type(command) for command in commands] == [do.Persist, do.Publish, do.Disconnect, do.Exit]
    assert driver.core.stopped
    assert driver.core.deadline(driver.now) is None
    assert driver.give(LinkDown(reason="closed")) == []


def test_a_stop_during_training_waits_for_the_step_to_end() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    commands = driver.give(ev.StopRequested())
    assert [type(command) for command in commands] == [do.StopTask]
    commands = driver.give(ev.TaskStopped(task=driver.last(do.Train).task))
    assert driver.all(do.Exit, commands)
    assert driver.disk.rows == {}


def test_a_step_that_takes_too_long_is_left_behind() -> None:
    driver = Driver()
    driver.start()
    driver.hold(1)
    driver.give(ev.StopRequested())
    assert driver.all(do.Exit, driver.wait(1.1))


def test_a_stop_before_any_connection_just_ends() -> None:
    driver = Driver()
    driver.start(connect=False)
    commands = driver.give(ev.StopRequested())
    assert [type(command) for command in commands] == [do.Persist, do.Disconnect, do.Exit]


def test_a_device_sleeps_when_nothing_is_under_way_and_wakes_again() -> None:
    driver = Driver(SLEEPER)
    driver.start()
    assert driver.all(do.Disconnect, driver.wait(9.9)) == []
    commands = driver.wait(0.2)
    assert names(driver, commands) == ["sleeping"]
    assert [type(command) for command in commands[-2:]] == [do.Publish, do.Disconnect]
    driver.give(LinkDown(reason="closed"))  # what the closing link still had to say
    assert driver.all(do.Connect, driver.wait(99.0)) == []
    assert driver.all(do.Connect, driver.wait(2.0))
    assert names(driver, driver.connect()) == ["idle"]
    assert driver.all(do.Disconnect, driver.wait(11.0))


def test_a_device_does_not_fall_asleep_over_its_work() -> None:
    driver = Driver(SLEEPER)
    driver.start()
    what = manifest(1)
    driver.announce(what)
    assert driver.all(do.Disconnect, driver.wait(15.0)) == []
    driver.chunks(what, model_bytes(1))
    assert driver.all(do.Disconnect, driver.wait(15.0)) == []
    driver.finish_training()
    assert driver.all(do.Disconnect, driver.wait(15.0)) == []
    assert driver.all(do.Disconnect, driver.answer(1))


def test_an_aggregator_that_is_away_does_not_keep_a_device_awake() -> None:
    driver = Driver(SLEEPER)
    driver.start()
    driver.hold(1)
    driver.finish_training()
    assert driver.all(do.Disconnect, driver.wait(60.0))
    driver.wait(200.0)
    assert driver.updates(driver.connect()) == [1]


def test_a_sleeping_device_can_be_stopped() -> None:
    driver = Driver(SLEEPER)
    driver.start()
    driver.wait(11.0)
    assert driver.all(do.Exit, driver.give(ev.StopRequested()))


def test_a_connection_reported_after_the_goodbye_is_nothing() -> None:
    driver = Driver(SLEEPER)
    driver.start()
    driver.wait(11.0)
    assert driver.give(LinkUp(session_present=False, protocol="5")) == []


def test_refused_subscriptions_are_told_once() -> None:
    driver = Driver()
    driver.start()
    refused = Subscribed(topics=(TOPICS.current_model,), refused=(TOPICS.current_model,))
    assert len(driver.all(do.Log, driver.give(refused))) == 1
    assert driver.all(do.Log, driver.give(refused)) == []


TAKEN = LinkDown(reason="another client came", kind="taken-over")


def test_an_agent_whose_identity_is_used_twice_gives_up_in_the_end() -> None:
    driver = Driver()
    driver.start()
    for _ in range(MAX_TAKEOVERS - 1):
        assert driver.give(TAKEN) == []
        driver.connect()
    commands = driver.give(TAKEN)
    assert commands[-2:] == [do.Disconnect(), do.Exit(code=EXIT_TWICE)]
    assert [command.message for command in commands if isinstance(command, do.Log)] == [
        "giving up: another agent has this identity"
    ]
    assert driver.core.stopped


def test_takeovers_with_hours_of_peace_between_them_end_nothing() -> None:
    driver = Driver()
    driver.start()
    for _ in range(3 * MAX_TAKEOVERS):
        assert driver.give(TAKEN) == []
        driver.now += peace_s(driver.config.broker.takeover_wait_s)
        driver.connect()


def state_of(boot: str, state: WorkName = "idle") -> bytes:
    return encode_status(DeviceState(device_id="press-07", state=state, boot=boot))


def test_a_silent_broker_is_found_out_by_what_stands_on_the_own_topic() -> None:
    driver = Driver()
    driver.start()
    topic = driver.core.will.topic
    driver.give(LinkDown(reason="closed again", kind="perhaps-taken-over"))
    (listening,) = (command for command in driver.connect() if isinstance(command, do.Subscribe))
    assert topic in listening.topics
    assert driver.receive(topic, state_of("a" * 16), retain=True) == []  # perhaps of our own past
    for _ in range(MAX_TAKEOVERS):
        assert not driver.core.stopped
        driver.receive(topic, state_of("b" * 16))  # ourselves
        driver.receive(topic, b"garbage")
        driver.receive(topic, state_of("a" * 16, "lost"))
        driver.receive(topic, state_of("a" * 16))
    assert driver.commands[-1] == do.Exit(code=EXIT_TWICE)


def test_of_two_the_one_with_the_smaller_boot_id_is_more_patient() -> None:
    driver = Driver()
    driver.start()
    for _ in range(2 * MAX_TAKEOVERS):
        assert not driver.core.stopped
        driver.receive(driver.core.will.topic, state_of("b" * 16))
        driver.receive(driver.core.will.topic, state_of("c" * 16))
    assert driver.core.stopped


def test_suspicion_alone_ends_nothing() -> None:
    driver = Driver()
    driver.start()
    for _ in range(10 * MAX_TAKEOVERS):
        driver.give(LinkDown(reason="closed again", kind="perhaps-taken-over"))
        driver.connect()
    assert not driver.core.stopped
