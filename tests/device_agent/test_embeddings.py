"""Samples go through a network once, as long as there is room to remember."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_agent.adapters.embeddings import EmbeddingCache
from device_agent.adapters.leaving import TaskLeftError
from models.parameters import FloatArray

DIGEST = "0" * 64
LARGE = 2**20


class Network:
    def __init__(self) -> None:
        self.asked: list[int] = [0]

    def __call__(self, x: FloatArray) -> FloatArray:
        self.asked[-1] += len(x)
        return np.stack([x.sum(axis=1), x.max(axis=1)], axis=1)


@pytest.fixture
def x() -> FloatArray:
    return np.random.default_rng(0).standard_normal((20, 5), dtype=np.float32)


@pytest.fixture
def network() -> Network:
    return Network()


def embed(path: Path, x: FloatArray, network: Network, *, digest: str = DIGEST, most: int = LARGE) -> None:
    cache = EmbeddingCache(path, digest, 2, most)
    if network.asked[-1]:
        network.asked.append(0)
    assert np.array_equal(cache.embed(x, network), Network()(x))
    cache.close()


def test_only_new_samples_are_computed(tmp_path: Path, x: FloatArray, network: Network) -> None:
    path = tmp_path / "embeddings.sqlite"
    embed(path, x[:15], network)
    embed(path, x[::-1], network)
    embed(path, x, network)
    assert network.asked == [15, 5, 0]


def test_another_backbone_begins_anew(tmp_path: Path, x: FloatArray, network: Network) -> None:
    path = tmp_path / "embeddings.sqlite"
    embed(path, x, network)
    embed(path, x, network, digest="1" * 64)
    embed(path, x, network)
    assert network.asked == [20, 20, 20]


def test_the_oldest_that_nobody_wants_make_room(tmp_path: Path, x: FloatArray, network: Network) -> None:
    path = tmp_path / "embeddings.sqlite"
    embed(path, x[:10], network, most=10 * 68)
    embed(path, x[10:], network, most=10 * 68)
    embed(path, x[10:], network, most=10 * 68)
    assert network.asked == [10, 10, 0]


def test_more_than_there_is_room_for_does_not_push_itself_out(tmp_path: Path, x: FloatArray, network: Network) -> None:
    path = tmp_path / "embeddings.sqlite"
    for _ in range(3):
        embed(path, x, network, most=12 * 68)
    assert network.asked == [20, 8, 8]


def test_the_file_stays_within_its_bound(tmp_path: Path) -> None:
    path, most = tmp_path / "embeddings.sqlite", 200_000
    rng = np.random.default_rng(1)
    for _ in range(10):
        x = rng.standard_normal((300, 5), dtype=np.float32)
        cache = EmbeddingCache(path, DIGEST, 64, most)
        cache.embed(x, lambda row: np.full((1, 64), row.sum(), np.float32))
        cache.close()
    assert path.stat().st_size < 1.5 * most


def test_what_was_computed_before_a_stop_is_kept(tmp_path: Path, x: FloatArray, network: Network) -> None:
    path = tmp_path / "embeddings.sqlite"
    cache = EmbeddingCache(path, DIGEST, 2, LARGE)
    with pytest.raises(TaskLeftError):
        cache.embed(x, network, lambda: sum(network.asked) >= 7)
    cache.close()
    assert network.asked == [7]
    embed(path, x, network)
    assert network.asked == [7, 13]


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(4000)])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, x: FloatArray, network: Network, damage: bytes) -> None:
    path = tmp_path / "embeddings.sqlite"
    path.write_bytes(damage)
    embed(path, x, network)
    embed(path, x, network)
    assert network.asked == [20, 0]
    assert path.with_name("embeddings.sqlite.aside").read_bytes() == damage


def test_without_a_place_everything_is_computed(tmp_path: Path, x: FloatArray, network: Network) -> None:
    path = tmp_path / "no" / "such" / "folder"
    embed(path, x, network)
    embed(path, x, network)
    assert network.asked == [20, 20]
    embed(tmp_path / "here", x[:0], network)
    assert sum(network.asked) == 40
