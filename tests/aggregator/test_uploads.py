from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.admission import Refused
from aggregator.uploads import Uploads
from protocol.chunks import blob_of, split
from protocol.messages import UpdateChunk

DATA = bytes(range(250))


def cut(data: bytes = DATA, size: int = 10, **fields: Any) -> list[UpdateChunk]:
    common: dict[str, Any] = {
        "federation": "f",
        "device_id": "d",
        "incarnation": "a" * 16,
        "sequence": 1,
        "blob": blob_of(data, "update", size),
    } | fields
    return [UpdateChunk(**common, index=i, data=piece) for i, piece in enumerate(split(data, size))]


def uploads(max_update: int = 1000, max_total: int = 10_000, timeout_s: float = 60.0) -> Uploads:
    return Uploads(max_update, max_total, timeout_s)


def send(target: Uploads, chunks: list[UpdateChunk], device: str = "d", now: float = 0.0) -> bytes | None:
    results = [target.add(device, chunk, now) for chunk in chunks]
    assert results[:-1] == [None] * (len(results) - 1)
    return results[-1]


def refused(target: Uploads, chunk: UpdateChunk, device: str = "d") -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        target.add(device, chunk, 0.0)
    return caught.value.status, caught.value.code


@given(seed=st.integers(0, 2**32), size=st.integers(1, 300), repeats=st.integers(0, 20))
def test_any_order_and_any_repetition_gives_the_whole(seed: int, size: int, repeats: int) -> None:
    chunks = cut(size=size)
    chance = random.Random(seed)
    chance.shuffle(chunks)
    last = chunks.pop()
    mixed = chunks + ([chance.choice(chunks) for _ in range(repeats)] if chunks else [])
    chance.shuffle(mixed)
    target = uploads()

    assert send(target, [*mixed, last]) == DATA
    assert (len(target), target.total_bytes) == (0, 0)


def test_devices_interleave() -> None:
    target = uploads()
    streams = {name: cut(bytes([i]) * 95) for i, name in enumerate("xyz")}
    for step in zip(*streams.values(), strict=True):
        found = {name: target.add(name, chunk, 0.0) for name, chunk in zip(streams, step, strict=True)}

    assert found == {"x": bytes(95), "y": b"\x01" * 95, "z": b"\x02" * 95}


def test_what_is_missing_is_told_to_its_owner_alone() -> None:
    target = uploads()
    chunks = cut()
    for index in (0, 2, 5):
        target.add("d", chunks[index], 0.0)

    wanted = [i for i in range(25) if i not in (0, 2, 5)]
    assert target.missing("d", "a" * 16, 1) == wanted
    assert target.missing("d", "a" * 16, 2) == []
    assert target.missing("d", "b" * 16, 1) == []
    assert target.missing("other", "a" * 16, 1) == []
    assert send(target, [chunks[i] for i in wanted]) == DATA


def test_one_receipt_names_no_more_than_devices_take() -> None:
    target = uploads(max_update=10_000, max_total=100_000)
    data = bytes(5000)
    target.add("d", cut(data, 1)[0], 0.0)

    assert target.missing("d", "a" * 16, 1) == list(range(1, 1025))


def test_an_upload_that_was_given_up_expires_and_one_that_goes_on_does_not() -> None:
    target = uploads(timeout_s=60.0)
    chunks = cut()
    target.add("idle", chunks[0], 0.0)
    target.add("busy", chunks[0], 0.0)
    target.add("busy", chunks[1], 59.0)

    assert target.expire(59.9) == 0
    assert target.expire(60.0) == 1
    assert target.missing("idle", "a" * 16, 1) == []
    assert target.missing("busy", "a" * 16, 1)
    assert target.expire(119.0) == 1
    assert target.total_bytes == 0


def test_beyond_the_bound_on_memory_the_one_that_was_idle_longest_gives_way() -> None:
    target = uploads(max_total=3 * 275)
    for i, name in enumerate("abcd"):
        target.add(name, cut()[0], float(i))
        if name == "c":
            target.add("a", cut()[1], 2.5)

    assert [name for name in "abcd" if target.missing(name, "a" * 16, 1)] == ["a", "c", "d"]
    assert target.total_bytes <= 3 * 275


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 5), st.integers(1, 400)), max_size=60))
def test_memory_stays_in_bounds_whatever_comes(steps: list[tuple[str, int, int]]) -> None:
    target = uploads(max_update=300, max_total=1000)
    for now, (device, sequence, size) in enumerate(steps):
        chunk = cut(bytes(size), 7, sequence=sequence)[0]
        try:
            target.add(device, chunk, float(now))
        except Refused as refusal:
            assert refusal.code in ("oversized", "superseded", "bad-chunk")  # noqa: PT017 - several are right
        assert 0 <= target.total_bytes <= 1000
    assert target.expire(1e9) == 0 or target.total_bytes == 0
    assert target.total_bytes == 0


@pytest.mark.parametrize("max_total", [10_000, 500])
def test_an_update_larger_than_the_model_is_refused_before_memory_is_spent(max_total: int) -> None:
    target = uploads(max_update=1000, max_total=max_total)

    assert refused(target, cut(bytes(1001), 1000)[0]) == ("rejected", "oversized")
    assert target.total_bytes == 0


def test_a_newer_update_replaces_an_older_one_and_not_the_other_way() -> None:
    target = uploads()
    target.add("d", cut(sequence=2)[0], 0.0)
    target.add("d", cut(sequence=3)[0], 0.0)

    assert target.missing("d", "a" * 16, 2) == []
    assert refused(target, cut(sequence=2)[1]) == ("retry", "superseded")
    assert target.missing("d", "a" * 16, 3)


def test_a_new_outbox_begins_at_one_again() -> None:
    target = uploads()
    target.add("d", cut(sequence=9)[0], 0.0)

    assert send(target, cut(incarnation="b" * 16, sequence=1)) == DATA


def test_chunks_that_disagree_about_the_whole_are_refused_and_the_first_upload_goes_on() -> None:
    target = uploads()
    good, forged = cut(), cut(bytes(250))
    send(target, good[:24])

    assert refused(target, forged[24]) == ("rejected", "bad-chunk")
    assert send(target, good[24:]) == DATA


def test_the_same_bytes_cut_anew_begin_anew() -> None:
    """A device that restarts with another chunk size must not lose its update."""
    target = uploads()
    send(target, cut(size=10)[:5])

    assert send(target, cut(size=50)) == DATA
    assert target.total_bytes == 0


@pytest.mark.parametrize(
    ("index", "data"), [(25, b"x" * 10), (2**20 - 1, b"x" * 10), (0, b"x" * 9), (0, b""), (24, b"x" * 11)]
)
def test_a_chunk_that_cannot_belong_asks_for_all_of_it_anew(index: int, data: bytes) -> None:
    target = uploads()
    chunk = cut()[0]
    wrong = UpdateChunk(
        federation="f", device_id="d", incarnation="a" * 16, sequence=1, blob=chunk.blob, index=index, data=data
    )

    assert refused(target, wrong) == ("retry", "bad-chunk")
    assert (len(target), target.total_bytes) == (0, 0)
    assert send(target, cut()) == DATA


def test_a_damaged_chunk_is_found_at_the_end_and_all_is_sent_again() -> None:
    target = uploads()
    chunks = cut()
    damaged = cut(b"\xff" * 250)[3].data
    send(target, [*chunks[:3], *chunks[4:]])
    wrong = UpdateChunk(
        federation="f", device_id="d", incarnation="a" * 16, sequence=1, blob=chunks[0].blob, index=3, data=damaged
    )

    assert refused(target, wrong) == ("retry", "bad-chunk")
    assert target.missing("d", "a" * 16, 1) == []
    assert send(target, chunks) == DATA
