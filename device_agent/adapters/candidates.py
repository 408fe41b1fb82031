"""The candidate on the disk, beside the model: kept, and taken when it is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.adapters.model_cache import CacheError, ModelCache, read_model
from device_agent.events import CandidateCached, CandidateFailed, CandidateLost, ModelCached

if TYPE_CHECKING:
    from device_agent.commands import CacheCandidate, TakeCandidate


def keep(candidate: ModelCache, task: CacheCandidate) -> CandidateCached | CandidateFailed:
    """Write a candidate; return what became of that."""
    try:
        candidate.replace(task.manifest, task.data)
    except CacheError as exc:
        return CandidateFailed(reason=str(exc))
    return CandidateCached(parameters=task.manifest.parameters)


def take(model: ModelCache, candidate: ModelCache, task: TakeCandidate) -> ModelCached | CandidateLost:
    """Replace the cached model by the candidate, under the manifest of the version that it is now.

    A kill in between leaves the model before, or both files: then the next start drops the candidate.
    """
    try:
        with candidate.open() as file:
            found, data = read_model(file)
        if found.blob != task.manifest.blob:
            return CandidateLost(reason="another candidate lies there")
        model.replace(task.manifest, data)
    except (CacheError, OSError) as exc:
        return CandidateLost(reason=str(exc))
    finally:
        candidate.drop()
    return ModelCached(epoch=task.manifest.epoch, version=task.manifest.version)
