from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from device_agent import commands as do
from device_agent import events as ev
from device_agent.sensing.predictions import PredictionSettings
from device_agent.sensing.sources import MqttSource
from device_agent.settings import MAX_MODEL_BYTES, DataSettings
from protocol.messages import BlobRef, Manifest
from protocol.packing import encode
from protocol.thresholds import Threshold
from tests.device_agent.harness import DEVICE, TOPICS, Driver, manifest, model_bytes, receipt, settings

DATA = model_bytes(3, 1000)
WHAT = manifest(3, data=DATA, chunk_bytes=100)


def blob_topics(*indices: int) -> list[str]:
    return [TOPICS.blob(WHAT.blob.digest, index) for index in indices]


def test_a_connection_subscribes_to_what_a_device_listens_to() -> None:
    driver = Driver()
    assert driver.subscribed(driver.start()) == [
        f"fedmq/v1/fed/receipt/{DEVICE}",
        f"fedmq/v1/fed/command/{DEVICE}",
        "fedmq/v1/fed/command/all",
        "fedmq/v1/fed/model/current",
    ]


def test_at_most_four_exact_chunk_topics_are_subscribed() -> None:
    driver = Driver()
    driver.start()
    assert driver.subscribed(driver.announce(WHAT)) == blob_topics(0, 1, 2, 3)
    open_topics = set(blob_topics(0, 1, 2, 3))
    for index in (2, 0, 1, 3, 4, 6, 5, 7, 8, 9):
        for command in driver.chunks(WHAT, DATA, [index]):
            if isinstance(command, do.Subscribe):
                open_topics |= set(command.topics)
            if isinstance(command, do.Unsubscribe):
                open_topics -= set(command.topics)
        assert len(open_topics) <= 4
    assert open_topics == set()
    assert driver.last(do.CacheModel) == do.CacheModel(manifest=WHAT, data=DATA)
    assert driver.last(do.Train).manifest == WHAT


def test_chunks_that_come_twice_or_belong_to_nothing_change_nothing() -> None:
    driver = Driver()
    driver.start()
    driver.announce(WHAT)
    driver.chunks(WHAT, DATA, [0, 0, 0])
    driver.receive(TOPICS.blob("f" * 64, 0), b"other")
    driver.receive(TOPICS.blob(WHAT.blob.digest, 99), b"x" * 100)
    driver.receive(TOPICS.blob(WHAT.blob.digest, 1), b"x" * 99)
    driver.chunks(WHAT, DATA)
    assert driver.last(do.CacheModel).data == DATA
    assert driver.core.handle(ev.Tick(), driver.now) == []


def test_fetching_resumes_where_it_stopped_when_the_connection_is_back() -> None:
    driver = Driver()
    driver.start()
    driver.announce(WHAT)
    driver.chunks(WHAT, DATA, [0, 1, 2, 3, 4])
    driver.cut()
    assert driver.subscribed(driver.connect())[-1] == TOPICS.current_model
    assert driver.subscribed(driver.announce(WHAT)) == blob_topics(5, 6, 7, 8)
    driver.chunks(WHAT, DATA, [5, 6, 7, 8, 9])
    assert driver.last(do.CacheModel).data == DATA


def test_when_nothing_comes_the_manifest_is_read_again_and_only_then_the_chunks() -> None:
    driver = Driver()
    driver.start()
    driver.announce(WHAT)
    driver.chunks(WHAT, DATA, [0])
    assert driver.subscribed(driver.wait(19.9)) == []
    assert driver.subscribed(driver.wait(0.2)) == [TOPICS.current_model]
    assert driver.subscribed(driver.announce(WHAT)) == blob_topics(1, 2, 3, 4)


def test_a_slow_link_is_not_made_to_carry_a_chunk_twice() -> None:
    driver = Driver()
    driver.start()
    driver.announce(WHAT)
    driver.wait(25.0)
    driver.chunks(WHAT, DATA, [0])
    # The manifest that was asked for travelled behind the chunk: it must not lead to subscriptions again.
    assert driver.subscribed(driver.announce(WHAT)) == []


def test_the_newest_manifest_wins_in_mid_fetch() -> None:
    driver = Driver()
    driver.start()
    driver.announce(WHAT)
    driver.chunks(WHAT, DATA, [0, 1])
    newer = manifest(4)
    commands = driver.announce(newer)
    assert [topic for command in driver.all(do.Unsubscribe, commands) for topic in command.topics] == blob_topics(
        2, 3, 4, 5
    )
    driver.chunks(WHAT, DATA)
    assert driver.all(do.CacheModel) == []
    driver.chunks(newer, model_bytes(4))
    assert driver.last(do.CacheModel).manifest == newer


def overtaken_once() -> Driver:
    """Return a device that gave up version 3 for version 4, and fetches that."""
    driver = Driver()
    driver.start()
    driver.announce(WHAT)
    driver.announce(manifest(4))
    return driver


def test_a_second_newer_manifest_in_mid_fetch_has_to_wait_unheard() -> None:
    driver = overtaken_once()

    commands = driver.announce(manifest(5))
    assert [command.topics for command in driver.all(do.Unsubscribe, commands)] == [(TOPICS.current_model,)]
    assert driver.subscribed(commands) == []
    assert driver.all(do.Unsubscribe, driver.announce(manifest(6))) == [], "it was on its way already"

    commands = driver.chunks(manifest(4), model_bytes(4))
    assert driver.last(do.CacheModel).manifest == manifest(4)
    assert driver.last(do.Train).manifest == manifest(4)
    assert driver.subscribed(commands) == [TOPICS.current_model]
    driver.announce(manifest(7))
    driver.chunks(manifest(7), model_bytes(7))
    assert driver.last(do.CacheModel).manifest == manifest(7)


def test_a_version_that_is_to_be_finished_but_does_not_come_gives_way_to_the_newest() -> None:
    driver = overtaken_once()
    driver.announce(manifest(5))

    assert driver.subscribed(driver.wait(20.1)) == [TOPICS.current_model]
    assert driver.subscribed(driver.announce(manifest(8), live=True)) == [], "that says nothing about the chunks"

    driver.announce(manifest(9))
    driver.chunks(manifest(9), model_bytes(9))
    assert driver.last(do.CacheModel).manifest == manifest(9)


def test_a_version_that_is_to_be_finished_goes_on_over_the_next_connection() -> None:
    driver = overtaken_once()
    driver.announce(manifest(5))
    driver.cut()
    driver.connect()

    commands = driver.announce(manifest(6))

    topics = [TOPICS.blob(manifest(4).blob.digest, index) for index in range(min(4, manifest(4).blob.chunk_count))]
    assert driver.subscribed(commands) == topics
    driver.chunks(manifest(4), model_bytes(4))
    assert driver.last(do.CacheModel).manifest == manifest(4)


def test_an_older_manifest_of_the_same_epoch_is_ignored() -> None:
    driver = Driver()
    driver.start()
    driver.hold(5)
    assert driver.subscribed(driver.announce(manifest(4))) == []
    assert driver.subscribed(driver.announce(manifest(5))) == []


def test_the_same_version_with_another_plan_is_adopted_without_fetching() -> None:
    driver = Driver()
    driver.start()
    driver.hold(5, sampling_fraction=1e-9)
    assert driver.all(do.Train) == []
    assert driver.subscribed(driver.announce(manifest(5))) == []
    assert driver.last(do.Train).manifest == manifest(5)


THRESHOLD = Threshold(error=0.5, quantile=0.99, version=5)


def test_a_threshold_for_the_model_that_is_held_is_kept_by_those_who_predict() -> None:
    source = MqttSource(topics=["x"], fields={"x": "x"})
    told = PredictionSettings(topic="press/strange")
    predicting = settings(data=DataSettings(watch_s=0.0), sources={"s": source}, predictions=told)
    for config, kept in ((predicting, 1), (settings(), 0)):
        driver = Driver(config)
        driver.start()
        driver.hold(5)
        later = replace(manifest(5), issued=9, anomaly=THRESHOLD)
        driver.announce(later)
        driver.announce(replace(later, issued=10))
        assert driver.all(do.KeepAnnouncement) == [do.KeepAnnouncement(manifest=later)] * kept
        assert driver.core._parts.desk.held == replace(later, issued=10)


def test_chunks_that_do_not_have_the_announced_digest_are_fetched_again_later() -> None:
    driver = Driver()
    driver.start()
    driver.announce(WHAT)
    driver.chunks(WHAT, bytes(1000))
    assert driver.all(do.CacheModel) == []
    assert "malformed message" in driver.last(do.Log).message
    assert TOPICS.current_model in driver.subscribed(driver.wait(60.0))
    driver.announce(WHAT)
    driver.chunks(WHAT, DATA)
    assert driver.last(do.CacheModel).data == DATA


def test_a_chunk_that_is_cleared_means_that_there_is_news() -> None:
    driver = Driver()
    driver.start()
    driver.announce(WHAT)
    assert driver.subscribed(driver.receive(TOPICS.blob(WHAT.blob.digest, 1), b"")) == [TOPICS.current_model]


def test_a_full_disk_leaves_the_old_model_and_tries_again() -> None:
    driver = Driver()
    driver.start()
    old = driver.hold(1)
    driver.finish_training()
    driver.answer(1)
    driver.disk.cache_error = "No space left on device"
    driver.announce(WHAT)
    driver.chunks(WHAT, DATA)
    driver.wait(1.0)
    assert driver.disk.model == old
    assert "No space left" in driver.states()[-1].reason
    driver.disk.cache_error = ""
    driver.wait(60.0)
    driver.announce(WHAT)
    driver.chunks(WHAT, DATA)
    driver.wait(1.0)
    assert driver.disk.model == WHAT
    assert driver.states()[-1].reason == ""


def test_manifests_that_cannot_be_meant_are_counted_and_told_once() -> None:
    driver = Driver()
    driver.start()
    huge = BlobRef(digest="a" * 64, total_bytes=MAX_MODEL_BYTES + 1, chunk_bytes=65536, encoding="f16")
    crumbs = BlobRef(digest="a" * 64, total_bytes=70_000, chunk_bytes=1, encoding="f16")
    for wrong in (
        encode(replace_manifest(federation="other")),
        encode(replace_manifest(blob=huge)),
        encode(replace_manifest(blob=crumbs)),
        encode(replace_manifest(parameters="b" * 64)),
        encode(receipt(1)),
        b"\xff" * 3000,
        b"\x81",
    ):
        for _ in range(5):
            assert driver.subscribed(driver.receive(TOPICS.current_model, wrong)) == []
    assert len([log for log in driver.all(do.Log) if log.message == "malformed message"]) == 6
    assert driver.all(do.Train) == []
    driver.wait(40.0)
    assert driver.last(do.PublishMetrics).metrics.refusals == {"malformed message": 30, "manifest other-federation": 5}


def replace_manifest(**changes: Any) -> Manifest:
    return replace(WHAT, **changes)


def test_a_cleared_manifest_is_nothing() -> None:
    driver = Driver()
    driver.start()
    assert driver.all(do.Log, driver.receive(TOPICS.current_model, b"")) == []


def test_a_silent_broker_is_asked_again_after_long() -> None:
    driver = Driver()
    driver.start()
    assert driver.subscribed(driver.wait(601.0)) == [TOPICS.current_model]
