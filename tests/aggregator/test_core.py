"""Figures, operators and the link: the core as its shell sees it."""

from __future__ import annotations

import json

import pytest

from aggregator.commands import Acknowledge, Command, Exit, Log, Publish, Reply, SaveFleet
from aggregator.configuration import MetricsTable, ScheduleTable
from aggregator.core import ShellFigures
from aggregator.events import (
    DeviceCommandRequested,
    MetricsDue,
    StatusRequested,
    StopRequested,
)
from protocol.link import LinkDown, LinkUp, Received, Subscribed
from protocol.messages import Participation
from protocol.packing import decode_command
from protocol.status import AggregatorState, DeviceState, decode_status, encode_status
from tests.aggregator.harness import EPOCH, INSTANCE, Bench, only, settings_with

WHEN_ASKED = ScheduleTable(goal=0, interval_s=60.0)


def kinds(commands: list[Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def test_figures_are_json_with_the_documented_names() -> None:
    bench = Bench(settings_with(schedule=ScheduleTable(goal=2)), lambda _: {"accuracy": 0.9, "loss": 1.0})
    bench.core.figures = ShellFigures(store_bytes=11, rss_bytes=22, messages_dropped=33, uptime_s=44.0)
    state = DeviceState(device_id="a", state="idle")
    bench.feed(Received(topic=bench.topics.device_state("a"), payload=encode_status(state)))
    bench.feed(MetricsDue())
    for name in ("a", "b", "a"):
        bench.send(bench.update(name), name)
    bench.send(bench.update("a", sequence=1), "a")
    bench.send(bench.update("a", base_version=7), "a")
    bench.now += 2.0

    commands = bench.feed(MetricsDue())

    (publish,) = only(commands, Publish)
    assert (publish.topic, publish.qos, publish.retain) == (bench.topics.aggregator_metrics, 0, True)
    found = json.loads(publish.payload)
    assert found | {"bytes_received": 0, "update_bytes_received": 0} == {
        "federation": "bench",
        "version": 1,
        "versions_published": 1,
        "versions_withheld": 0,
        "versions_withdrawn": 0,
        "candidate": None,
        "reports_accepted": 0,
        "reports_refused": 0,
        "surveys_open": 0,
        "identity_conflicts": 0,
        "devices_known": 2,
        "devices_online": 1,
        "devices_drifting": 0,
        "devices_quarantined": 0,
        "updates_received": 5,
        "updates_accepted": 3,
        "updates_folded": 3,
        "updates_buffered": 1,
        "updates_set_aside": 0,
        "updates_clipped": 0,
        "updates_duplicate": 1,
        "updates_stale": 0,
        "updates_rejected": 1,
        "updates_retry": 0,
        "refusals": {"unknown-version": 1},
        "staleness": {"0": 3},
        "updates_per_s": 1.5,
        "bytes_received": 0,
        "update_bytes_received": 0,
        "accuracy": 0.9,
        "loss": 1.0,
        "buffer_goal": 2,
        "messages_dropped": 33,
        "broker_messages_dropped": None,
        "store_bytes": 11,
        "rss_bytes": 22,
        "uptime_s": 44.0,
    }
    assert 0 < found["update_bytes_received"] < found["bytes_received"]


def test_fast_versions_do_not_flood_the_watchers() -> None:
    bench = Bench(settings_with(schedule=ScheduleTable(goal=1)))
    told = 0
    for _ in range(100):
        commands = bench.send(bench.update())
        told += sum(c.topic == bench.topics.aggregator_metrics for c in only(commands, Publish))
        bench.now += 0.01

    assert bench.version == 100
    assert 3 <= told <= 6


def test_the_state_follows_every_version() -> None:
    bench = Bench(settings_with(schedule=ScheduleTable(goal=1)))
    bench.send(bench.update())

    state = decode_status(bench.broker[bench.topics.aggregator_state], AggregatorState)

    assert (state.status, state.version, state.epoch, state.instance) == ("online", 1, EPOCH, INSTANCE)
    assert decode_status(bench.core.will.payload, AggregatorState).status == "offline"
    assert bench.core.will.retain


def test_the_brokers_own_counter() -> None:
    topic = "$SYS/broker/publish/messages/dropped"
    bench = Bench(settings_with(metrics=MetricsTable(broker_dropped_topic=topic)))
    for payload in (b"17", b"", b"many", b"\xff", b"-3", b"1" * 1000, "²".encode()):
        received = Received(topic=topic, payload=payload, qos=0)
        assert only(bench.feed(received), Acknowledge)
        if payload == b"17":
            bench.feed(MetricsDue())
            assert bench.metrics()["broker_messages_dropped"] == 17
    assert not bench.refusals


def test_a_refused_subscription_is_told() -> None:
    bench = Bench()

    (log,) = only(bench.feed(Subscribed(topics=("a", "b"), refused=("b",))), Log)

    assert (log.level, log.text, log.fields) == ("error", "the broker refuses a topic", {"topic": "b"})


# -- operators, and the end -----------------------------------------------------------------------------


def test_status_on_request() -> None:
    bench = Bench()
    bench.send(bench.update())

    (reply,) = only(bench.feed(StatusRequested(request_id="q")), Reply)

    assert reply.body["updates_accepted"] == 1
    json.dumps(reply.body)


@pytest.mark.parametrize(("device", "segment"), [("dev", "command/dev"), ("", "command/all")])
def test_commands_to_devices(device: str, segment: str) -> None:
    bench = Bench()

    commands = bench.feed(DeviceCommandRequested(request_id="a" * 16, device_id=device, action="pause"))

    (publish,) = only(commands, Publish)
    assert publish.topic == f"{bench.topics.root}/{segment}"
    assert not publish.retain
    found = decode_command(publish.payload)
    assert (found.action, found.request_id, found.federation) == ("pause", "a" * 16, "bench")
    assert only(commands, Reply)[0].error == ""


@pytest.mark.parametrize("device", ["a/b", "#", "..", "x" * 65])
def test_a_command_to_nobody_is_an_answer_and_no_crash(device: str) -> None:
    bench = Bench()

    commands = bench.feed(DeviceCommandRequested(request_id="a" * 16, device_id=device, action="pause"))

    assert not only(commands, Publish)
    assert only(commands, Reply)[0].error


def test_without_a_link_a_command_cannot_be_sent() -> None:
    bench = Bench()
    bench.feed(LinkDown(reason="cut"))

    commands = bench.feed(DeviceCommandRequested(request_id="a" * 16, device_id="dev", action="resume"))

    assert "not connected" in only(commands, Reply)[0].error


def test_without_a_link_it_ends_without_a_word() -> None:
    bench = Bench()
    bench.feed(LinkDown(reason="cut"))

    assert kinds(bench.feed(StopRequested())) == ["Exit"]
    assert only(Bench().feed(StopRequested()), Exit)[0].code == 0


def test_updates_that_come_while_reconnecting_are_all_answered() -> None:
    bench = Bench(settings_with(schedule=WHEN_ASKED))
    update = bench.update()
    bench.send(update)
    bench.feed(LinkDown(reason="cut"))
    bench.feed(LinkUp(session_present=True, protocol="5"))

    assert bench.answer(update).status == "duplicate"


def test_a_quiet_core_stores_nothing() -> None:
    bench = Bench()

    for _ in range(3):
        assert not only(bench.feed(MetricsDue()), SaveFleet)
    assert not only(bench.tick(10.0), SaveFleet)


@pytest.mark.parametrize(
    ("schedule", "limit", "devices"),
    [
        (ScheduleTable(goal=4), 1, "fewer than 4 devices"),
        (ScheduleTable(goal=4), 2, "fewer than 2 devices"),
        (ScheduleTable(goal=2, quorum=3), 1, "fewer than 3 devices"),
        (ScheduleTable(goal=1), 1, ""),
        (ScheduleTable(goal=4), 4, ""),
        (ScheduleTable(goal=4, interval_s=60.0), 1, ""),
        (ScheduleTable(goal=4, cron="* * * * *"), 1, ""),
    ],
)
def test_a_schedule_that_waits_for_devices_that_may_not_exist_is_warned_of(
    schedule: ScheduleTable, limit: int, devices: str
) -> None:
    participation = Participation(codec="f32", contributions_per_version=limit)

    warnings = settings_with(schedule=schedule, participation=participation).warnings()

    assert len(warnings) == bool(devices)
    assert devices in "".join(warnings)


def test_a_version_made_in_the_same_batch_does_not_say_online_behind_the_goodbye() -> None:
    bench = Bench(settings_with(schedule=ScheduleTable(goal=1)))
    bench.feed(StopRequested())

    made = bench.send(bench.update("a"), "a")

    assert bench.core.ledger.version.version == 1
    assert bench.topics.aggregator_state not in {publish.topic for publish in only(made, Publish)}
    assert decode_status(bench.broker[bench.topics.aggregator_state], AggregatorState).status == "offline"
