"""Candidates in bad weather: bad ones never become versions, good ones do, and it goes on by itself."""

from __future__ import annotations

import pytest

from aggregator.configuration import CanaryTable, ScheduleTable
from aggregator.keyring import NO_KEYS, Keyring
from protocol.sealing import Opener
from protocol.signing import Signer
from tests.simulation.fleet import Fleet
from tests.simulation.test_weather import STORMS
from tests.simulation.world import FINE, Weather

CANARY = CanaryTable(fraction=1.0, min_answers=2, wait_s=20.0)
SECURE = Keyring(signer=Signer([bytes(range(32))]), opener=Opener([("x25519", bytes(range(32)))]))


def fleet_of(seed: int, weather: Weather, keys: Keyring = NO_KEYS, canary: CanaryTable = CANARY) -> Fleet:
    return Fleet(seed, weather, schedule=ScheduleTable(goal=3, interval_s=10.0), keys=keys, canary=canary)


def outcomes(fleet: Fleet) -> list[str]:
    return [aggregation.outcome for aggregation in fleet.aggregator.store.aggregations]


def check(fleet: Fleet) -> None:
    fleet.check()
    store = fleet.aggregator.store
    for version in store.versions[1:]:
        assert not int(version.digest[:8], 16) % 2, "a version that every device calls bad"
    assert outcomes(fleet).count("candidate") == (store.restored.candidate is not None)
    published = {version.version for version in store.versions}
    assert {update.base_version for update in fleet.created().values()} <= published, "trained on what never was"


def goes_on(fleet: Fleet) -> bool:
    """Let the weather turn fine; return whether candidates were published and withdrawn since."""
    before = len(outcomes(fleet))

    def both() -> bool:
        since = outcomes(fleet)[before:]
        return since.count("published") > 2 and since.count("withdrawn") > 0

    return fleet.clear_up(both, at_most_s=900.0)


@pytest.mark.parametrize("storm", STORMS)
@pytest.mark.parametrize("seed", range(6))
def test_only_good_candidates_become_versions_in_any_weather(storm: str, seed: int) -> None:
    fleet = fleet_of(seed, STORMS[storm])

    fleet.run(90.0)
    check(fleet)
    went_on = goes_on(fleet)

    check(fleet)
    assert went_on, f"it did not go on by itself: {outcomes(fleet)}"
    assert not fleet.aggregator.exits


@pytest.mark.parametrize("seed", range(4))
def test_signed_and_sealed_too(seed: int) -> None:
    fleet = fleet_of(seed, STORMS["everything"], SECURE)

    fleet.run(60.0)
    went_on = goes_on(fleet)

    check(fleet)
    assert went_on


def test_in_fine_weather_nothing_is_fetched_twice_and_nothing_stays_on_a_disk() -> None:
    fleet = fleet_of(0, FINE)

    fleet.run(240.0)

    check(fleet)
    assert outcomes(fleet).count("published") > 5
    assert outcomes(fleet).count("withdrawn") > 2
    reasons = {a.reason.split()[0] for a in fleet.aggregator.store.aggregations if a.outcome == "withdrawn"}
    assert reasons == {"accuracy"}, "none for want of answers"
    assert sum(device.taken for device in fleet.devices) > 5
    for device in fleet.devices:
        found = device.disk.candidate
        current = device.disk.model
        assert found is None or current is None or found[0].version == current[0].version + 1


def test_a_part_of_the_fleet_tries_it_and_the_others_never_fetch_it() -> None:
    fleet = fleet_of(3, FINE, canary=CanaryTable(fraction=0.5, min_answers=1, certainty=0.0, wait_s=20.0))

    fleet.run(240.0)

    check(fleet)
    tried = [len(device.reports) for device in fleet.devices]
    candidates = len(outcomes(fleet))
    assert 0 < sum(tried) < candidates * len(fleet.devices) * 0.8
    assert "published" in outcomes(fleet)
