"""Surveys with real processes over a real broker: asked, answered once, added up exactly, whoever is killed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.adapters.registry import open_registry
from device_agent.adapters.data import load_samples
from device_agent.settings import DataSettings
from fedmq.audit import audit
from fedmq.books import aggregator_books, all_device_books
from fedmq.embedded_broker import EmbeddedBroker
from models import TrainingPlan, build
from models.answering import classes_of, columns_of, no_statistics, statistics_of
from models.layers import CONSTANTS
from models.statistics import FeatureStatistics
from models.weighting import class_weights
from protocol.link import Received
from protocol.messages import Manifest
from protocol.packing import decode_manifest
from protocol.topics import Topics
from tests.integration.test_signed_and_sealed import Keys
from tests.support.federation import Federation, wait_until
from tests.support.links import Links, Peer

MODEL = {"kind": "softmax", "inputs": 64, "outputs": 10, "standardize": True}
DEVICES = 3


def operator(federation: Federation, *words: str) -> Any:
    config = str(federation.directory / "aggregator.toml")
    done = subprocess.run(
        [sys.executable, "-m", "aggregator", *words, "--config", config, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def data_of(federation: Federation, number: int) -> Any:
    path = federation.directory / f"device-{number}.npz"
    return load_samples(path, DataSettings(path=str(path)), build(MODEL))


def central(federation: Federation, devices: int = DEVICES) -> FeatureStatistics:
    """All devices' examples, counted in one place."""
    total = no_statistics(build(MODEL))
    for number in range(devices):
        total += statistics_of(build(MODEL), data_of(federation, number).train)
    return total


def assert_same(found: FeatureStatistics, wanted: FeatureStatistics) -> None:
    """Counts, extremes and quantiles are the same; means and squares up to the order of the sum."""
    assert found.rows == wanted.rows
    for name in ("present", "classes", "buckets", "minimum", "maximum"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    for name in ("mean", "squares"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-9, atol=1e-9)


def merged(federation: Federation, survey: str) -> FeatureStatistics:
    model = build(MODEL)
    with open_registry(federation.directory / "aggregator-state") as registry:
        return FeatureStatistics.from_data(registry.survey_total(survey), columns_of(model), classes_of(model))


def answered(federation: Federation, survey: str) -> int:
    return sum(found == survey for (found,) in federation.query("SELECT survey FROM answers"))


def all_have_answered(federation: Federation, survey: str) -> bool:
    return answered(federation, survey) == DEVICES


def books_hold(federation: Federation) -> None:
    federation.check(agents=DEVICES)
    state_dirs = [federation.directory / f"device-{number}-state" for number in range(DEVICES)]
    verdict = audit(all_device_books(state_dirs), aggregator_books(federation.directory / "aggregator-state"))
    assert verdict.holds, verdict.faults


def ask_under_kills(federation: Federation, seed: int) -> None:
    """Ask both questions, and kill processes at random moments until everybody has answered both."""
    chance = random.Random(seed)
    surveys = [operator(federation, "survey", kind)["survey"] for kind in ("statistics", "evaluation")]
    names = ["aggregator", *(f"device-{number}" for number in range(DEVICES))]
    for name in [*names, *chance.choices(names, k=4)]:
        federation.kill(name)
        if name == "aggregator":
            federation.start_aggregator()
        else:
            federation.start_agent(int(name.removeprefix("device-")))
        reached = federation.version() + chance.randint(0, 1)
        federation.wait_for_version(reached)
    for survey in surveys:
        wait_until(partial(all_have_answered, federation, survey), f"answers to {survey}")
    assert_same(merged(federation, surveys[0]), central(federation))
    found = operator(federation, "survey", "show", surveys[1])
    holdouts = [data_of(federation, number).holdout for number in range(DEVICES)]
    assert found["examples"] == sum(len(holdout) for holdout in holdouts if holdout is not None)
    assert set(found["devices"]) == {"accuracy", "loss"}
    spread = found["devices"]["accuracy"]
    assert 0.0 <= spread["worst"] <= spread["p10"] <= spread["mean"] <= 1.0
    federation.wait_for_versions_more(1)


def test_every_device_answers_once_whoever_is_killed(broker: EmbeddedBroker, tmp_path: Path) -> None:
    with Federation(tmp_path, broker.port, model=MODEL) as federation:
        federation.start_aggregator()
        for number in range(DEVICES):
            federation.start_agent(number)
        federation.wait_for_version(1)
        ask_under_kills(federation, seed=1)
        federation.stop_all()
        books_hold(federation)
        for number in range(DEVICES):
            assert federation.agent_counters(number)["reports_created"] == 2


def current(peer: Peer) -> Manifest:
    topic = Topics("test").current_model
    peer.up()
    peer.subscribe(topic)
    return decode_manifest(peer.inbox.wait(Received, lambda received: received.topic == topic).payload)


@pytest.mark.parametrize("killing", [False, True], ids=["undisturbed", "killed"])
def test_training_begins_with_the_constants_of_all_devices(
    broker: EmbeddedBroker, links: Links, tmp_path: Path, *, killing: bool
) -> None:
    more = f'[statistics]\nbefore_training = true\nmin_devices = {DEVICES}\nclass_weights = "balanced"\n'
    with Federation(tmp_path, broker.port, model=MODEL, more=more) as federation:
        federation.start_aggregator()
        federation.start_agent(0)
        federation.start_agent(1)
        wait_until(lambda: len(federation.query("SELECT * FROM answers")) == 2, "two answers")
        if killing:
            for name in ("aggregator", "device-0"):
                federation.kill(name)
            federation.start_aggregator()
            federation.start_agent(0)
        assert federation.version() == 0
        federation.start_agent(2)  # the last one that is waited for
        federation.wait_for_version(3)
        if killing:
            federation.kill("aggregator")
            federation.start_aggregator()
        federation.wait_for_versions_more(2)
        plan = TrainingPlan.from_data(current(links(broker.port)).training)
        federation.stop_all()
        books_hold(federation)

        assert list(plan.class_weights) == class_weights(central(federation).classes.tolist(), "balanced")
        assert federation.query("SELECT kind, num_updates FROM versions WHERE version = 1") == [("statistics", 0)]
        assert not federation.query("SELECT * FROM lineage WHERE base_version = 0"), "version 0 was trained"
        wanted = central(federation)
        ((vector,),) = federation.query("SELECT vector FROM parameters WHERE version = 1")
        values = build(MODEL).layout.views(np.frombuffer(vector, "<f4").copy())
        np.testing.assert_allclose(values[f"{CONSTANTS}.mean"], wanted.mean, rtol=1e-6)
        np.testing.assert_allclose(values[f"{CONSTANTS}.scale"], 1.0 / wanted.scale(), rtol=1e-6)
        ((newest,),) = federation.query("SELECT vector FROM parameters ORDER BY version DESC LIMIT 1")
        later = build(MODEL).layout.views(np.frombuffer(newest, "<f4").copy())
        np.testing.assert_array_equal(later[f"{CONSTANTS}.mean"], values[f"{CONSTANTS}.mean"])
        (survey,) = operator(federation, "surveys")
        assert survey["closed"] is not None


def test_late_devices_and_closed_surveys(broker: EmbeddedBroker, tmp_path: Path) -> None:
    more = "[statistics]\nbefore_training = true\nmin_devices = 50\nwait_s = 3.0\n"
    with Federation(tmp_path, broker.port, model=MODEL, goal=1, more=more) as federation:
        federation.start_aggregator()
        federation.start_agent(0)
        federation.wait_for_version(2)  # one device was enough after the wait
        federation.start_agent(1)
        wait_until(lambda: bool(federation.query("SELECT * FROM lineage WHERE device = 'device-1'")), "the late one")
        survey = operator(federation, "survey", "statistics", "--fraction", "0.0001")["survey"]
        federation.wait_for_versions_more(3)
        assert answered(federation, survey) == 0  # none of the two was drawn
        assert operator(federation, "survey", "close", survey[:6])["closed"]
        assert [line["closed"] is not None for line in operator(federation, "surveys")] == [True, True]
        federation.stop_all()
        federation.check(agents=2)


def test_sealed_reports_are_sealed_to_the_end(broker: EmbeddedBroker, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    with Federation(
        tmp_path,
        broker.port,
        model=MODEL,
        aggregator_keys=keys.aggregator("k1"),
        agent_keys={"federation_keys": "federation.json"},
    ) as federation:
        federation.start_aggregator()
        for number in range(DEVICES):
            federation.start_agent(number)
        federation.wait_for_version(1)
        ask_under_kills(federation, seed=2)
        federation.stop_all()
        books_hold(federation)
        for database in tmp_path.glob("device-*-state/agent.sqlite*"):
            assert b"squares" not in database.read_bytes(), "figures in the clear"
