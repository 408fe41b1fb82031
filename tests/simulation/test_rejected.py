"""Updates that are rejected, in bad weather: who may hope for better trains again, and versions come nevertheless."""

from __future__ import annotations

from collections import Counter

import pytest

from aggregator.configuration import ScheduleTable
from device_agent import turns
from tests.simulation.fleet import Fleet
from tests.simulation.test_weather import STORMS
from tests.simulation.world import FINE, Weather

HARD = {name: STORMS[name] for name in ("lossy", "crashing-aggregator", "crashing-devices", "everything")}


def fleet_of(seed: int, weather: Weather, sick: tuple[float, ...]) -> Fleet:
    """Return a fleet of five that makes no version by the clock, and only of five updates."""
    fleet = Fleet(seed, weather, schedule=ScheduleTable(goal=5, interval_s=0.0))
    for device, share in zip(fleet.devices, sick, strict=True):
        device.sick = share
    return fleet


def check(fleet: Fleet) -> None:
    fleet.check()
    taken = Counter(
        (line.device_id, line.base_version) for a in fleet.aggregator.store.aggregations for line in a.lineage
    )
    assert max(taken.values(), default=1) == 1, "a turn that was given back was used twice"


def published(fleet: Fleet) -> int:
    return len(fleet.aggregator.store.versions)


@pytest.mark.parametrize("storm", HARD)
@pytest.mark.parametrize("seed", range(4))
def test_versions_come_though_half_of_all_updates_are_rejected(storm: str, seed: int) -> None:
    fleet = fleet_of(seed, HARD[storm], (0.5,) * 5)

    fleet.run(120.0)
    check(fleet)
    before = published(fleet)
    went_on = fleet.clear_up(lambda: published(fleet) > before + 5, at_most_s=7200.0)

    check(fleet)
    assert went_on, f"{published(fleet) - before} versions in two hours of fine weather"


@pytest.mark.parametrize("seed", range(4))
def test_one_that_is_always_rejected_neither_stops_the_others_nor_has_them_train_more(seed: int) -> None:
    fleet = fleet_of(seed, FINE, (0.0, 0.0, 1.0, 0.0, 0.0))
    bad = fleet.devices[2]

    assert fleet.clear_up(lambda: published(fleet) > 20, at_most_s=3600.0)

    check(fleet)
    made = Counter((update.device_id, update.base_version) for update in fleet.created().values())
    assert max(count for (device, _), count in made.items() if device != bad.name) == 1
    assert not any(line.device_id == bad.name for a in fleet.aggregator.store.aggregations for line in a.lineage)


@pytest.mark.parametrize("seed", range(4))
def test_a_fleet_that_is_always_rejected_does_not_train_for_ever(seed: int) -> None:
    fleet = fleet_of(seed, FINE, (1.0,) * 5)

    fleet.run(3600.0)

    check(fleet)
    made = Counter((update.device_id, update.base_version) for update in fleet.created().values())
    assert set(made.values()) == {turns.MAX_TRIES}
    for device in fleet.devices:
        device.sick = 0.0
    fleet.run(3600.0)
    assert published(fleet) == 1, "what nobody announced anew is not tried for ever"
    fleet.aggregator.kill()  # as an operator does who has changed its settings
    assert fleet.clear_up(lambda: published(fleet) > 3)
    check(fleet)
