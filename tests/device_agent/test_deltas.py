"""Small steps instead of whole models: when a device takes them, and what it does when they are no good."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from msgspec.structs import replace

from device_agent import commands as do
from device_agent import events as ev
from device_agent.downstream import useful_delta
from device_agent.settings import SleepSettings
from protocol.chunks import blob_of, split
from protocol.messages import BlobRef, DeltaRef, Manifest
from tests.device_agent.harness import TOPICS, Driver, manifest, model_bytes, settings

STEP = bytes(range(100))
"""What takes version 3 to version 4; the core does not look inside."""


def delta(base: int = 3, data: bytes = STEP, chunk_bytes: int = 25) -> DeltaRef:
    return DeltaRef(base_version=base, blob=blob_of(data, "int8", chunk_bytes))


def offer(version: int = 4, *deltas: DeltaRef, **fields: Any) -> Manifest:
    part = {"sampling_fraction": fields.pop("sampling_fraction")} if "sampling_fraction" in fields else {}
    return replace(manifest(version, **part), deltas=list(deltas or (delta(version - 1),)), **fields)


def blob_topics(blob: BlobRef, *indices: int) -> list[str]:
    return [TOPICS.blob(blob.digest, index) for index in indices]


def pieces(driver: Driver, what: DeltaRef, *only: int, data: bytes = STEP) -> list[do.Command]:
    """Deliver these chunks of the step, or all."""
    start = len(driver.commands)
    for index, piece in enumerate(split(data, what.blob.chunk_bytes)):
        if not only or index in only:
            driver.receive(TOPICS.blob(what.blob.digest, index), piece, retain=True)
    return driver.commands[start:]


def trained(*, version: int = 3, driver: Driver | None = None) -> Driver:
    """A device that holds a version and has trained it."""
    driver = driver or Driver()
    driver.start()
    driver.hold(version)
    driver.finish_training()
    driver.answer(1)
    return driver


def refusals(driver: Driver) -> dict[str, int]:
    driver.wait(40.0)
    return driver.last(do.PublishMetrics).metrics.refusals


def test_a_device_that_holds_the_base_fetches_the_step_alone() -> None:
    driver = trained()
    what = offer()
    assert driver.subscribed(driver.announce(what)) == blob_topics(what.deltas[0].blob, 0, 1, 2, 3)
    assert driver.all(do.Train, driver.commands)[-1].manifest.version == 3
    commands = pieces(driver, what.deltas[0])
    assert driver.all(do.PatchModel, commands) == [do.PatchModel(manifest=what, delta=what.deltas[0], data=STEP)]
    assert driver.all(do.CacheModel, commands) == []
    assert driver.disk.model == what
    assert driver.last(do.Train).manifest == what
    driver.wait(40.0)
    metrics = driver.last(do.PublishMetrics).metrics
    assert (metrics.models_received, metrics.models_from_delta, metrics.refusals) == (2, 1, {})


def test_the_count_of_steps_is_on_the_disk_with_the_update_that_follows_or_the_end() -> None:
    """A transaction of its own would be a page of the card for each version. Metrics have the count meanwhile."""
    for trains in (True, False):
        driver = trained()
        what = offer()
        driver.announce(what)
        pieces(driver, what.deltas[0])
        assert driver.disk.durable.counters.models_from_delta == 0

        if trains:
            driver.finish_training()
        else:
            driver.give(ev.StopRequested(reason="asked"))
            driver.wait(1.0)
        assert driver.disk.durable.counters.models_from_delta == 1


def test_no_subscription_stays_open_after_the_step() -> None:
    driver = trained()
    what = offer()
    driver.announce(what)
    pieces(driver, what.deltas[0])
    opened = [topic for topic in driver.subscribed() if "/blob/" in topic]
    closed = [topic for command in driver.all(do.Unsubscribe) for topic in command.topics]
    assert sorted(opened) == sorted(closed)


def test_a_device_that_has_not_trained_does_without_numpy_and_fetches_the_whole() -> None:
    driver = Driver()
    driver.start()
    driver.hold(3, sampling_fraction=1e-9)
    assert driver.subscribed(driver.announce(offer())) == blob_topics(manifest(4).blob, 0)


def test_after_a_restart_the_whole_is_fetched_until_a_task_has_ended() -> None:
    driver = trained().restarted()
    driver.start()
    driver.announce(offer())
    driver.chunks(manifest(4), model_bytes(4))
    assert driver.last(do.CacheModel).manifest == offer()
    driver.finish_training()
    driver.answer(2)
    assert driver.subscribed(driver.announce(offer(5))) == blob_topics(delta(4).blob, 0, 1, 2, 3)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (offer(5, delta(4)), "two versions behind"),
        (offer(4, delta(3, data=bytes(400))), "no smaller than the whole"),
        (offer(4, blob=blob_of(model_bytes(4), "f16")), "the sum would not be the blob"),
        (offer(4, DeltaRef(base_version=3, blob=replace(delta().blob, total_bytes=399, chunk_bytes=1))), ""),
    ],
)
def test_when_a_step_is_of_use(what: Manifest, why: str) -> None:
    assert (useful_delta(what, manifest(3)) is None) == bool(why)


def test_a_step_of_another_epoch_or_for_nothing_held_is_of_no_use() -> None:
    assert useful_delta(offer(), None) is None
    assert useful_delta(offer(), manifest(3, epoch="f" * 16)) is None


def test_a_step_in_too_many_crumbs_is_of_no_use() -> None:
    big = BlobRef(digest="a" * 64, total_bytes=400_000, chunk_bytes=65536, encoding="f32")
    crumbs = BlobRef(digest="b" * 64, total_bytes=100_000, chunk_bytes=1, encoding="int8")
    assert useful_delta(offer(4, DeltaRef(base_version=3, blob=crumbs), blob=big), manifest(3)) is None


def test_of_several_steps_the_smallest_from_what_is_held_is_taken() -> None:
    small, large, other = delta(3, STEP[:50]), delta(3), delta(2, STEP[:10])
    assert useful_delta(offer(4, large, small, other), manifest(3)) == small


def test_the_step_is_fetched_on_where_it_stopped() -> None:
    driver = trained()
    what = offer()
    driver.announce(what)
    pieces(driver, what.deltas[0], 0, 1)
    driver.cut()
    driver.connect()
    assert driver.subscribed(driver.announce(what)) == blob_topics(what.deltas[0].blob, 2, 3)
    pieces(driver, what.deltas[0], 2, 3)
    assert driver.last(do.PatchModel).data == STEP


def test_a_stall_that_ends_with_the_connection_does_not_speak_against_the_step() -> None:
    driver = trained()
    what = offer()
    driver.announce(what)
    assert driver.subscribed(driver.wait(20.1)) == [TOPICS.current_model]
    driver.cut()  # so it was the line, not the chunks
    driver.connect()
    assert driver.subscribed(driver.announce(what)) == blob_topics(what.deltas[0].blob, 0, 1, 2, 3)


def assert_whole_instead(driver: Driver, what: Manifest, commands: list[do.Command], reason: str) -> None:
    """The whole is subscribed to, the step is not tried again, and both are told."""
    assert [topic for topic in driver.subscribed(commands) if "/blob/" in topic] == blob_topics(what.blob, 0)
    warning = next(log for log in driver.all(do.Log, commands) if log.level == "warning")
    assert "whole model" in warning.message
    assert reason in str(warning.fields["reason"])
    opened = {topic for topic in driver.subscribed() if "/blob/" in topic}
    closed = {topic for command in driver.all(do.Unsubscribe) for topic in command.topics}
    assert opened - closed == set(blob_topics(what.blob, 0))
    driver.cut()
    driver.connect()
    again = driver.announce(what)
    assert driver.subscribed(again) == blob_topics(what.blob, 0)
    driver.chunks(what, model_bytes(what.version))
    assert driver.disk.model == what
    driver.finish_training()
    driver.answer(2)
    found = refusals(driver)
    assert found["unusable delta"] == 1
    metrics = driver.last(do.PublishMetrics).metrics
    assert (metrics.models_received, metrics.models_from_delta) == (2, 0)
    # The next version's is another matter.
    following = offer(what.version + 1)
    assert driver.subscribed(driver.announce(following)) == blob_topics(following.deltas[0].blob, 0, 1, 2, 3)


def test_a_step_whose_chunks_are_missing() -> None:
    driver = trained()
    what = offer()
    driver.announce(what)
    pieces(driver, what.deltas[0], 0)
    assert driver.subscribed(driver.wait(20.1)) == [TOPICS.current_model]
    assert_whole_instead(driver, what, driver.announce(what), "do not come")


def test_the_newest_plan_is_kept_when_the_whole_is_fetched_instead() -> None:
    driver = trained()
    driver.announce(offer())
    driver.wait(20.1)
    newest = offer(sampling_fraction=0.999)
    driver.announce(newest)
    driver.chunks(newest, model_bytes(4))
    assert driver.disk.model == newest


def test_a_step_whose_chunks_were_cleared() -> None:
    driver = trained()
    what = offer()
    driver.announce(what)
    cleared = driver.receive(TOPICS.blob(what.deltas[0].blob.digest, 1), b"", retain=True)
    assert driver.subscribed(cleared) == [TOPICS.current_model]
    assert_whole_instead(driver, what, driver.announce(what), "do not come")


def test_a_step_with_another_digest() -> None:
    driver = trained()
    what = offer()
    driver.announce(what)
    assert_whole_instead(driver, what, pieces(driver, what.deltas[0], data=STEP[::-1]), "digest")


def test_a_step_with_a_chunk_of_another_length() -> None:
    driver = trained()
    what = offer()
    driver.announce(what)
    wrong = driver.receive(TOPICS.blob(what.deltas[0].blob.digest, 0), b"short", retain=True)
    assert_whole_instead(driver, what, wrong, "5 bytes where 25")


def test_a_step_that_does_not_lead_to_the_model() -> None:
    driver = trained()
    driver.disk.patch_error = "the sum is not the parameters"
    what = offer()
    driver.announce(what)
    assert_whole_instead(driver, what, pieces(driver, what.deltas[0]), "the sum is not")


def test_a_full_disk_does_not_speak_against_the_step() -> None:
    driver = trained()
    driver.disk.cache_error = "No space left on device"
    what = offer()
    driver.announce(what)
    pieces(driver, what.deltas[0])
    driver.wait(1.0)
    assert "No space left" in driver.states()[-1].reason
    driver.disk.cache_error = ""
    assert TOPICS.current_model in driver.subscribed(driver.wait(60.0))
    assert driver.subscribed(driver.announce(what)) == blob_topics(what.deltas[0].blob, 0, 1, 2, 3)
    pieces(driver, what.deltas[0])
    assert driver.disk.model == what
    assert "unusable delta" not in refusals(driver)


def test_a_newer_manifest_takes_the_step_s_place() -> None:
    driver = trained()
    driver.announce(offer())
    assert driver.subscribed(driver.announce(offer(5))) == blob_topics(manifest(5).blob, 0)
    pieces(driver, delta())
    assert driver.all(do.PatchModel) == []


def test_a_command_to_forget_in_mid_fetch() -> None:
    driver = trained()
    what = offer()
    driver.announce(what)
    pieces(driver, what.deltas[0], 0)
    assert driver.subscribed(driver.command("forget")) == [TOPICS.current_model]
    assert driver.disk.model is None
    assert driver.subscribed(driver.announce(what)) == blob_topics(what.blob, 0)


def test_a_sleeper_keeps_what_it_needs_for_steps() -> None:
    driver = trained(driver=Driver(settings(sleep=SleepSettings(awake_s=5.0, asleep_s=60.0))))
    driver.wait(30.0)
    assert driver.states()[-1].state == "sleeping"
    driver.wait(50.0)
    driver.connect()
    assert driver.subscribed(driver.announce(offer())) == blob_topics(delta().blob, 0, 1, 2, 3)


def test_a_task_that_failed_counts_too_and_an_answer_of_none_does_not() -> None:
    driver = Driver()
    driver.start()
    driver.hold(3)
    driver.give(ev.TaskFailed(task=driver.last(do.Train).task, reason="no samples", fault="data"))
    assert driver.subscribed(driver.announce(offer())) == blob_topics(delta().blob, 0, 1, 2, 3)


def test_the_service_itself_does_not_import_numpy() -> None:
    code = "import sys, device_agent.service; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
