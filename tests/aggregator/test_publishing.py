from __future__ import annotations

import random
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.commands import Command, Log, Publish
from aggregator.configuration import DownlinkTable, ScheduleTable
from aggregator.downlink import vector_of
from aggregator.events import RollbackRequested, Tick
from aggregator.publishing import RETRY_S, WINDOW, Announcer, restock
from aggregator.records import Shelf
from protocol import tensors
from protocol.chunks import Assembly, digest_of
from protocol.link import LinkDown, LinkUp, Published
from protocol.messages import Manifest
from protocol.packing import decode_manifest
from protocol.topics import Topics
from tests.aggregator.harness import SIZE, Bench, only, settings_with

TOPICS = Topics("bench")
OLD = Shelf(version=0, digest="a" * 64, chunk_count=2)


def chunks_of(count: int, digest: str = "b" * 64) -> list[tuple[str, bytes]]:
    return [(TOPICS.blob(digest, i), bytes([i % 256]) * 4) for i in range(count)]


def sent(commands: list[Command]) -> list[Publish]:
    return only(commands, Publish)


def begun(count: int, cleanup: tuple[Shelf, ...] = ()) -> tuple[Announcer, deque[Publish]]:
    announcer = Announcer(TOPICS)
    return announcer, deque(sent(announcer.begin(chunks_of(count), b"manifest", cleanup)))


@given(count=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_the_manifest_comes_after_every_chunk_and_the_window_holds(count: int, seed: int) -> None:
    announcer, under_way = begun(count, (OLD,))
    chance, done = random.Random(seed), []
    while under_way:
        assert len(under_way) <= WINDOW
        chance.shuffle(under_way)
        publish = under_way.popleft()
        assert publish.retain
        assert publish.qos == 1
        done.append(publish.topic)
        under_way += sent(announcer.published(publish.token, "", 0.0))

    manifest = done.index(TOPICS.current_model)
    assert sorted(done[:manifest]) == sorted(topic for topic, _ in chunks_of(count))
    assert sorted(done[manifest + 1 :]) == [TOPICS.blob("a" * 64, i) for i in range(2)]
    assert announcer.announced
    assert announcer.take_cleared() == (OLD,)
    assert announcer.take_cleared() == ()


def test_a_failed_chunk_starts_everything_over_after_a_while() -> None:
    announcer, under_way = begun(3)

    told = announcer.published(under_way[0].token, "quota exceeded", 10.0)

    (log,) = only(told, Log)
    assert "quota exceeded" in str(log.fields["reason"])
    assert announcer.deadline == 10.0 + RETRY_S
    assert not announcer.published(under_way[1].token, "", 10.0), "late answers to the attempt that failed"
    assert not announcer.announced


def test_a_failed_manifest_starts_everything_over() -> None:
    announcer, under_way = begun(1)
    (manifest,) = sent(announcer.published(under_way[0].token, "", 0.0))

    announcer.published(manifest.token, "not authorized", 20.0)

    assert announcer.deadline == 20.0 + RETRY_S
    assert not announcer.announced


def test_a_failed_clearing_waits_for_the_next_version() -> None:
    announcer, under_way = begun(1, (OLD,))
    (manifest,) = sent(announcer.published(under_way[0].token, "", 0.0))
    clears = sent(announcer.published(manifest.token, "", 0.0))

    announcer.published(clears[0].token, "connection lost", 0.0)

    assert announcer.take_cleared() == ()
    assert announcer.announced
    assert announcer.deadline is None


def test_a_new_version_takes_the_place_of_one_under_way() -> None:
    announcer, old = begun(WINDOW + 5)

    new = sent(announcer.begin(chunks_of(1, "c" * 64), b"newer", ()))

    for publish in old:
        assert not announcer.published(publish.token, "", 0.0)
    (manifest,) = sent(announcer.published(new[0].token, "", 0.0))
    assert (manifest.topic, manifest.payload) == (TOPICS.current_model, b"newer")


def test_a_lost_link_forgets_and_answers_to_it_change_nothing() -> None:
    announcer, under_way = begun(3)
    announcer.published(under_way[0].token, "connection lost", 0.0)

    announcer.link_lost()

    assert announcer.deadline is None
    assert not announcer.published(under_way[1].token, "", 0.0)
    assert not announcer.published("", "", 0.0)


def test_an_empty_payload_is_never_published_as_a_chunk() -> None:
    _, under_way = begun(5)

    assert all(publish.payload for publish in under_way)


# -- the shelf ------------------------------------------------------------------------------------------------------


def shelf(version: int, digest: str) -> Shelf:
    return Shelf(version=version, digest=digest * 64, chunk_count=1)


def test_the_newest_versions_stay() -> None:
    on_shelf = tuple(shelf(i, "abc"[i]) for i in range(3))

    kept, expired = restock(on_shelf, [shelf(3, "d")], 3)

    assert expired == (shelf(0, "a"),)
    assert set(kept) == {*on_shelf, shelf(3, "d")}, "it stays on the shelf until it is known to be gone"
    assert restock(kept, [shelf(4, "e")], 3)[1] == (shelf(0, "a"), shelf(1, "b"))


def test_a_blob_that_a_kept_version_shares_is_not_cleared() -> None:
    on_shelf = (shelf(0, "a"), shelf(1, "b"), shelf(2, "c"))

    kept, expired = restock(on_shelf, [shelf(3, "a")], 2)

    assert expired == (shelf(1, "b"),)
    assert shelf(0, "a") not in kept
    assert shelf(3, "a") in kept


def test_fewer_kept_versions_after_a_restart_lose_nobody() -> None:
    on_shelf = tuple(shelf(i, "abcdef"[i]) for i in range(6))

    kept, expired = restock(on_shelf, [], 1)

    assert expired == on_shelf[:5]
    assert set(kept) == set(on_shelf)


@given(steps=st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=40), keep=st.integers(1, 4))
def test_nothing_leaks_and_nothing_needed_is_cleared(steps: list[tuple[str, bool]], keep: int) -> None:
    on_shelf: tuple[Shelf, ...] = ()
    broker: set[str] = set()
    digests: list[str] = []
    for version, (digest, announced) in enumerate(steps):
        broker.add(digest * 64)
        digests.append(digest * 64)
        on_shelf, expired = restock(on_shelf, [shelf(version, digest)], keep)
        if announced:
            broker -= {entry.digest for entry in expired}
            on_shelf = tuple(entry for entry in on_shelf if entry not in expired)
            assert broker == set(digests[-keep:])
        assert set(digests[-keep:]) <= broker <= {entry.digest for entry in on_shelf}


# -- through the core -------------------------------------------------------------------------------------------------

ONE_EACH = ScheduleTable(goal=1)


def bench_of(*, keep: int = 3, delta_codec: str = "") -> Bench:
    table = DownlinkTable(chunk_bytes=256, keep_versions=keep, delta_codec=delta_codec)  # type: ignore[arg-type]
    return Bench(
        settings_with(schedule=ONE_EACH, downlink=table, model={"kind": "softmax", "inputs": 60, "outputs": 3})
    )


def blobs(bench: Bench) -> set[str]:
    prefix = bench.topics.root + "/blob/"
    return {topic[len(prefix) :].split("/")[0] for topic in bench.broker if topic.startswith(prefix)}


def manifest_on(bench: Bench) -> Manifest:
    return decode_manifest(bench.broker[bench.topics.current_model])


def fetched(bench: Bench, manifest: Manifest) -> bytes:
    assembly = Assembly(manifest.blob)
    for index in assembly.missing:
        assembly.add(index, bench.broker[bench.topics.blob(manifest.blob.digest, index)])
    return assembly.result()


def contribute(bench: Bench, value: float = 1.0) -> list[Command]:
    size = bench.model.layout.size
    delta = np.full(size, value * (bench.sequence + 1), "<f4").tobytes()
    return bench.send(bench.update(delta=delta))


def test_the_broker_always_holds_the_whole_of_the_newest_versions_and_no_more() -> None:
    bench = bench_of(keep=3)
    versions = [manifest_on(bench).blob.digest]
    for number in range(1, 12):
        contribute(bench)
        manifest = manifest_on(bench)
        assert manifest.version == number
        assert digest_of(fetched(bench, manifest)) == manifest.blob.digest
        versions.append(manifest.blob.digest)
        assert blobs(bench) == set(versions[-3:])
    assert len(bench.core.ledger.shelf) == 3
    assert len(bench.restored.shelf) <= 4


def test_versions_that_follow_faster_than_they_are_announced_leave_nothing_behind() -> None:
    bench = bench_of(keep=2)
    size = bench.model.layout.size
    for i in range(6):
        bench.handle(bench.message(bench.raw(delta=np.full(size, i + 1.0, "<f4").tobytes())))

    contribute(bench)

    current = manifest_on(bench)
    assert current.version == 7
    assert current.blob.digest in blobs(bench)
    assert len(blobs(bench)) == 2


def test_a_crash_before_the_clearing_leaves_nothing_behind() -> None:
    bench = bench_of(keep=1)
    size = bench.model.layout.size
    bench.handle(bench.message(bench.raw(delta=np.ones(size, "<f4").tobytes())))
    assert len(blobs(bench)) == 2

    again = bench.restart()

    assert blobs(again) == {manifest_on(again).blob.digest}


def test_a_rollback_brings_its_blob_back() -> None:
    bench = bench_of(keep=2)
    first = manifest_on(bench)
    parameters = bench.core.ledger.version.parameters
    for _ in range(4):
        contribute(bench)
    assert first.blob.digest not in blobs(bench)

    bench.feed(RollbackRequested(request_id="r", target=0, parameters=parameters))

    rolled_back = manifest_on(bench)
    assert (rolled_back.version, rolled_back.blob) == (5, first.blob)
    assert fetched(bench, rolled_back) == parameters
    for _ in range(2):
        contribute(bench)
    assert first.blob.digest not in blobs(bench)


def test_a_rollback_to_a_blob_that_is_still_there_keeps_it() -> None:
    bench = bench_of(keep=2)
    contribute(bench)
    parameters, target = bench.core.ledger.version.parameters, manifest_on(bench)
    contribute(bench)

    bench.feed(RollbackRequested(request_id="r", target=1, parameters=parameters))

    assert fetched(bench, manifest_on(bench)) == parameters
    assert target.blob.digest in blobs(bench)


def test_deltas_are_cleared_with_their_version() -> None:
    bench = bench_of(keep=2, delta_codec="int8")
    for _ in range(6):
        contribute(bench)

    manifest = manifest_on(bench)
    assert len(manifest.deltas) == 1
    assert {manifest.blob.digest, manifest.deltas[0].blob.digest} <= blobs(bench)
    assert len(blobs(bench)) == 4


def test_a_reconnect_announces_all_of_it_again() -> None:
    bench = bench_of()
    contribute(bench)
    bench.feed(LinkDown(reason="broker died"))
    bench.broker.clear()

    bench.feed(LinkUp(session_present=False, protocol="3.1.1"))

    assert fetched(bench, manifest_on(bench)) == bench.core.ledger.version.parameters


def test_versions_made_offline_are_announced_on_return() -> None:
    bench = bench_of()
    bench.feed(LinkDown(reason="cut"))
    received = bench.message(bench.raw(delta=np.ones(183, "<f4").tobytes()))

    commands = bench.feed(received)

    assert bench.version == 1
    assert not [c for c in sent(commands) if c.topic == bench.topics.current_model]
    bench.feed(LinkUp(session_present=True, protocol="3.1.1"))
    assert manifest_on(bench).version == 1


def test_a_broker_that_refuses_a_chunk_is_tried_again() -> None:
    bench = bench_of()
    bench.broker.clear()
    commands = bench.handle(LinkUp(session_present=False, protocol="3.1.1"))
    token = next(c.token for c in sent(commands) if c.token)
    bench.handle(Published(token=token, error="quota exceeded"))
    assert bench.topics.current_model not in bench.broker
    assert bench.core.deadline() == bench.now + RETRY_S

    bench.now += RETRY_S
    bench.feed(Tick())

    assert manifest_on(bench).version == 0


@pytest.mark.parametrize("encoding", ["f32", "f16"])
def test_what_is_fetched_has_the_digest_that_is_announced(encoding: str) -> None:
    bench = Bench(settings_with(schedule=ONE_EACH, downlink=DownlinkTable(encoding=encoding)))  # type: ignore[arg-type]
    bench.send(bench.update())

    manifest = manifest_on(bench)
    vector = tensors.decode(manifest.blob.encoding, fetched(bench, manifest), SIZE)

    assert digest_of(vector.astype("<f4").tobytes()) == manifest.parameters
    assert vector_of(bench.core.ledger.version.parameters).tobytes() == vector.tobytes()
