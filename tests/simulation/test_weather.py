"""Hundreds of federations in bad weather: nothing is lost, nothing counts twice, and it goes on by itself."""

from __future__ import annotations

import numpy as np
import pytest

from aggregator.configuration import ScheduleTable
from aggregator.keyring import Keyring
from protocol.sealing import Opener
from protocol.signing import Signer
from tests.simulation.fleet import Fleet
from tests.simulation.world import FINE, Weather

STORMS = {
    "lossy": Weather(drop=0.2, duplicate=0.2, max_delay_s=0.5),
    "cuts": Weather(cut_every_s=1.5, max_delay_s=0.2),
    "crashing-aggregator": Weather(crash_aggregator=0.02, drop=0.02),
    "crashing-devices": Weather(crash_device=0.03, duplicate=0.1),
    "disk-full": Weather(store_fails=0.1, drop=0.05),
    "heat": Weather(heat=0.4, cut_every_s=4.0, drop=0.02),
    "broker-restarts": Weather(broker_restart_every_s=12.0, drop=0.02),
    "everything": Weather(
        drop=0.1,
        duplicate=0.1,
        max_delay_s=1.0,
        cut_every_s=4.0,
        crash_aggregator=0.005,
        crash_device=0.01,
        store_fails=0.02,
        heat=0.1,
        broker_restart_every_s=25.0,
    ),
}


def test_a_fleet_in_fine_weather_makes_versions_of_every_update() -> None:
    fleet = Fleet(seed=0, weather=FINE)

    fleet.run(120.0)

    fleet.check()
    assert len(fleet.aggregator.store.versions) > 30
    contributors = {line.device_id for a in fleet.aggregator.store.aggregations for line in a.lineage}
    assert contributors == {device.name for device in fleet.devices}, "a slow device never got a word in"


@pytest.mark.parametrize("storm", STORMS)
@pytest.mark.parametrize("seed", range(32))
def test_nothing_is_lost_and_nothing_counts_twice(storm: str, seed: int) -> None:
    weather_a_storm(Fleet(seed, STORMS[storm]))


@pytest.mark.parametrize("storm", STORMS)
@pytest.mark.parametrize("seed", range(3))
def test_nor_when_versions_come_as_deltas(storm: str, seed: int) -> None:
    fleet = Fleet(seed, STORMS[storm], delta_codec="int8")

    weather_a_storm(fleet)

    received, from_delta = models_received(fleet)
    # A device that crashes all the time has rarely trained, and before that it takes models whole.
    assert from_delta > received / 3, "deltas were hardly used"


def test_heat_interrupts_trainings_and_yet_every_device_gets_its_word_in() -> None:
    fleet = Fleet(seed=0, weather=Weather(heat=0.3))

    fleet.run(240.0)

    fleet.check()
    counters = [device.disk.state.durable.counters for device in fleet.devices]
    assert sum(counts.trainings_interrupted for counts in counters) > 5
    assert all(counts.updates_accepted > 0 for counts in counters)
    # What was resumed since the last transaction is not in the books yet.
    resumed = [counts.trainings_resumed for counts in counters]
    assert sum(resumed) > 3
    assert all(booked <= device.resumed for booked, device in zip(resumed, fleet.devices, strict=True))


def test_in_fine_weather_versions_come_as_deltas_once_a_device_has_trained() -> None:
    fleet = Fleet(seed=0, weather=FINE, delta_codec="int8")

    fleet.run(120.0)

    fleet.check()
    for device in fleet.devices:
        counts = device.disk.state.durable.counters
        assert "unusable delta" not in counts.refusals
        # The slowest gets a few versions whole while it trains for the first time.
        assert counts.models_from_delta > 0.9 * counts.models_received


def models_received(fleet: Fleet) -> tuple[int, int]:
    counts = [device.disk.state.durable.counters for device in fleet.devices]
    return sum(c.models_received for c in counts), sum(c.models_from_delta for c in counts)


def weather_a_storm(fleet: Fleet) -> None:
    """Run through the storm, and beyond until all goes on by itself; check that nothing was lost."""
    fleet.run(60.0)
    store = fleet.aggregator.store
    versions, accepted = len(store.versions), set(store.identities())
    unsettled = {(device.name, sequence) for device in fleet.devices for sequence in device.disk.rows}

    def left() -> set[tuple[str, int]]:
        return unsettled & {(device.name, sequence) for device in fleet.devices for sequence in device.disk.rows}

    def heard_again() -> set[str]:
        return {device for device, _, _ in set(store.identities()) - accepted}

    went_on = fleet.clear_up(
        lambda: len(store.versions) > versions + 5 and not left() and len(heard_again()) == len(fleet.devices)
    )

    fleet.check()
    assert not fleet.aggregator.exits
    assert not left(), "an update from the storm was never settled"
    assert went_on, f"it did not go on by itself: {len(store.versions) - versions} versions, of {heard_again()}"


@pytest.mark.parametrize("storm", ["crashing-devices", "disk-full", "everything"])
@pytest.mark.parametrize("seed", range(6))
def test_with_signatures_and_sealing_too(storm: str, seed: int) -> None:
    keys = Keyring(signer=Signer([b"k" * 32]), opener=Opener([("x25519", b"s" * 32)]))
    fleet = Fleet(seed, STORMS[storm], keys=keys)

    fleet.run(60.0)
    before = len(fleet.aggregator.store.versions)
    went_on = fleet.clear_up(lambda: len(fleet.aggregator.store.versions) > before + 5)

    fleet.check()
    assert went_on, "it did not go on by itself"
    for device in fleet.devices:
        refusals = device.disk.state.durable.counters.refusals
        # A network that delays and doubles does play back old manifests; nothing else may look like an attack.
        doubted = {name for name in refusals if name.startswith(("manifest", "command"))}
        assert doubted <= {"manifest replayed"}, refusals


@pytest.mark.parametrize("seed", range(20))
def test_a_restart_gives_the_same_buffer_bit_for_bit(seed: int) -> None:
    fleet = Fleet(seed, Weather(drop=0.1, duplicate=0.1), schedule=ScheduleTable(goal=0, interval_s=25.0))
    fleet.run(20.0)
    before = fleet.aggregator.sum_of_buffer().tobytes()
    buffered = len(fleet.aggregator.core.ledger.buffer)
    assert buffered, "an empty buffer would prove nothing"

    fleet.aggregator.kill()
    fleet.aggregator.start()

    assert len(fleet.aggregator.core.ledger.buffer) == buffered
    assert fleet.aggregator.sum_of_buffer().tobytes() == before


def test_a_sleeping_and_a_dead_device_hold_nobody_up() -> None:
    fleet = Fleet(seed=3, weather=FINE)
    fleet.run(20.0)
    fleet.devices[0].alive = fleet.devices[1].alive = False
    for device in fleet.devices[:2]:
        assert device.link is not None
        device.link.kill()
    before = len(fleet.aggregator.store.versions)

    fleet.run(120.0)

    assert len(fleet.aggregator.store.versions) > before + 10


def test_the_simulation_can_tell_a_double_count() -> None:
    """The checks themselves: a forged lineage line must be found."""
    fleet = Fleet(seed=1, weather=FINE)
    fleet.run(30.0)
    fleet.check()
    store = fleet.aggregator.store
    store.aggregations.append(store.aggregations[-1])

    with pytest.raises(AssertionError, match="counted twice"):
        fleet.check()


def test_the_same_seed_gives_the_same_history() -> None:
    first, second = (Fleet(seed=7, weather=STORMS["everything"]) for _ in range(2))

    first.run(40.0)
    second.run(40.0)

    assert first.aggregator.store.identities() == second.aggregator.store.identities()
    a, b = (f.aggregator.store.versions[-1].parameters for f in (first, second))
    np.testing.assert_array_equal(np.frombuffer(a, "<f4"), np.frombuffer(b, "<f4"))
