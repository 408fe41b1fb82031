from __future__ import annotations

import hashlib
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.chunks import Assembly, blob_of, digest_of, split
from protocol.errors import ProtocolError
from protocol.fields import MAX_CHUNKS
from protocol.messages import MAX_CHUNK_BYTES, BlobRef

DATA = bytes(range(250)) * 4


def made(data: bytes, chunk_bytes: int) -> tuple[Assembly, list[bytes]]:
    return Assembly(blob_of(data, "f32", chunk_bytes)), split(data, chunk_bytes)


@given(st.binary(min_size=1, max_size=400), st.integers(1, 64), st.data())
def test_chunks_in_any_order_with_repeats_make_the_whole(data: bytes, chunk_bytes: int, draw: st.DataObject) -> None:
    assembly, chunks = made(data, chunk_bytes)
    assert len(chunks) == assembly.blob.chunk_count
    repeats = draw.draw(st.lists(st.sampled_from(range(len(chunks))), max_size=10))
    order = draw.draw(st.permutations([*range(len(chunks)), *repeats]))
    seen: set[int] = set()

    for index in order:
        assert assembly.complete is (len(seen) == len(chunks))
        assert assembly.add(index, chunks[index]) is (index not in seen)
        seen.add(index)
        wanted = [i for i in range(len(chunks)) if i not in seen]
        assert assembly.missing == wanted
        assert assembly.first_missing(2) == wanted[:2]

    assert assembly.complete
    assert assembly.result() == data


@given(st.binary(min_size=1, max_size=400), st.integers(1, 64))
def test_split_joins_again_and_only_the_last_is_short(data: bytes, chunk_bytes: int) -> None:
    chunks = split(data, chunk_bytes)
    assert b"".join(chunks) == data
    assert all(len(chunk) == chunk_bytes for chunk in chunks[:-1])
    assert 1 <= len(chunks[-1]) <= chunk_bytes


@given(st.integers(-3, 15), st.binary(max_size=120))
def test_a_chunk_that_cannot_belong_is_refused_and_changes_nothing(index: int, data: bytes) -> None:
    assembly, chunks = made(DATA, 96)
    fits = 0 <= index < len(chunks) and len(data) == len(chunks[index])
    if fits:
        assert assembly.add(index, data)
        return
    with pytest.raises(ProtocolError, match=f"chunk {index} "):
        assembly.add(index, data)
    assert assembly.missing == list(range(len(chunks)))


def test_a_repeat_does_not_overwrite() -> None:
    assembly, chunks = made(DATA, 96)
    for index, chunk in enumerate(chunks):
        assembly.add(index, chunk)
    assert not assembly.add(0, bytes(96))
    assert assembly.result() == DATA


@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_wrong_bit_is_found(place: int) -> None:
    assembly, _ = made(DATA, 96)
    wrong = bytearray(DATA)
    wrong[place] ^= 1
    for index, chunk in enumerate(split(bytes(wrong), 96)):
        assembly.add(index, chunk)
    with pytest.raises(ProtocolError, match="digest"):
        assembly.result()


def test_an_unfinished_blob_has_no_result() -> None:
    assembly, chunks = made(DATA, 96)
    with pytest.raises(ValueError, match="11 chunks are missing"):
        assembly.result()
    assembly.add(3, chunks[3])
    with pytest.raises(ValueError, match="10 chunks are missing"):
        assembly.result()


def test_memory_is_bounded_by_what_was_announced() -> None:
    announced = 2**20
    tracemalloc.start()
    try:
        assemblies = [Assembly(BlobRef(digest="0" * 64, total_bytes=announced, chunk_bytes=4096, encoding="f32"))]
        before_first, _ = tracemalloc.get_traced_memory()
        for _ in range(50):
            for index in range(256):
                assemblies[0].add(index, bytes(4096))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert before_first < 20_000, "an announcement alone costs next to nothing"
    assert peak < announced + 100_000


def test_bookkeeping_of_tiny_chunks_is_bounded_too() -> None:
    tracemalloc.start()
    try:
        Assembly(BlobRef(digest="0" * 64, total_bytes=MAX_CHUNKS, chunk_bytes=1, encoding="f32")).first_missing(10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * MAX_CHUNKS


def test_more_chunks_than_anybody_needs_are_refused() -> None:
    with pytest.raises(ValueError, match="chunks where at most"):
        BlobRef(digest="0" * 64, total_bytes=MAX_CHUNKS + 1, chunk_bytes=1, encoding="f32")
    with pytest.raises(msgspec.ValidationError, match="chunks where at most"):
        msgspec.convert(
            {"digest": "0" * 64, "total_bytes": 200 * 2**20, "chunk_bytes": 1, "encoding": "f32"}, BlobRef, strict=True
        )


def test_a_blob_is_named_by_its_sha256() -> None:
    blob = blob_of(DATA, "int8")
    assert blob.digest == digest_of(DATA) == hashlib.sha256(DATA).hexdigest()
    assert (blob.total_bytes, blob.chunk_bytes, blob.encoding, blob.chunk_count) == (1000, MAX_CHUNK_BYTES, "int8", 1)
    with pytest.raises(ValueError, match="empty"):
        blob_of(b"", "f32")
