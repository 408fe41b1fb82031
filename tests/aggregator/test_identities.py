from __future__ import annotations

from aggregator.identities import Identities


def conflicts(*boots: str) -> int:
    identities = Identities()
    for boot in boots:
        identities.note("press-07", boot)
    return identities.conflicts


def test_restarts_are_no_conflict() -> None:
    assert conflicts("a", "a", "b", "b", "c", "d", "d") == 0


def test_states_that_a_broker_delivers_twice_are_no_conflict() -> None:
    assert conflicts("a", "b", "a", "b") == 0


def test_two_agents_that_take_turns_are() -> None:
    assert conflicts(*"ababa") == 1
    assert conflicts(*"aaabbaabba") == 1
    assert conflicts(*"ababab") == 2


def test_devices_are_told_apart() -> None:
    identities = Identities()
    for number in range(10):
        assert not identities.note(f"press-{number}", "ab"[number % 2])
    assert identities.conflicts == 0
