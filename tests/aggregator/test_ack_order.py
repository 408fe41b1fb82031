"""MQTT wants acknowledgements in the order of the messages (MQTT-4.6.0-2), and a broker may hang up on others."""

from __future__ import annotations

import pytest

from aggregator.commands import Acknowledge, Command
from aggregator.core import AggregatorCore
from aggregator.events import Tick
from protocol.link import LinkUp, Received
from protocol.status import AggregatorState, encode_status
from tests.aggregator.harness import EPOCH, FEDERATION, INSTANCE, STORE, Bench


def acknowledged(commands: list[Command]) -> list[int]:
    return [command.received.mid for command in commands if isinstance(command, Acknowledge)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def starting(bench: Bench) -> AggregatorCore:
    core = AggregatorCore(bench.settings, bench.model, bench.restored, INSTANCE, bench.evaluate)
    core.handle(LinkUp(session_present=True, protocol="3.1.1"), 0.0, 0.0)
    return core


def own_echo(bench: Bench, mid: int) -> Received:
    state = AggregatorState(federation=FEDERATION, epoch=EPOCH, instance="old", store=STORE, status="online")
    return Received(topic=bench.topics.aggregator_state, payload=encode_status(state), mid=mid)


def update(bench: Bench, mid: int) -> Received:
    message = bench.message(bench.raw())
    return Received(topic=message.topic, payload=message.payload, mid=mid)


def test_nothing_is_acknowledged_before_it_is_clear_that_we_are_alone_and_then_all_in_order(bench: Bench) -> None:
    core = starting(bench)
    early = []
    for message in (update(bench, 1), own_echo(bench, 2), update(bench, 3), own_echo(bench, 4)):
        early += core.handle(message, 0.1, 0.0)

    released = core.handle(Tick(), 10.0, 0.0)

    assert acknowledged(early) == []
    assert acknowledged(released) == [1, 2, 3, 4]


def test_what_cannot_be_held_whole_is_acknowledged_in_its_turn_and_not_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.presence.MAX_HELD", 1)
    core = starting(bench)
    for mid in (1, 2, 3):
        core.handle(update(bench, mid), 0.1, 0.0)

    released = core.handle(Tick(), 10.0, 0.0)

    assert acknowledged(released) == [1, 2, 3]
    assert core.fleet.counters.received == 1
