"""The samples that tasks work on: read when they are others than before, and the same throughout a task.

Imports NumPy: only the trainer's thread imports this module.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from device_agent.adapters.data import DataFileError, Samples, fingerprint, load_samples
from device_agent.adapters.leaving import asking, never
from models.pieces import pieces_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from device_agent.adapters.embedding import Through
    from device_agent.sensing.adapters.reading import Extent
    from device_agent.settings import AgentSettings
    from models import Dataset, Model, Pipeline


class Supply:
    """Holds the samples of a file, or of the sample store."""

    def __init__(self, settings: AgentSettings) -> None:
        self.digest = ""
        """Of the examples that are trained on."""
        self._settings = settings
        self._samples: Samples | None = None
        self._of: tuple[object, ...] = ()

    def begin(
        self,
        model: Model,
        pipeline: Pipeline | None,
        upto: int | None = None,
        stopped: Callable[[], bool] = never,
        through: Through | None = None,
    ) -> Samples:
        """Return what is there now, for a task that begins; raise ``DataFileError``.

        ``through``: the backbone that makes the model's examples of samples; raises ``BackboneError``.
        ``upto``: with sources, only rows up to this number. ``stopped`` is asked along the way: ``TaskLeftError``.
        """
        extent = self._extent(pipeline) if self._settings.sources else None
        path = Path(self._settings.data.path)
        seen = fingerprint(path) if extent is None else (extent, extent.newest if upto is None else upto)
        described = None if pipeline is None else pipeline.to_data()
        wanted = (seen, model.layout.digest, model.task, described, through.digest if through else "")
        if self._samples is None or self._of != wanted:
            # The old ones go first: both at once may be more than the board has.
            self._samples = None
            form = model if through is None else through.form(model)
            if extent is None or pipeline is None:
                samples = load_samples(path, self._settings.data, form, stopped)
            else:
                from device_agent.adapters.collected import collect  # noqa: PLC0415 - for boards that have sources

                samples = collect(self._settings, pipeline, form, extent, upto, stopped)
            if through is not None:
                samples = through.embedded(samples, model, stopped)
            self.digest = _digest(samples.train, stopped)
            self._samples, self._of = samples, wanted
        return self._samples

    @property
    def held(self) -> Samples:
        """What the task under way works on; ``begin`` has been called."""
        assert self._samples is not None  # noqa: S101 - a task begins with it
        return self._samples

    def _extent(self, pipeline: Pipeline | None) -> Extent:
        if pipeline is None:
            raise DataFileError(
                "this device has sources, and the federation does not say how rows become examples: it needs "
                "[features] in aggregator.toml, or this device a file of ready examples (path in [data], no sources)"
            )
        from device_agent.sensing.adapters.reading import SamplesError, extent_of  # noqa: PLC0415 - as above

        try:
            return extent_of(Path(self._settings.device.state_dir))
        except SamplesError as exc:
            raise DataFileError(f"samples: {exc}") from exc


def _digest(data: Dataset, stopped: Callable[[], bool]) -> str:
    """Return what changes when the examples do. It costs little beside the reading of them."""
    found = hashlib.blake2b(f"{data.x.shape} {data.y.shape} {data.y.dtype}".encode(), digest_size=16)
    for array in (data.x, data.y):
        for part in pieces_of(array, asking(stopped)) if array.size else ():
            found.update(np.ascontiguousarray(array[part]).data.cast("B"))
    return found.hexdigest()
