"""What the agent's core makes of drift: state, figures and one line of log, over restarts, until it is over."""

from __future__ import annotations

from typing import Any

from device_agent import commands as do
from device_agent import events as ev
from device_agent.drift import DriftSeen
from tests.device_agent.harness import Driver, settings

BEGUN = DriftSeen(drifting=True, judged=200, alarms=1, error_new=2.5, error_earlier=0.25)
OVER = DriftSeen(drifting=False, judged=400, alarms=1, error_new=0.3, error_earlier=0.25)


def training() -> Driver:
    driver = Driver(settings())
    driver.start()
    driver.hold(1)
    return driver


def lines(driver: Driver, commands: list[do.Command]) -> list[tuple[str, str]]:
    return [(log.level, log.message) for log in driver.all(do.Log, commands) if "drift" in log.message]


def state(driver: Driver) -> tuple[bool, str]:
    driver.wait(1.0)
    found = driver.states()[-1]
    return found.drifting, found.reason


def test_it_is_said_once_and_its_end() -> None:
    driver = training()
    assert state(driver) == (False, "")
    told = driver.give(ev.DriftTold(seen=BEGUN))
    assert lines(driver, told) == [("warning", "drift: the model does worse on new samples than on earlier ones")]
    assert state(driver) == (True, "its data drift")
    later = DriftSeen(drifting=True, judged=300, alarms=1, error_new=2.0, error_earlier=0.25)
    assert not lines(driver, driver.give(ev.DriftTold(seen=later)))
    assert lines(driver, driver.give(ev.DriftTold(seen=OVER))) == [("info", "drift is over")]
    assert state(driver) == (False, "")


def test_it_outlives_a_restart_and_what_is_known_is_not_told_again() -> None:
    driver = training()
    driver.give(ev.DriftTold(seen=BEGUN))
    again = driver.restarted()
    again.start()
    assert state(again) == (True, "its data drift")
    again.wait(10.0)
    assert again.last(do.Train).drift == BEGUN


def test_figures_are_told() -> None:
    driver = training()
    driver.give(ev.DriftTold(seen=BEGUN))
    driver.wait(60.0)
    found: Any = driver.last(do.PublishMetrics).metrics
    figures = found.drifting, found.drift_alarms, found.drift_judged, found.drift_error, found.drift_error_earlier
    assert figures == (True, 1, 200, 2.5, 0.25)


def test_forget_forgets_it() -> None:
    driver = training()
    driver.give(ev.DriftTold(seen=BEGUN))
    driver.command("forget")
    assert state(driver)[0] is False
    assert driver.disk.durable.drift == DriftSeen()
