"""Samples through the backbone: from its file, by a runtime, as few times as the cache can help it.

Imports NumPy: only the trainer's thread, and the one that predicts, import this module.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent.adapters.backbone_files import TRIAL_S, backbone_path, try_once
from device_agent.adapters.data import DataFileError, Samples
from device_agent.adapters.embeddings import EmbeddingCache
from device_agent.adapters.leaving import never
from device_agent.adapters.running import BackboneError, running
from models import DataError, Dataset, TfliteError
from models.data import SampleShape, Shaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from device_agent.settings import AgentSettings
    from models import Model
    from models.parameters import FloatArray
    from models.tflite.backbone import Backbone
    from protocol.messages import BackboneRef

CACHE_NAME = "embeddings.sqlite"


def samples_for(model: Model, backbone: BackboneRef | None) -> Shaped:
    """Return which samples fit: the model's examples, or with a backbone what goes through it before."""
    if backbone is None:
        return model
    return SampleShape(inputs=backbone.inputs, outputs=model.outputs, task=model.task)


def load_network(
    state_dir: Path, ref: BackboneRef, stopped: Callable[[], bool] = never, trial_s: float = TRIAL_S
) -> Backbone:
    """Return the backbone in a runtime, ready; raise ``BackboneError``, or ``TaskLeftError`` when it is ``stopped``.

    The file is read by our own reader first, and carried out once in a process of its own, for each digest and runtime:
    the broker's, the aggregator's and the disk's faults must not end the agent.
    """
    path = backbone_path(state_dir, ref.blob.digest)
    with running("the backbone", path, ref.blob):
        # Late: what the extra brings, and what reads such files, are for federations with a backbone.
        from models.tflite.adapters.files import mapped  # noqa: PLC0415 - see above
        from models.tflite.adapters.trial import try_out  # noqa: PLC0415 - see above
        from models.tflite.backbone import Backbone, BackboneSpec  # noqa: PLC0415 - see above
        from models.tflite.runtime import load_runtime  # noqa: PLC0415 - see above

        runtime = load_runtime()
        spec = BackboneSpec(digest=ref.blob.digest, inputs=ref.inputs, outputs=ref.outputs)
        try_once(path, f"{runtime.name} {runtime.version}", lambda: try_out(path, trial_s, stopped))
        with mapped(path) as data:
            spec.check(data)
        # Our mapping has gone by now: the pages would count twice.
        return Backbone(runtime, path, spec)


class Embedder:
    """Makes embeddings of samples, and keeps them in a file of the state directory. For the trainer's thread."""

    def __init__(self, settings: AgentSettings) -> None:
        self._state_dir = Path(settings.device.state_dir)
        self._cache_bytes = settings.backbone.cache_bytes
        self._trial_s = settings.backbone.trial_s
        self.computed = 0
        """Samples that went through the network."""
        self.reused = 0

    def through(self, ref: BackboneRef) -> Through:
        """Return what makes examples of samples, by this backbone."""
        return Through(self, ref)

    def embeddings(self, ref: BackboneRef, parts: list[FloatArray], stopped: Callable[[], bool]) -> list[FloatArray]:
        """Return the embeddings of each part's samples; raise ``BackboneError``, or ``TaskLeftError``.

        The network is loaded when a sample is not in the cache, and let go of afterwards: its memory is the trainer's
        again. What was computed before a stop is kept.
        """
        network: list[Backbone] = []

        def compute(sample: FloatArray) -> FloatArray:
            if not network:
                network.append(load_network(self._state_dir, ref, stopped, self._trial_s))
            self.computed += len(sample)
            return network[0].embed(sample)

        cache = EmbeddingCache(self._state_dir / CACHE_NAME, ref.blob.digest, ref.outputs, self._cache_bytes)
        try:
            found = [cache.embed(part, compute, stopped) for part in parts]
        except TfliteError as exc:
            raise BackboneError(f"the backbone: {exc}") from exc
        finally:
            cache.close()
            self.reused += cache.reused
        return found


class Through:
    """One backbone, for one task."""

    def __init__(self, embedder: Embedder, ref: BackboneRef) -> None:
        self._embedder = embedder
        self._ref = ref

    @property
    def digest(self) -> str:
        """The file's SHA-256."""
        return self._ref.blob.digest

    def form(self, model: Model) -> Shaped:
        """Return which samples fit."""
        return samples_for(model, self._ref)

    def embedded(self, samples: Samples, model: Model, stopped: Callable[[], bool]) -> Samples:
        """Return the model's examples, on the sides on which the samples are."""
        sides = [side for side in (samples.train, samples.holdout) if side is not None]
        found = self._embedder.embeddings(self._ref, [side.x for side in sides], stopped)
        try:
            made = [Dataset.for_model(model, x, side.y) for x, side in zip(found, sides, strict=True)]
        except DataError as exc:
            raise DataFileError(f"embeddings: {exc}") from exc
        holdout = made[1] if samples.holdout is not None else None
        # When samples came is known as before; embeddings are standardized by nobody.
        return replace(samples, train=made[0], holdout=holdout, constants=None)
