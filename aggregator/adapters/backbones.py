"""The backbone's file: read and checked at the start, so that no device is sent what it could not use.

A TFLite runtime is wanted only here, and only where there is a backbone.
"""

from __future__ import annotations

import logging
from pathlib import Path

from aggregator.frozen import ENCODING, MAX_BACKBONE_BYTES, Backbone
from models import DataError, Dataset, Model, TfliteError
from models.data import SampleShape, Shaped
from protocol.chunks import blob_of
from protocol.messages import BackboneRef
from protocol.settings import ConfigurationError

log = logging.getLogger(__name__)


def load_backbone(path: str, model: Model, chunk_bytes: int) -> Backbone | None:
    """Return the backbone in the file, checked, and where a runtime is installed tried out; None without a path.

    Raise ``ConfigurationError`` when the file cannot be read, is no backbone, or does not fit the model.
    """
    if not path:
        return None
    # Late: an aggregator without a backbone does without what reads these files.
    from models.tflite.adapters.trial import try_out  # noqa: PLC0415 - see above
    from models.tflite.backbone import BackboneSpec  # noqa: PLC0415 - see above
    from models.tflite.runtime import RuntimeUnavailable, load_runtime  # noqa: PLC0415 - see above

    file = Path(path)
    try:
        data = _read(file)
        spec = BackboneSpec.of(data)
    except TfliteError as exc:
        raise ConfigurationError(f"backbone.path: {file} is no backbone: {exc}") from exc
    if spec.outputs != model.inputs:
        raise ConfigurationError(
            f"backbone.path: {file} gives {spec.outputs} values for each sample, and the model takes {model.inputs}: "
            f"write inputs = {spec.outputs} in [model]"
        )
    try:
        load_runtime()
        try_out(file)
    except RuntimeUnavailable as exc:
        log.warning(f"the backbone was read, but not tried out, for there is no TFLite runtime here: {exc}")
    except TfliteError as exc:
        raise ConfigurationError(f"backbone.path: {exc}") from exc
    blob = blob_of(data, ENCODING, chunk_bytes)
    return Backbone(ref=BackboneRef(blob=blob, inputs=spec.inputs, outputs=spec.outputs), data=data)


def samples_of(model: Model, backbone: Backbone | None) -> Shaped:
    """Return which samples fit: those of the model, or with a backbone those that go through it before."""
    return (
        model if backbone is None else SampleShape(inputs=backbone.ref.inputs, outputs=model.outputs, task=model.task)
    )


def embedded(backbone: Backbone, model: Model, samples: Dataset) -> Dataset:
    """Return the examples that a backbone makes of samples; raise ``ConfigurationError`` when it cannot."""
    from models.tflite.backbone import Backbone as Network  # noqa: PLC0415 - as above
    from models.tflite.backbone import BackboneSpec  # noqa: PLC0415 - as above
    from models.tflite.runtime import RuntimeUnavailable, load_runtime  # noqa: PLC0415 - as above

    try:
        network = Network(load_runtime(), backbone.data, BackboneSpec.of(backbone.data))
        return Dataset.for_model(model, network.embed(samples.x), samples.y)
    except RuntimeUnavailable as exc:
        raise ConfigurationError(
            f"evaluation.path: with a [backbone] the aggregator runs it, too, to evaluate; {exc}. "
            "Or leave evaluation.path empty"
        ) from exc
    except (TfliteError, DataError) as exc:
        raise ConfigurationError(f"evaluation.path: through the backbone: {exc}") from exc


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BACKBONE_BYTES + 1)
    except OSError as exc:
        raise ConfigurationError(f"backbone.path: {path} cannot be read: {exc.strerror or exc}") from exc
    if len(data) > MAX_BACKBONE_BYTES:
        raise ConfigurationError(
            f"backbone.path: {path} has more than {MAX_BACKBONE_BYTES:,} bytes, which is no network for small devices"
        )
    return data
