"""Real processes, a real broker, real files: what a user of the whole system relies on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from fedmq.embedded_broker import EmbeddedBroker
from tests.support.federation import Federation, wait_until
from tests.support.patience import PATIENCE_S
from tests.support.proxy import FaultProxy


@pytest.fixture
def federation(broker: EmbeddedBroker, tmp_path: Path) -> Federation:
    return Federation(tmp_path, broker.port)


def test_devices_learn_together(any_broker: EmbeddedBroker, tmp_path: Path) -> None:
    with Federation(tmp_path, any_broker.port) as federation:
        federation.start_aggregator()
        for number in range(3):
            federation.start_agent(number)
        federation.wait_for_version(20)
        federation.wait_for_all(3)
        # How many versions that takes is a matter of who contributes when.
        wait_until(lambda: accuracies(federation)[-1] > max(0.8, accuracies(federation)[0]), "a model that has learnt")
        federation.stop_all()
        federation.check(agents=3)


def accuracies(federation: Federation) -> list[float]:
    """Of version 1 and all that came later."""
    rows = federation.query("SELECT metrics FROM versions WHERE version > 0 ORDER BY version")
    return [float(json.loads(row[0])["accuracy"]) for row in rows]


def test_devices_start_before_aggregator_and_broker(broker: EmbeddedBroker, federation: Federation) -> None:
    broker.stop()
    with federation:
        federation.start_agent(0)
        federation.start_agent(1)
        wait_until(lambda: "device-1" in federation.log("device-1"), "the agents to try")
        broker.restart()
        federation.start_aggregator()
        federation.wait_for_version(2)
        federation.stop_all()
        federation.check(agents=2)


def test_a_second_aggregator_refuses_and_harms_nobody(federation: Federation) -> None:
    with federation:
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        federation.wait_for_version(2)

        second = federation.start_aggregator("aggregator-two")

        assert second.wait(PATIENCE_S) == 3
        assert "another aggregator" in federation.log("aggregator-two")
        federation.wait_for_versions_more(3)
        federation.stop_all()
        federation.check(agents=2)


def test_a_second_aggregator_on_the_same_state_refuses(federation: Federation) -> None:
    with federation:
        first = federation.start_aggregator()
        federation.wait_for_version(0)

        federation.start_aggregator("copy", state="aggregator")

        assert federation.processes["copy"].wait(PATIENCE_S) != 0
        assert str(first.pid) in federation.log("copy")
        assert "Traceback" not in federation.log("copy")
        assert first.poll() is None


@pytest.mark.parametrize("seed", range(2))
def test_sigkill_of_anything_at_any_moment_loses_nothing(
    broker: EmbeddedBroker, federation: Federation, seed: int
) -> None:
    chance = random.Random(seed)
    with federation:
        federation.start_aggregator()
        for number in range(3):
            federation.start_agent(number)
        federation.wait_for_version(1)

        for _ in range(14):
            wait_for_a_moment(federation, chance)
            match chance.choice(["aggregator", "aggregator", "broker", "agent", "agent", "agent"]):
                case "aggregator":
                    federation.kill("aggregator")
                    federation.start_aggregator()
                case "broker":
                    broker.kill()
                    broker.restart()
                case "agent":
                    number = chance.randrange(3)
                    federation.kill(f"device-{number}")
                    federation.start_agent(number)

        federation.wait_for_versions_more(3)
        federation.stop_all()
        federation.check(agents=3)


def wait_for_a_moment(federation: Federation, chance: random.Random) -> None:
    """Until a few more updates were accepted, or some time passed: kills fall into every phase."""
    before, more = len(federation.accepted()), chance.randint(0, 4)
    try:
        wait_until(lambda: len(federation.accepted()) >= before + more, "more updates", chance.uniform(0.0, 1.5))
    except AssertionError:
        return  # killed in the midst of starting, then: so much the better


def test_a_broker_that_forgets_everything_is_told_again(forgetful_mosquitto: EmbeddedBroker, tmp_path: Path) -> None:
    with Federation(tmp_path, forgetful_mosquitto.port) as federation:
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        federation.wait_for_version(2)

        forgetful_mosquitto.kill()
        forgetful_mosquitto.restart()

        federation.wait_for_versions_more(3)
        federation.stop_all()
        federation.check(agents=2)


@pytest.mark.parametrize("fault", ["cut", "half-open", "slow"])
def test_a_bad_line_holds_up_neither_its_device_for_ever_nor_the_others(
    fault: str, mosquitto: EmbeddedBroker, proxy: FaultProxy, tmp_path: Path
) -> None:
    with Federation(tmp_path, mosquitto.port, goal=1, keepalive_s=5) as federation:
        federation.start_aggregator()
        # Its versions are to live long enough for the slow line to ask for one: three manifests are 2 kB.
        federation.start_agent(0, interval_s=0.5)
        federation.start_agent(1, port=proxy.port)
        wait_until(lambda: any(d == "device-1" for d, _, _ in federation.accepted()), "the line to work")
        before = sum(d == "device-1" for d, _, _ in federation.accepted())

        match fault:
            case "cut":
                proxy.cut()
            case "half-open":
                proxy.freeze()
                federation.wait_for_versions_more(5)
                proxy.thaw()
            case "slow":
                proxy.rate(2000)

        federation.wait_for_versions_more(3)
        wait_until(lambda: sum(d == "device-1" for d, _, _ in federation.accepted()) > before, "device-1 to be back")
        federation.stop_all()
        federation.check(agents=2)


def test_updates_larger_than_a_message_travel_in_chunks(federation: Federation) -> None:
    federation.model = {"kind": "mlp", "inputs": 64, "hidden": [1024, 256], "outputs": 10}
    federation.codec = "f32"
    with federation:
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        federation.wait_for_version(3)
        federation.kill("device-0")
        federation.start_agent(0)
        federation.wait_for_versions_more(2)
        federation.stop_all()
        federation.check(agents=2)
        assert federation.query("SELECT min(update_bytes) FROM lineage")[0][0] > 1_000_000


def test_clocks_that_start_in_1970_and_jump_by_days_change_nothing(federation: Federation) -> None:
    federation.false_clock = True
    federation.goal = 0  # versions by the clock alone: here it has to be a monotonic one
    federation.interval_s = 0.7
    with federation:
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        federation.wait_for_version(8)

        def created() -> list[float]:
            return [row[0] for row in federation.query("SELECT created FROM versions ORDER BY version")]

        # Else the clock did not jump, and nothing was proved.
        wait_until(lambda: created() != sorted(created()), "versions before and after a jump")
        federation.stop_all()
        federation.check(agents=2)


def test_a_cron_line_makes_versions(federation: Federation) -> None:
    federation.goal, federation.interval_s = 0, 0.0
    federation.cron = "* * * * *"
    with federation:
        federation.start_aggregator()
        federation.start_agent(0)
        wait_until(lambda: federation.version() >= 1, "a full minute", 60.0 + PATIENCE_S)
        federation.stop_all()
        federation.check(agents=1)
