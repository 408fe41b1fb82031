"""From the cached model and a small step to the next model. Imports NumPy: never before the trainer has."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from device_agent.adapters.model_cache import CacheError, read_model
from device_agent.events import CacheFailed, ModelCached, PatchFailed
from protocol import tensors
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from device_agent.adapters.model_cache import ModelCache
    from device_agent.commands import PatchModel
    from protocol.messages import Manifest


class PatchError(Exception):
    """The step does not lead from what is cached to what the manifest names."""


def patch(cache: ModelCache, task: PatchModel) -> ModelCached | PatchFailed | CacheFailed:
    """Replace the cached model by its sum with the step, or leave it as it is; return what became of that."""
    try:
        with cache.open() as file:
            data = patched(task, *read_model(file))
    except (PatchError, CacheError, OSError) as exc:
        return PatchFailed(reason=str(exc))
    except MemoryError:
        return PatchFailed(reason="not enough memory to add the step")
    try:
        cache.replace(task.manifest, data)
    except CacheError as exc:
        return CacheFailed(reason=str(exc))
    return ModelCached(epoch=task.manifest.epoch, version=task.manifest.version)


def patched(task: PatchModel, cached: Manifest, data: bytes) -> memoryview:
    """Return the new model's float32 blob: ``parameters(base) + decode(delta)``, element by element.

    ``cached`` and ``data`` are the model on the disk. Raises ``PatchError`` unless it is the base and the sum has the
    digest that the manifest names. At its peak there are two vectors of float32 beside ``data`` and the step's bytes.
    """
    manifest, delta = task.manifest, task.delta
    if (cached.epoch, cached.version) != (manifest.epoch, delta.base_version):
        raise PatchError(f"the cached model is version {cached.version}, not {delta.base_version}")
    if cached.layout != manifest.layout:
        raise PatchError("the cached model has another layout")
    size = manifest.blob.total_bytes // 4
    try:
        base = tensors.decode(cached.blob.encoding, data, size)
        step = tensors.decode(delta.blob.encoding, task.data, size)
    except ProtocolError as exc:
        raise PatchError(str(exc)) from exc
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add(base, step, out=step if step.flags.writeable else None)
    blob = np.ascontiguousarray(total, dtype="<f4").view(np.uint8).data
    if hashlib.sha256(blob).hexdigest() != manifest.parameters:
        raise PatchError("the sum is not the parameters that the manifest names")
    return blob
