"""The demo whose devices collect their examples: what the watches measure, and the whole as a user runs it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from typer.testing import CliRunner

from fedmq.__main__ import app
from fedmq.arguments import MAX_WATCHES
from fedmq.baseline import measure
from fedmq.demo_data import CLASSES, PEOPLE, UNSEEN_PEOPLE
from fedmq.demo_sensors import CHANNELS, EVERY, FEATURES, PAUSE_S, as_samples, worn, worn_by
from fedmq.demo_signals import RATE_HZ, Signal, load_signals
from fedmq.demo_task import WATCH, Dealt
from fedmq.foretold import Audience
from fedmq.recording import read
from models import Pipeline
from protocol.link import BrokerSettings
from tests.support.federation import wait_until

if TYPE_CHECKING:
    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links

ROOT = Path(__file__).parents[2]
RUNNER = CliRunner()


@cache
def signals() -> list[Signal]:
    return load_signals()


def test_a_watch_measures_everything_that_its_wearer_did_once() -> None:
    rows = worn_by(signals(), 3)

    own = [signal for signal in signals() if signal.person == 3]
    assert len(rows) == sum(len(signal.measured[::EVERY]) for signal in own)
    measured = sorted(round(float(x), 4) for signal in own for x in signal.measured[::EVERY, 0])
    assert sorted(row.values["ax"] for row in rows if row.values["ax"] is not None) == measured
    assert {row.label for row in rows} == {str(exercise) for exercise in range(CLASSES)}


def test_exercises_change_often_and_pauses_lie_between_bouts() -> None:
    rows = worn_by(signals(), 3)

    steps = np.diff([row.at_s for row in rows])
    changes = [a.label != b.label for a, b in itertools.pairwise(rows)]
    assert set(np.round(steps, 4)) == {EVERY / RATE_HZ, PAUSE_S}
    assert all(step == pytest.approx(PAUSE_S) for step, change in zip(steps, changes, strict=True) if change)
    in_a_minute = {row.label for row in rows if row.at_s < 90.0}
    assert len(in_a_minute) >= 4


def test_the_declared_features_fit_the_demos_model() -> None:
    assert Pipeline.from_data(FEATURES).inputs == WATCH.model["inputs"]


def test_the_recordings_are_written_as_they_are_played(tmp_path: Path) -> None:
    watches = worn(signals(), PEOPLE[:2], 45.0, "sensors/x")

    watches.write(tmp_path / "sensors", "127.0.0.1", 1883)

    rows = read(tmp_path / "sensors" / "watch-1.csv", time_column="time", label_column="exercise")
    assert [tuple(row.values) for row in rows[:1]] == [CHANNELS]
    assert len(rows) == len(watches.rows["watch-1"])
    assert [row.at_s for row in rows] == pytest.approx([row.at_s for row in watches.rows["watch-1"]], abs=1e-4)


def test_a_federation_of_watches_is_worth_while() -> None:
    fleet = [as_samples(signals(), [person], f"watch-{person}") for person in PEOPLE]

    baseline = measure(WATCH, Dealt(fleet=fleet, unseen=as_samples(signals(), UNSEEN_PEOPLE, "unseen")))

    assert baseline.central.right > baseline.alone_mean.right + 0.08
    assert baseline.central.right > 0.84


def test_predictions_are_judged_where_it_is_known_what_went_on(mosquitto: EmbeddedBroker, links: Links) -> None:
    audience = Audience(BrokerSettings(port=mosquitto.port), "sensors/x", window_s=2.0)
    peer = links(mosquitto.port)
    peer.up()

    def say(kind: str, **said: object) -> None:
        peer.publish(f"sensors/x/watch-1/{kind}", json.dumps(said).encode(), retain=kind == "exercise")

    say("exercise", time=100.0, label="3")  # retained: heard once the audience listens
    audience.start()
    try:
        wait_until(lambda: audience.result().devices == 1, "the audience listens")
        say("exercise", time=200.0, label="4")
        for ends, name in ((150.0, "9"), (160.0, "9"), (199.0, "3"), (201.0, "4"), (203.0, "3"), (204.0, "4")):
            say("prediction", time=ends, name=name)
        say("prediction", what="nonsense")
        wait_until(lambda: audience.result().made == 6, "all predictions are heard")
        told = audience.result()
    finally:
        audience.stop()

    # Of the second half one window lies across the change.
    assert (told.made, told.judged, told.right) == (6, 2, 1)


def test_devices_collect_learn_and_predict() -> None:
    command = [sys.executable, "-m", "fedmq", "demo", "--sensors", "--devices", "2", "--seconds", "15", "--json"]

    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["versions"] > 0
    assert found["updates_accepted"] == found["updates_folded"] > 0
    assert found["predictions"] > 0
    assert not found["faults"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--secure"], "no certificates"),
        (["--devices", "8"], f"{MAX_WATCHES} people"),
        (["--task", "digits"], "only watch"),
    ],
)
def test_what_the_watches_cannot_do_is_said(arguments: list[str], says: str) -> None:
    result = RUNNER.invoke(app, ["demo", "--sensors", *arguments])

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
