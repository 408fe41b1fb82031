from __future__ import annotations

from protocol.heartbeat import Heartbeat

# keep-alive 100 s: patience 75 s


def test_a_quiet_connection_is_pinged() -> None:
    heartbeat = Heartbeat(100.0, 0.0)

    assert heartbeat.next_check(0.0) == 75.0
    assert heartbeat.check(74.9, 10) == "alive"


def test_a_ping_is_due_after_three_quarters() -> None:
    assert Heartbeat(100.0, 0.0).check(75.0, 0) == "ping"


def test_one_busy_direction_is_not_enough() -> None:
    heartbeat = Heartbeat(100.0, 0.0)
    heartbeat.received(74.0)

    assert heartbeat.check(75.0, 0) == "ping"


def test_both_directions_busy_need_no_ping() -> None:
    heartbeat = Heartbeat(100.0, 0.0)
    heartbeat.check(50.0, 10)
    heartbeat.received(60.0)

    assert heartbeat.check(75.0, 10) == "alive"
    assert heartbeat.next_check(75.0) == 125.0


def test_an_answer_is_life() -> None:
    heartbeat = Heartbeat(100.0, 0.0)
    heartbeat.pinged(75.0, 2)
    heartbeat.received(76.0)

    assert heartbeat.check(150.0, 2) == "alive"
    assert heartbeat.next_check(150.0) == 151.0


def test_no_answer_is_death_after_one_and_a_half_in_all() -> None:
    heartbeat = Heartbeat(100.0, 0.0)
    heartbeat.pinged(75.0, 2)

    assert heartbeat.check(149.9, 0) == "alive"
    assert heartbeat.check(150.0, 0) == "dead"


def test_a_ping_behind_a_chunk_may_take_as_long_as_the_chunk_moves() -> None:
    heartbeat = Heartbeat(100.0, 0.0)
    heartbeat.pinged(75.0, 100_000)
    for step in range(1, 20):
        assert heartbeat.check(75.0 + 50.0 * step, 5_000 * step) == "alive"


def test_a_chunk_that_stops_moving_is_death() -> None:
    heartbeat = Heartbeat(100.0, 0.0)
    heartbeat.pinged(75.0, 100_000)
    heartbeat.check(100.0, 5_000)

    assert heartbeat.check(174.9, 5_000) == "alive"
    assert heartbeat.check(175.0, 5_000) == "dead"


def test_bytes_behind_the_ping_do_not_keep_a_mute_broker_alive() -> None:
    heartbeat = Heartbeat(100.0, 0.0)
    heartbeat.pinged(75.0, 100)
    heartbeat.check(80.0, 100)  # delivered
    heartbeat.check(120.0, 500)

    assert heartbeat.check(155.0, 900) == "dead"


def test_checks_are_frequent_while_an_answer_is_awaited() -> None:
    heartbeat = Heartbeat(100.0, 0.0)
    heartbeat.pinged(75.0, 2)

    assert heartbeat.next_check(75.0) == 75.0 + 75.0 / 4
