"""How often one version is trained when its updates are rejected: again where that may help, and not for ever."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from device_agent import commands as do
from device_agent import turns
from device_agent.records import Trained
from tests.device_agent.harness import EPOCH, Driver, manifest, settings
from tests.device_agent.test_training import trains

WHY = "norm: norm 5, 1 allowed"
LONG_S = 20 * turns.MAX_REST_S


def rejected(driver: Driver, sequence: int, reason: str = WHY) -> list[do.Command]:
    """Finish the training under way, and have its update rejected."""
    return [*driver.finish_training(), *driver.answer(sequence, "rejected", reason=reason)]


def driven() -> Driver:
    driver = Driver(settings())
    driver.start()
    driver.hold(1)
    return driver


@pytest.mark.parametrize("reason", ["norm: x", "not-finite: x", "cannot-open: x", "unsealed: x"])
def test_what_another_training_may_mend_is_trained_again_after_a_rest(reason: str) -> None:
    driver = driven()

    rejected(driver, 1, reason)
    driver.wait(turns.FIRST_REST_S / 2 - 1.0)
    assert trains(driver) == [(1, 0)], "no hot loop"
    driver.wait(turns.FIRST_REST_S)

    assert trains(driver) == [(1, 0), (1, 1)], "the next contribution: other batches"
    driver.finish_training()
    driver.answer(2)
    driver.wait(LONG_S)
    assert len(trains(driver)) == 2, "its turn is used now"


@pytest.mark.parametrize(
    "reason",
    ["other-layout: x", "unknown-version: x", "examples: x", "bad-delta: x", "malformed: x", "fleet-full: x", ""],
)
def test_what_would_be_rejected_again_is_not_tried(reason: str) -> None:
    driver = driven()

    rejected(driver, 1, reason)
    driver.wait(LONG_S)

    assert trains(driver) == [(1, 0)]
    assert driver.states()[-1].reason.startswith("update rejected: ")
    driver.hold(2)
    driver.wait(1.0)
    assert trains(driver)[-1] == (2, 0)
    assert driver.states()[-1].reason == ""


def test_an_accepted_stale_or_duplicate_update_gives_no_turn_back() -> None:
    for status in ("accepted", "stale", "duplicate"):
        driver = driven()
        driver.finish_training()
        driver.answer(1, status)
        driver.wait(LONG_S)
        assert trains(driver) == [(1, 0)], status


def test_it_ends_after_so_many_tries_and_says_so() -> None:
    driver = driven()

    for sequence in range(1, turns.MAX_TRIES + 1):
        rejected(driver, sequence)
        driver.wait(1.0)
        assert "trains again" in driver.states()[-1].reason or sequence == turns.MAX_TRIES
        driver.wait(turns.FIRST_REST_S * 2.0 ** (sequence - 1))
    driver.wait(LONG_S)

    assert trains(driver) == [(1, number) for number in range(turns.MAX_TRIES)]
    state = driver.states()[-1]
    assert (state.state, state.reason.split(":")[0]) == ("idle", f"{turns.MAX_TRIES} updates rejected")
    assert WHY in state.reason
    assert driver.disk.durable.counters.updates_rejected == turns.MAX_TRIES


def test_a_new_announcement_of_the_version_and_a_new_version_begin_anew() -> None:
    driver = driven()
    for sequence in range(1, turns.MAX_TRIES + 1):
        rejected(driver, sequence)
        driver.wait(LONG_S)
    assert len(trains(driver)) == turns.MAX_TRIES

    driver.announce(replace(manifest(1), issued=7))
    assert len(trains(driver)) == turns.MAX_TRIES + 1, "at once: whoever announces anew may have mended the reason"
    rejected(driver, turns.MAX_TRIES + 1)
    driver.announce(replace(manifest(1), issued=7))
    assert len(trains(driver)) == turns.MAX_TRIES + 1, "the same once more is nothing new"
    driver.wait(LONG_S)
    assert len(trains(driver)) == turns.MAX_TRIES + 2
    driver.hold(2)
    driver.finish_training()
    assert trains(driver)[-1] == (2, 0)


def test_restarts_neither_forget_the_tries_nor_the_rest() -> None:
    driver = driven()
    for sequence in range(1, turns.MAX_TRIES + 1):
        rejected(driver, sequence)
        driver = driver.restarted()
        driver.start()
        driver.announce(manifest(1))
        assert trains(driver) == [], "restarted in a loop it would train in a loop"
        driver.wait(LONG_S)
        assert len(trains(driver)) == (sequence < turns.MAX_TRIES)
    assert "updates rejected" in driver.states()[-1].reason


def test_offline_after_a_restart_what_was_announced_before_is_no_new_announcement() -> None:
    driver = driven()
    driver.announce(replace(manifest(1), issued=7))
    for sequence in range(1, turns.MAX_TRIES + 1):
        rejected(driver, sequence)
        driver.wait(LONG_S)
    again = driver.restarted()  # the cache holds version 1 as it was announced when it was fetched
    again.start(connect=False)
    again.wait(LONG_S)
    assert trains(again) == []


def test_a_rejection_that_comes_late_does_not_hold_the_next_version_up() -> None:
    driver = driven()
    driver.finish_training()
    driver.hold(2)
    driver.answer(1, "rejected", reason=WHY)
    assert trains(driver) == [(1, 0), (2, 0)]
    driver.finish_training()
    driver.answer(2)
    driver.wait(LONG_S)
    assert trains(driver) == [(1, 0), (2, 0)]


def test_the_next_version_does_not_wait_for_the_rest_of_this_one() -> None:
    driver = driven()
    rejected(driver, 1)
    driver.hold(2)
    assert trains(driver)[-1] == (2, 0)


def test_an_update_that_the_disk_lost_is_made_again() -> None:
    driver = driven()
    driver.acknowledge = False
    driver.finish_training()
    again = driver.restarted()
    del again.disk.rows[1]
    again.start()
    again.announce(manifest(1))
    again.wait(turns.FIRST_REST_S)
    assert trains(again) == [(1, 1)]
    assert again.disk.durable.counters.updates_dropped == 1


def test_a_forged_rejection_of_an_update_that_does_not_wait_changes_nothing() -> None:
    driver = driven()
    driver.finish_training()
    driver.answer(1)
    driver.answer(1, "rejected", reason=WHY)
    driver.wait(LONG_S)
    assert trains(driver) == [(1, 0)]


def test_turns_of_withheld_versions_add_to_those_that_are_given_back() -> None:
    once, twice = manifest(1), manifest(1, contributions_per_version=2)
    trained = Trained(epoch=EPOCH, version=1, count=1)
    assert not turns.is_open(once, trained)
    assert turns.is_open(twice, trained)
    back = turns.given_back(trained, once, WHY)
    assert turns.is_open(once, back)
    assert not turns.is_open(once, replace(back, count=2))
    assert turns.is_open(twice, replace(back, count=2))
    assert turns.given_back(replace(trained, count=0), once, WHY).rejected == 0, "never more back than were made"


def test_rests_grow_and_are_never_shorter_than_half() -> None:
    rng = random.Random(1)
    for tries in range(1, 40):
        ceiling = min(turns.FIRST_REST_S * 2.0 ** (tries - 1), turns.MAX_REST_S)
        assert ceiling / 2 <= turns.rest_s(tries, rng) <= ceiling
