from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from device_agent.adapters.model_cache import CacheError, ModelCache, read_model
from protocol.thresholds import Threshold
from tests.device_agent.harness import manifest, model_bytes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path)


def test_an_empty_cache_has_no_model(cache: ModelCache) -> None:
    assert cache.find() is None
    with pytest.raises(CacheError, match="no model"):
        cache.open()


def test_what_was_put_in_is_found(cache: ModelCache) -> None:
    cache.replace(manifest(1), model_bytes(1))
    assert cache.find() == manifest(1)
    with cache.open() as file:
        assert read_model(file) == (manifest(1), model_bytes(1))


def test_a_later_announcement_of_the_same_model_is_kept_beside_it(cache: ModelCache) -> None:
    cache.replace(manifest(1), model_bytes(1))
    later = replace(manifest(1), anomaly=Threshold(error=0.5, quantile=0.99, version=1))

    cache.announce(later)
    cache.announce(manifest(2))

    with cache.open() as file:
        assert read_model(file) == (later, model_bytes(1))
    cache.drop()
    with pytest.raises(CacheError, match="no model"):
        cache.announce(later)


def test_a_reader_keeps_the_model_it_opened(cache: ModelCache) -> None:
    cache.replace(manifest(1), model_bytes(1))
    with cache.open() as file:
        cache.replace(manifest(2), model_bytes(2))
        cache.drop()
        assert read_model(file)[0].version == 1


@pytest.mark.parametrize("position", [0, 10, 45, 100, -1])
def test_one_flipped_bit_is_noticed(cache: ModelCache, tmp_path: Path, position: int) -> None:
    cache.replace(manifest(1), model_bytes(1))
    path = tmp_path / "cache" / "model"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert cache.find() is None
    assert not path.exists()


@pytest.mark.parametrize("length", [0, 5, 44, 60, 700])
def test_a_file_cut_short_is_noticed(cache: ModelCache, tmp_path: Path, length: int) -> None:
    cache.replace(manifest(1), model_bytes(1))
    path = tmp_path / "cache" / "model"
    path.write_bytes(path.read_bytes()[:length])
    assert cache.find() is None


def test_a_write_that_was_interrupted_leaves_the_last_good_one(cache: ModelCache, tmp_path: Path) -> None:
    cache.replace(manifest(1), model_bytes(1))
    part = tmp_path / "cache" / "model.part"
    part.write_bytes(b"half of")
    assert cache.find() == manifest(1)
    assert not part.exists()
