"""What announces a version, and whether it fits on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from aggregator.configuration import AggregatorSettings, CanaryTable
from aggregator.frozen import ENCODING, MAX_BACKBONE_BYTES
from aggregator.keyring import NO_KEYS, Keyring
from aggregator.records import CandidateRecord, Findings, VersionRecord
from models import Model, Personal, Pipeline, TrainingPlan
from models.answering import classes_of
from models.weighting import class_weights
from protocol import tensors
from protocol.messages import (
    MAX_CHUNK_BYTES,
    MAX_MANIFEST_BYTES,
    BackboneRef,
    BlobRef,
    Candidate,
    DeltaRef,
    Manifest,
    Participation,
)
from protocol.settings import ConfigurationError
from protocol.surveys import Survey
from protocol.thresholds import Threshold

_LARGEST_VERSION = 2**53 - 1
_ANY_DIGEST = "f" * 64
_LONGEST_THRESHOLD = Threshold(error=0.1, quantile=0.1, version=_LARGEST_VERSION)
NO_FINDINGS = Findings()
_ANY_BACKBONE = BackboneRef(
    blob=BlobRef(digest=_ANY_DIGEST, total_bytes=MAX_BACKBONE_BYTES, chunk_bytes=MAX_CHUNK_BYTES, encoding=ENCODING),
    inputs=2**24,
    outputs=2**24,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Which history a version is of, and which announcement of it this is."""

    epoch: str
    generation: int
    issued: int


def manifest_of(
    settings: AggregatorSettings,
    model: Model,
    history: History,
    version: VersionRecord,
    keys: Keyring = NO_KEYS,
    *,
    surveys: Sequence[Survey] = (),
    trains: bool = True,
    findings: Findings = NO_FINDINGS,
    backbone: BackboneRef | None = None,
    candidate: CandidateRecord | None = None,
    attempts: int = 0,
) -> Manifest:
    """Return the announcement of a version, of the open surveys and what earlier ones found, and of a candidate.

    ``attempts`` buffers were withheld or withdrawn since this version was made: so often its devices may train it
    once more.
    """
    return Manifest(
        federation=settings.aggregator.federation,
        epoch=history.epoch,
        version=version.version,
        generation=history.generation,
        issued=history.issued,
        model=dict(model.spec),
        layout=model.layout.digest,
        parameters=version.digest,
        blob=version.blob,
        deltas=[version.delta] if version.delta else [],
        training=_plan(settings, model, findings).to_data(),
        features=Pipeline.from_data(settings.features).to_data() if settings.features else {},
        personal=Personal.from_data(settings.personal).to_data() if settings.personal else {},
        backbone=backbone,
        participation=participation_of(settings.participation, attempts),
        trains=trains,
        surveys=list(surveys),
        anomaly=findings.threshold if settings.anomaly.quantile else None,
        candidate=_announced(candidate) if candidate else None,
        signing_keys=keys.signing_keys,
        sealing=keys.sealing,
    )


def _plan(settings: AggregatorSettings, model: Model, findings: Findings) -> TrainingPlan:
    plan, table = TrainingPlan.from_data(settings.training), settings.statistics
    # Counted before [model] became one of other classes: they say nothing of these.
    if table.class_weights == "none" or len(findings.class_counts) != classes_of(model):
        return plan
    weights = class_weights(
        findings.class_counts, table.class_weights, most=table.max_class_weight, beta=table.effective_beta
    )
    return replace(plan, class_weights=tuple(weights))


def largest_manifest_bytes(
    settings: AggregatorSettings, model: Model, keys: Keyring = NO_KEYS, surveys: Sequence[Survey] = ()
) -> int:
    """Return how long the manifest of a version of this federation can become, with these surveys."""
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
    history = History(epoch="f" * 16, generation=_LARGEST_VERSION, issued=_LARGEST_VERSION)
    findings = Findings(class_counts=(1,) * classes_of(model), threshold=_LONGEST_THRESHOLD)
    backbone = _ANY_BACKBONE if settings.backbone.path else None
    manifest = manifest_of(
        settings, model, history, version, keys, surveys=surveys, findings=findings, backbone=backbone
    )
    if settings.canary.fraction:
        survey = survey_of("f" * 16, settings.canary)
        tried = Candidate(survey=survey.id, version=_LARGEST_VERSION, parameters=_ANY_DIGEST, blob=version.blob)
        participation = participation_of(settings.participation, MAX_ATTEMPTS)
        manifest = structs.replace(
            manifest, surveys=[*manifest.surveys, survey], candidate=tried, participation=participation
        )
    return len(keys.manifest(manifest))


MAX_ATTEMPTS = 1000
"""So often a version is trained once more: then something is wrong that no further attempt will mend."""


def participation_of(participation: Participation, attempts: int) -> Participation:
    """Return how a version is trained of which so many attempts at a next one came to nothing."""
    if not attempts:
        return participation
    contributions = participation.contributions_per_version * (1 + min(attempts, MAX_ATTEMPTS))
    return structs.replace(participation, contributions_per_version=min(contributions, 2**40 - 1))


def survey_of(name: str, settings: CanaryTable) -> Survey:
    """Return the survey that compares a candidate with the current version."""
    return Survey(id=name, kind="comparison", fraction=settings.fraction, min_examples=settings.min_examples)


def _announced(candidate: CandidateRecord) -> Candidate:
    version = candidate.version
    return Candidate(survey=candidate.survey, version=version.version, parameters=version.digest, blob=version.blob)


def own_surveys(settings: AggregatorSettings) -> list[Survey]:
    """Return what the aggregator may ask of its own accord at any time, beside a comparison: as long as it can be."""
    table = settings.statistics
    asks = table.before_training or table.class_weights != "none"
    # A fraction of 1 is left out where it is the default itself, and written where it was read from the store.
    found = [Survey(id="f" * 16, kind="statistics", fraction=0.5, min_examples=table.min_examples)] if asks else []
    if settings.anomaly.quantile:
        least = settings.anomaly.min_examples
        found.append(Survey(id="f" * 16, kind="evaluation", fraction=0.5, min_examples=least))
    return found


def check_manifest_fits(settings: AggregatorSettings, model: Model, keys: Keyring = NO_KEYS) -> None:
    """Raise ``ConfigurationError`` when devices would refuse this federation's manifests as too large."""
    found = largest_manifest_bytes(settings, model, keys, own_surveys(settings))
    if found > MAX_MANIFEST_BYTES:
        table = settings.statistics
        spec, features = len(repr(dict(model.spec))), len(repr(dict(settings.features)))
        weighs = table.class_weights != "none" or settings.training.get("class_weights")
        weights = f", or do without class_weights ({9 * model.outputs}, for {model.outputs} classes)" if weighs else ""
        raise ConfigurationError(
            f"the manifest of a version would have {found} bytes, at most {MAX_MANIFEST_BYTES} are allowed: make the "
            f"description of [model] (it takes about {spec}) or of [features] (about {features}) shorter{weights}"
        )


def _blob(settings: AggregatorSettings, model: Model, encoding: str) -> BlobRef:
    return BlobRef(
        digest=_ANY_DIGEST,
        total_bytes=tensors.CODECS[encoding].encoded_bytes(model.layout.size),
        chunk_bytes=settings.downlink.chunk_bytes,
        encoding=encoding,
    )
