"""The inbox is bounded, keeps its order, and refuses messages only."""

from __future__ import annotations

import threading

import pytest

from aggregator.adapters import inbox as inbox_module
from aggregator.adapters.inbox import BATCH_BYTES, BATCH_EVENTS, Inbox
from aggregator.events import MetricsDue, StopRequested
from protocol.link import LinkDown, Published, Received


def message(number: int, size: int = 1, qos: int = 1) -> Received:
    return Received(topic=f"t/{number}", payload=bytes(size), qos=qos, mid=number if qos else 0, connection=1)


def test_order_and_batches() -> None:
    inbox = Inbox()
    sent = [message(number) for number in range(1, BATCH_EVENTS + 11)]
    assert all(inbox.deliver(event) for event in sent)
    assert inbox.take(0.0) == sent[:BATCH_EVENTS]
    assert inbox.take(1.0) == sent[BATCH_EVENTS:]
    assert inbox.take(0.0) == []
    assert inbox.fill == 0.0


def test_a_batch_is_bounded_in_bytes() -> None:
    inbox = Inbox()
    for number in range(1, 6):
        inbox.deliver(message(number, BATCH_BYTES // 2))
    assert [len(inbox.take(0.0)) for _ in range(3)] == [2, 2, 1]


def test_beyond_the_bound_a_message_leaves_only_its_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "MAX_MESSAGES", 4)
    inbox = Inbox()
    for number in range(1, 7):
        assert inbox.deliver(message(number))
    assert not inbox.deliver(message(7, qos=0))
    assert inbox.fill == 1.0
    assert inbox.dropped == 2
    taken = [event for event in inbox.take(0.0) if isinstance(event, Received)]
    assert [event.mid for event in taken] == [1, 2, 3, 4, 5, 6]
    assert [event.topic for event in taken][3:] == ["t/4", "", ""]
    assert inbox.fill == 0.0


def test_it_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "MAX_BYTES", 100)
    inbox = Inbox()
    inbox.deliver(message(1, 50))
    assert inbox.fill == 0.5
    inbox.deliver(message(2, 60))
    inbox.deliver(message(3, 60))
    assert inbox.dropped == 1
    inbox.take(0.0)
    inbox.deliver(message(4, 60))
    assert inbox.dropped == 1


def test_a_device_on_all_its_topics_crowds_out_only_itself() -> None:
    """It may publish in every shard, and state and metrics besides: 66 times 64 messages would fill the whole inbox."""
    inbox = Inbox(64)
    root = "fedmq/v1/demo"
    topics = [f"{root}/up/{shard}/evil" for shard in range(64)]
    topics += [f"{root}/device/evil/state", f"{root}/device/evil/metrics"]
    for _ in range(64):
        for topic in topics:
            inbox.deliver(Received(topic=topic, payload=bytes(1024), qos=0, mid=0, connection=1))
    assert inbox.waiting == 64
    assert inbox.deliver(Received(topic=f"{root}/up/7/honest", payload=b"x", qos=0, mid=0, connection=1))
    inbox.take(0.0)
    assert inbox.deliver(Received(topic=topics[0], payload=b"x", qos=0, mid=0, connection=1))


def test_all_other_events_are_always_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "MAX_MESSAGES", 1)
    inbox = Inbox()
    inbox.deliver(message(1))
    assert inbox.deliver(LinkDown(reason="gone"))
    assert inbox.deliver(Published(token="x"))
    inbox.put(StopRequested())
    inbox.put(MetricsDue())
    assert len(inbox.take(0.0)) == 5


def test_waiting_ends_when_something_comes() -> None:
    inbox = Inbox()
    timer = threading.Timer(0.05, inbox.put, [StopRequested()])
    timer.start()
    assert inbox.take(30.0) == [StopRequested()]
    timer.join()
