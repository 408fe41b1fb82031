"""Candidates with real processes: a poisoned one is withdrawn by itself, a good one is published, whoever is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedmq.audit import audit
from fedmq.books import aggregator_books, all_device_books
from fedmq.embedded_broker import EmbeddedBroker
from tests.integration.test_signed_and_sealed import Keys
from tests.integration.test_surveys import operator
from tests.support.federation import Federation, wait_until
from tests.support.foreign_device import ForeignDevice, Trained

MODEL: dict[str, Any] = {"kind": "softmax", "inputs": 64, "outputs": 10}
SIZE = 65 * 10


def canary(**table: Any) -> str:
    lines = {"fraction": 1.0, "min_answers": 2, "max_worse": 0.1, "certainty": 0.0, "wait_s": 3600.0} | table
    return "\n".join(["[canary]", *(f"{name} = {value}" for name, value in lines.items()), ""])


def tried(federation: Federation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = operator(federation, "canary", "status")["tried"]
    return found


def on_trial(federation: Federation) -> bool:
    return bool(federation.query("SELECT * FROM candidate"))


def buffered(federation: Federation) -> int:
    return len(federation.query("SELECT position FROM journal"))


def books_hold(federation: Federation, devices: list[int]) -> None:
    state_dirs = [federation.directory / f"device-{number}-state" for number in devices]
    verdict = audit(all_device_books(state_dirs), aggregator_books(federation.directory / "aggregator-state"))
    assert verdict.holds, verdict.faults


def test_a_poisoned_candidate_is_withdrawn_by_itself_and_a_good_one_published(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    # Only the fleet's word counts here: updates are not shortened, and the aggregator has no data of its own.
    more = canary(measure='"loss"', max_worse=0.5) + "[admission]\nclip_factor = 0.0\n"
    with Federation(tmp_path, broker.port, goal=3, interval_s=0.0, model=MODEL, more=more) as federation:
        federation.start_aggregator()
        for number in range(3):
            federation.start_agent(number)
        federation.wait_for_version(3)
        federation.stop("device-2")
        # The two that are left fill two places of three, and wait.
        wait_until(lambda: buffered(federation) == 2 and not on_trial(federation), "a buffer that waits for one more")
        version = federation.version()

        with ForeignDevice("test", "poisoner", federation.port) as poisoner:
            manifest = poisoner.manifest(version)
            poison = [8.0 if index % 3 else -8.0 for index in range(SIZE)]
            poisoner.send(poisoner.update(manifest, Trained(delta=poison, steps=1, examples=1000), 1))
            assert poisoner.receipt(1)["status"] == "accepted", "large, but admissible"

        wait_until(lambda: bool(tried(federation)) and not on_trial(federation), "the verdict")
        (found,) = tried(federation)
        assert (found["outcome"], found["number"]) == ("withdrawn", version + 1)
        assert "poisoner" in found["devices"]
        assert found["metrics"]["fleet_loss"] > 1.5 * found["metrics"]["fleet_loss_before"]
        assert federation.version() == version

        federation.start_agent(2)  # the two train the same version once more; with the third there is a good candidate
        federation.wait_for_version(version + 2)
        federation.stop_all()

        federation.check(agents=3)
        assert [line["outcome"] for line in tried(federation) if line["outcome"] == "withdrawn"] == ["withdrawn"]
        lineage = federation.query(
            "SELECT outcome FROM aggregations JOIN lineage ON lineage.aggregation = aggregations.id"
            " WHERE device = 'poisoner'"
        )
        assert lineage == [("withdrawn",)]
        (set_aside,) = federation.query("SELECT count(*) FROM lineage JOIN aggregations ON id = aggregation"
                                        " WHERE outcome = 'withdrawn'")  # fmt: skip
        live = operator(federation, "status")["store"]["counters"]
        assert live["accepted"] == live["folded"] + live["set_aside"]
        assert live["set_aside"] == set_aside[0] == 3
        # Two of three are enough: the third may have fetched the version only.
        comparisons = federation.query("SELECT id FROM surveys WHERE kind = 'comparison' ORDER BY position")
        answers = federation.query("SELECT survey, device FROM answers")
        compared = [device for survey, device in answers if (survey,) == comparisons[version + 1]]
        assert len(compared) >= 2
        for device in compared:
            log = federation.log(device)
            assert f"fetching model version={version + 1} " not in log, "what was tried was fetched again"
            assert f"taking the candidate version={version + 1}" in log


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "signed-and-sealed"])
def test_a_candidate_outlives_every_process(broker: EmbeddedBroker, tmp_path: Path, *, secure: bool) -> None:
    keys = Keys(tmp_path) if secure else None
    with Federation(
        tmp_path,
        broker.port,
        goal=2,
        interval_s=0.0,
        model=MODEL,
        more=canary(min_answers=3, measure='"loss"', max_worse=0.5),
        aggregator_keys=keys.aggregator("k1") if keys else {},
        agent_keys={"federation_keys": "federation.json"} if keys else {},
    ) as federation:
        federation.start_aggregator()
        federation.start_agent(0)
        federation.start_agent(1)
        # Two of the three answers that are wanted; the third device is not there yet.
        wait_until(lambda: len(federation.query("SELECT * FROM answers")) == 2, "two comparisons")
        survey = tried(federation)[0]["survey"]
        for name in ("aggregator", "device-0", "device-1"):
            federation.kill(name)
        assert operator(federation, "canary", "status")["answers"] == 2
        federation.start_aggregator()
        federation.start_agent(0)
        federation.start_agent(1)
        assert federation.version() == 0
        assert tried(federation)[0]["survey"] == survey
        federation.start_agent(2)
        federation.wait_for_version(2)
        federation.kill("aggregator")
        federation.start_aggregator()
        federation.wait_for_versions_more(1)
        federation.stop_all()

        federation.check(agents=3)
        books_hold(federation, [0, 1, 2])
        assert not [line for line in tried(federation) if line["outcome"] == "withdrawn"]
        for number in (0, 1):
            log = federation.log(f"device-{number}")
            assert "fetching model version=1 " not in log, "what was tried was fetched again"
            assert "taking the candidate version=1" in log


def test_operators_decide_with_and_without_the_aggregator(broker: EmbeddedBroker, tmp_path: Path) -> None:
    more = canary(min_answers=5)
    with Federation(tmp_path, broker.port, goal=1, interval_s=0.0, model=MODEL, more=more) as federation:
        federation.start_aggregator()
        federation.start_agent(0)
        wait_until(lambda: on_trial(federation), "a candidate")
        federation.kill("aggregator")
        assert operator(federation, "canary", "withdraw")["outcome"] == "withdrawn"
        federation.start_aggregator()
        # The one device may train version 0 once more, or there would never be another version.
        wait_until(lambda: on_trial(federation), "another candidate")
        assert "withdrawn" in shown(federation, "versions")
        assert "on trial" in shown(federation, "canary", "status")
        assert operator(federation, "canary", "publish")["outcome"] == "published"
        federation.wait_for_version(1)
        federation.stop_all()
        federation.check(agents=1)
        books_hold(federation, [0])


def shown(federation: Federation, *words: str) -> str:
    config = str(federation.directory / "aggregator.toml")
    done = subprocess.run(
        [sys.executable, "-m", "aggregator", *words, "--config", config], capture_output=True, text=True, check=True
    )
    return done.stdout
