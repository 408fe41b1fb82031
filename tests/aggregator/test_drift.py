"""What the aggregator makes of devices that say that their data drift: counted, named, logged."""

from __future__ import annotations

import msgspec

from aggregator.commands import Command, Log
from protocol.link import Received
from protocol.status import DeviceState, WorkName
from tests.aggregator.harness import Bench, only


def say(bench: Bench, device: str, *, drifting: bool, name: WorkName = "idle") -> list[Command]:
    state = DeviceState(device_id=device, state=name, boot="b", drifting=drifting)
    return bench.feed(Received(topic=bench.topics.device_state(device), payload=msgspec.json.encode(state)))


def logged(commands: list[Command]) -> list[tuple[str, str]]:
    return [(log.level, log.text) for log in only(commands, Log)]


def test_a_line_when_it_begins_and_one_when_it_is_over() -> None:
    bench = Bench()
    assert logged(say(bench, "a", drifting=False)) == []
    begun = [("warning", "device a does worse on new samples than on earlier ones: its data drift")]
    assert logged(say(bench, "a", drifting=True)) == begun
    assert logged(say(bench, "a", drifting=True, name="training")) == []
    say(bench, "b", drifting=True)
    assert bench.core.status.metrics().devices_drifting == 2
    assert "2 drifting" in bench.core.status.line(connected=True)
    assert logged(say(bench, "a", drifting=False)) == [("info", "the data of device a drift no more")]
    assert bench.core.status.metrics().devices_drifting == 1


def test_a_will_ends_nothing_and_a_restart_neither() -> None:
    bench = Bench()
    say(bench, "a", drifting=True)
    assert logged(say(bench, "a", drifting=False, name="lost")) == []
    again = bench.restart()
    assert again.core.status.metrics().devices_drifting == 1
    assert logged(say(again, "a", drifting=True)) == []


def test_a_device_of_before_says_nothing_of_it() -> None:
    bench = Bench()
    payload = b'{"device_id": "a", "state": "idle"}'
    assert logged(bench.feed(Received(topic=bench.topics.device_state("a"), payload=payload))) == []
    assert bench.core.status.metrics().devices_drifting == 0
