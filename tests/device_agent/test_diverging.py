"""A device whose trainings lead nowhere says so: in its state, over restarts, and to who asks on the device."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from device_agent import commands as do
from device_agent import events as ev
from device_agent.adapters.cli import status
from device_agent.adapters.store import Store
from device_agent.diverging import EXPLODES, NOT_FINITE, verdict
from device_agent.records import DurableState, Trained
from device_agent.settings import AgentSettings, DataSettings, DeviceSettings
from protocol.status import DIVERGES
from tests.device_agent.harness import Driver


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {}, ""),
        ({"accuracy": 0.5}, {"accuracy": 0.1}, ""),
        ({"loss": 2.3}, {"loss": 2.2}, ""),
        ({"loss": 2.3}, {"loss": 22.9}, ""),
        ({"loss": 2.3}, {"loss": 23.1}, EXPLODES),
        ({"loss": 1e-6}, {"loss": 0.9}, ""),
        ({"loss": 2.3}, {}, EXPLODES),
    ],
)
def test_a_loss_that_explodes(before: dict[str, float], after: dict[str, float], said: str) -> None:
    assert verdict(before, after) == said


def test_the_advice_comes_first_and_fits_into_a_line() -> None:
    for text in (NOT_FINITE, EXPLODES):
        assert text.startswith(DIVERGES + "lower [training] learning_rate or set clip_norm")


def driven() -> Driver:
    driver = Driver()
    driver.start()
    driver.hold(1)
    return driver


def reason(driver: Driver) -> str:
    driver.wait(1.0)
    return driver.states()[-1].reason


def diverge(driver: Driver) -> None:
    driver.give(ev.TaskFailed(task=driver.last(do.Train).task, reason=NOT_FINITE, fault="model"))


def test_it_is_said_until_a_training_ends_well_also_after_restarts_and_with_other_samples() -> None:
    driver = driven()
    diverge(driver)
    assert (driver.states()[-1].state, reason(driver)) == ("idle", NOT_FINITE)
    again = driver.restarted()
    again.start(connect=False)
    again.connect()
    assert reason(again) == NOT_FINITE
    again.give(ev.DataChanged())
    assert reason(again) == NOT_FINITE, "nobody has tried yet"
    again.wait(60.0)
    again.finish_training(before={"loss": 2.3}, after={"loss": 2.0})
    again.answer(1)
    assert reason(again) == ""
    assert again.disk.durable.trouble == ""


def test_the_same_again_is_not_written_again() -> None:
    driver = driven()
    diverge(driver)
    driver.wait(60.0)
    start = len(driver.commands)
    diverge(driver)
    assert not driver.all(do.Persist, driver.commands[start:])


def test_an_update_whose_loss_explodes_is_sent_and_said() -> None:
    driver = driven()
    driver.finish_training(before={"loss": 2.3}, after={"loss": 1e9})
    assert driver.updates() == [1], "whether it is taken is for the aggregator to say"
    driver.answer(1)
    assert reason(driver) == EXPLODES
    driver.hold(2)
    driver.finish_training(before={"loss": 2.3}, after={"loss": 2.2})
    driver.answer(2)
    assert reason(driver) == ""


def asked(folder: Path, state: DurableState, capsys: pytest.CaptureFixture[str]) -> tuple[str, str | None]:
    device = DeviceSettings(id="press-07", federation="fed", state_dir=str(folder))
    settings = AgentSettings(device=device, data=DataSettings(path=str(folder / "samples.npz")))
    store = Store(folder, "press-07", "fed")
    store.persist(do.Persist(state=state))
    store.close()
    assert status(settings, as_json=False) == 0
    (line,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith("trouble ")]
    assert status(settings, as_json=True) == 0
    return line.removeprefix("trouble").strip(), json.loads(capsys.readouterr().out)["trouble"]


def test_status_on_the_device_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    well = DurableState()
    assert asked(tmp_path, well, capsys) == ("-", None)
    trained = Trained(epoch="e" * 16, version=7, count=1, why="norm: norm 5, 1 allowed")
    rejected = msgspec.structs.replace(well, trained=trained)
    text = "update of version 7 rejected: norm: norm 5, 1 allowed"
    assert asked(tmp_path, rejected, capsys) == (text, text)
    assert asked(tmp_path, msgspec.structs.replace(rejected, trouble=NOT_FINITE), capsys) == (NOT_FINITE, NOT_FINITE)
