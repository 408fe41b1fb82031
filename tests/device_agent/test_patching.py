"""Adding a step to the cached model, with real files and real codecs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from device_agent import commands as do
from device_agent import events as ev
from device_agent.adapters.model_cache import ModelCache, read_model
from device_agent.adapters.patching import PatchError, patch, patched
from models import build
from protocol import tensors
from protocol.chunks import blob_of, digest_of
from protocol.messages import DeltaRef, Manifest, Participation

SPEC = {"kind": "softmax", "inputs": 300, "outputs": 3}
SIZE = build(SPEC).layout.size
"""903: three blocks of int8 scales and a short one."""


def vector(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)


def announcement(version: int, values: NDArray[np.float32], encoding: str = "f32") -> tuple[Manifest, bytes]:
    data = tensors.encode(encoding, values, np.random.default_rng(0))
    manifest = Manifest(
        federation="f",
        epoch="e" * 16,
        version=version,
        model=SPEC,
        layout=build(SPEC).layout.digest,
        parameters=digest_of(tensors.decode(encoding, data, SIZE).tobytes()),
        blob=blob_of(data, encoding),
        training={},
        participation=Participation(),
    )
    return manifest, data


def step_from(base: NDArray[np.float32], codec: str = "int8") -> tuple[do.PatchModel, bytes]:
    """The task that leads from the base, version 4, to version 5, and version 5's blob."""
    data = tensors.encode(codec, vector(2) * np.float32(0.01), np.random.default_rng(0))
    manifest, blob = announcement(5, base + tensors.decode(codec, data, SIZE))
    delta = DeltaRef(base_version=4, blob=blob_of(data, codec))
    return do.PatchModel(manifest=replace(manifest, deltas=[delta]), delta=delta, data=data), blob


@pytest.mark.parametrize("codec", ["int8", "f16", "f32"])
@pytest.mark.parametrize("encoding", ["f32", "f16"])
def test_the_sum_is_the_whole_blob_bit_for_bit(codec: str, encoding: str) -> None:
    manifest, data = announcement(4, vector(1), encoding)
    task, blob = step_from(tensors.decode(encoding, data, SIZE), codec)
    assert bytes(patched(task, manifest, data)) == blob


def test_what_goes_wrong_is_named() -> None:
    manifest, data = announcement(4, vector(1))
    task, _blob = step_from(vector(1))

    def refused(task: do.PatchModel, cached: Manifest = manifest) -> str:
        with pytest.raises(PatchError) as caught:
            patched(task, cached, data)
        return str(caught.value)

    def stepped(codec: str, step: bytes) -> do.PatchModel:
        delta = DeltaRef(base_version=4, blob=blob_of(step, codec))
        return do.PatchModel(manifest=task.manifest, delta=delta, data=step)

    assert "version 3, not 4" in refused(task, replace(manifest, version=3))
    assert "not 4" in refused(task, replace(manifest, epoch="f" * 16))
    assert "layout" in refused(task, replace(manifest, layout="0" * 64))
    assert "unknown codec" in refused(stepped("int3", task.data))
    assert "bytes where" in refused(stepped("int8", task.data[:-1]))
    assert "scale" in refused(stepped("int8", b"\xff" * len(task.data)))
    assert "the sum" in refused(stepped("int8", task.data[:-1] + b"\x00"))
    huge = np.full(SIZE, 3e38, dtype=np.float32)
    assert "the sum" in refused(stepped("f32", huge.tobytes()))
    short = replace(task.manifest, blob=replace(task.manifest.blob, total_bytes=6))
    assert "bytes where" in refused(do.PatchModel(manifest=short, delta=task.delta, data=task.data))


class Disk:
    """A cache that holds version 4, and the step to version 5."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "cache" / "model"
        self.cache = ModelCache(folder)
        self.base, self.data = announcement(4, vector(1))
        self.task, self.blob = step_from(vector(1))
        self.cache.replace(self.base, self.data)

    def cached(self) -> tuple[Manifest, bytes]:
        with self.cache.open() as file:
            return read_model(file)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_the_cache_holds_the_next_version_as_if_it_had_come_whole(disk: Disk) -> None:
    assert patch(disk.cache, disk.task) == ev.ModelCached(epoch="e" * 16, version=5)
    assert disk.cached() == (disk.task.manifest, disk.blob)
    assert disk.cache.find() == disk.task.manifest


def test_a_step_that_leads_elsewhere_leaves_the_cache_as_it_was(disk: Disk) -> None:
    wrong = replace(disk.task, data=disk.task.data[:-1] + b"\x00")
    assert isinstance(patch(disk.cache, wrong), ev.PatchFailed)
    assert disk.cached() == (disk.base, disk.data)


def test_a_base_that_is_damaged_or_gone_is_told(disk: Disk) -> None:
    disk.model.write_bytes(disk.model.read_bytes()[:-1] + b"\x00")
    assert patch(disk.cache, disk.task) == ev.PatchFailed(reason="the cached model is damaged")
    disk.cache.drop()
    answer = patch(disk.cache, disk.task)
    assert isinstance(answer, ev.PatchFailed)
    assert "no model" in answer.reason


def test_a_full_disk_is_another_failure_than_a_bad_step(disk: Disk) -> None:
    disk.model.with_name("model.part").symlink_to("/dev/full")
    assert patch(disk.cache, disk.task) == ev.CacheFailed(reason=os.strerror(errno.ENOSPC))
    assert disk.cached() == (disk.base, disk.data)
