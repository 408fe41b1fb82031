"""What announces a version, and whether it fits on the wire."""

from __future__ import annotations

from aggregator.configuration import AggregatorSettings
from aggregator.records import VersionRecord
from models import Model, TrainingPlan
from protocol import tensors
from protocol.messages import MAX_MANIFEST_BYTES, BlobRef, DeltaRef, Manifest, encode
from protocol.settings import ConfigurationError

_LARGEST_VERSION = 2**53 - 1
_ANY_DIGEST = "f" * 64
_ANY_EPOCH = "f" * 16


def manifest_of(settings: AggregatorSettings, model: Model, epoch: str, version: VersionRecord) -> Manifest:
    """Return the announcement of a version."""
    return Manifest(
        federation=settings.aggregator.federation,
        epoch=epoch,
        version=version.version,
        model=dict(model.spec),
        layout=model.layout.digest,
        parameters=version.digest,
        blob=version.blob,
        deltas=[version.delta] if version.delta else [],
        training=TrainingPlan.from_data(settings.training).to_data(),
        participation=settings.participation,
    )


def largest_manifest_bytes(settings: AggregatorSettings, model: Model) -> int:
    """Return how long the manifest of a version of this federation can become."""
    codec = settings.downlink.delta_codec
    version = VersionRecord(
        version=_LARGEST_VERSION,
        kind="aggregate",
        created=0.0,
        parameters=b"",
        digest=_ANY_DIGEST,
        blob=_blob(settings, model, settings.downlink.encoding),
        blob_bytes=b"",
        delta=DeltaRef(base_version=_LARGEST_VERSION, blob=_blob(settings, model, codec)) if codec else None,
    )
    return len(encode(manifest_of(settings, model, _ANY_EPOCH, version)))


def check_manifest_fits(settings: AggregatorSettings, model: Model) -> None:
    """Raise ``ConfigurationError`` when devices would refuse this federation's manifests as too large."""
    found = largest_manifest_bytes(settings, model)
    if found > MAX_MANIFEST_BYTES:
        spec = len(repr(dict(model.spec)))
        raise ConfigurationError(
            f"the manifest of a version would have {found} bytes, at most {MAX_MANIFEST_BYTES} are allowed: "
            f"make the description of [model] shorter (it takes about {spec})"
        )


def _blob(settings: AggregatorSettings, model: Model, encoding: str) -> BlobRef:
    return BlobRef(
        digest=_ANY_DIGEST,
        total_bytes=tensors.CODECS[encoding].encoded_bytes(model.layout.size),
        chunk_bytes=settings.downlink.chunk_bytes,
        encoding=encoding,
    )
