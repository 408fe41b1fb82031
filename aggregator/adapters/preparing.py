"""From checked settings to what the service works with: everything that can be wrong is found before it starts."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

from aggregator.adapters.backbones import load_backbone, samples_of
from aggregator.adapters.evaluation import evaluator_of
from aggregator.adapters.opening import FirstVersion, Founding
from aggregator.adapters.timers import CronLine
from aggregator.adapters.trainables import anchored_model, check_terms, load_model
from aggregator.configuration import AggregatorSettings, SecurityTable
from aggregator.downlink import render, vector_of
from aggregator.frozen import Backbone, Carried, Learner
from aggregator.keyring import Keyring
from aggregator.manifests import check_manifest_fits
from aggregator.recording import first_version, record_of, shelf_of
from aggregator.server_optimizer import server_optimizer
from aggregator.stepping import Evaluator, initial_state
from aggregator.surveys import CannotAsk, check_countable
from aggregator.terms import terms_of
from models import FeaturesError, Model, Personal, Pipeline, PlanError, Split, TrainingPlan
from models.answering import standardize_of
from models.comparison import MEASURES
from protocol import tensors
from protocol.adapters.configuration import load
from protocol.adapters.credentials import read_password
from protocol.adapters.tls import make_context
from protocol.settings import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Settings that hold together, with what they describe."""

    settings: AggregatorSettings
    model: Model
    pipeline: Pipeline | None
    """How devices make examples of rows; None: they have examples."""
    split: Split
    """What of the model is shared, and what devices keep to themselves."""
    evaluate: Evaluator
    keys: Keyring
    backbone: Backbone | None = None
    """What samples go through before the model; None: nothing."""
    learner: Learner | None = None
    """The model, where that is a file; None: it is a network of ours."""

    @property
    def carried(self) -> Carried | None:
        """The file that versions are announced with, if there is one."""
        return self.backbone or self.learner

    @property
    def state_dir(self) -> Path:
        """Where the store lies."""
        return Path(self.settings.aggregator.state_dir)

    @property
    def meaning(self) -> str:
        """Digest of what the model's inputs mean; empty where devices say it themselves."""
        features = self.pipeline.digest if self.pipeline else ""
        if self.backbone is None:
            return features
        return hashlib.sha256(f"{features} through {self.backbone.ref.blob.digest}".encode()).hexdigest()

    @property
    def founding(self) -> Founding:
        """What a store for these settings is."""
        return Founding(
            federation=self.settings.aggregator.federation,
            layout=self.model.layout.digest,
            spec=dict(self.model.spec),
            features=self.pipeline.to_data() if self.pipeline else {},
            meaning=self.meaning,
            backbone=self.backbone.ref.blob.digest if self.backbone else "",
            shared=self.split.shared.digest,
            terms=terms_of(self.settings, self.model, self.keys, metadata.version("fedmq")),
            begin=lambda: first_version(self.settings, self.model, time.time(), self.carried),
            go_on=self._go_on,
            signed=self.keys.signer is not None,
        )

    def _go_on(self, version: int, parameters: bytes) -> FirstVersion:
        master = vector_of(parameters).astype(np.float32)
        made = render(master, self.settings.downlink, np.random.default_rng([self.settings.aggregator.seed, version]))
        server = initial_state(master, server_optimizer(self.settings.aggregation))
        return record_of(version, "initial", made, time.time()), server, tuple(shelf_of(version, made, self.carried))


def prepare(path: Path) -> Prepared:
    """Return what the configuration file describes, or raise ``ConfigurationError``, naming the file."""
    settings = load(path, AggregatorSettings)
    settings = msgspec.structs.replace(settings, model=anchored_model(settings.model, path.parent))
    try:
        return _prepared(settings)
    except ConfigurationError as exc:
        raise ConfigurationError(*(f"{path}: {fault}" for fault in exc.faults)) from exc


def _prepared(settings: AggregatorSettings) -> Prepared:
    model, learner = load_model(settings.model, settings.downlink.chunk_bytes)
    if learner is not None:
        check_terms(settings)
    backbone = load_backbone(settings.backbone.path, model, settings.downlink.chunk_bytes)
    samples = samples_of(model, backbone)
    try:
        pipeline = Pipeline.for_model(settings.features, samples)
    except FeaturesError as exc:
        raise ConfigurationError(f"[features]: {exc}") from exc
    try:
        plan = TrainingPlan.from_data(settings.training)
        # Devices with fewer examples could, but those with more would all fail.
        model.check_plan(plan, settings.training.keys())
    except PlanError as exc:
        raise ConfigurationError(f"[training]: {exc}") from exc
    try:
        personal = Personal.from_data(settings.personal)
        personal.plan_of(plan)
        split = personal.split(model)
    except PlanError as exc:
        raise ConfigurationError(f"[personal]: {exc}") from exc
    _check_schedule(settings)
    _check_statistics(settings, model)
    _check_anomaly(settings, model)
    _check_canary(settings, model)
    codec = settings.participation.codec
    if codec not in tensors.CODECS:
        known = ", ".join(sorted(tensors.CODECS))
        raise ConfigurationError(f"participation.codec is {codec!r}; allowed are {known}")
    keys = _keyring(settings.security)
    check_manifest_fits(settings, model, keys)
    read_password(settings.broker.password_file)
    if settings.broker.tls is not None:
        make_context(settings.broker.tls)
    return Prepared(
        settings=settings,
        model=model,
        pipeline=pipeline,
        split=split,
        evaluate=evaluator_of(settings.evaluation.path, model, backbone),
        keys=keys,
        backbone=backbone,
        learner=learner,
    )


def _keyring(security: SecurityTable) -> Keyring:
    if not security.signing_keys:
        return Keyring()
    # Imported late: cryptography takes memory, and the loopback demo has no keys.
    from protocol.adapters.key_files import read_opener, read_signer  # noqa: PLC0415 - see above

    return Keyring(
        signer=read_signer(security.signing_keys, security.standby_signing_key),
        opener=read_opener(security.sealing_keys),
    )


def _check_statistics(settings: AggregatorSettings, model: Model) -> None:
    table = settings.statistics
    weighs = table.class_weights != "none"
    if weighs:
        _check_class_weights(settings, model)
    if not (table.before_training or weighs):
        return
    name = "statistics.before_training" if table.before_training else "statistics.class_weights"
    if table.before_training and standardize_of(model) is None and not weighs:
        raise ConfigurationError(
            f"{name}: the model has no place for the constants; begin it with a layer standardize, or set "
            "standardize = true (or set class_weights, if those are what you want)"
        )
    if table.before_training and standardize_of(model) is not None and settings.downlink.encoding != "f32":
        raise ConfigurationError(f"{name} needs downlink.encoding 'f32': half precision would round the constants")
    try:
        check_countable(model)
    except CannotAsk as exc:
        raise ConfigurationError(f"{name}: {exc}") from exc


def _check_anomaly(settings: AggregatorSettings, model: Model) -> None:
    if settings.anomaly.quantile and model.task != "reconstruction":
        raise ConfigurationError(
            f"anomaly.quantile is {settings.anomaly.quantile:g}, but the model's task is {model.task}, without errors "
            "of reconstruction; take an autoencoder, or set it to 0"
        )


def _check_class_weights(settings: AggregatorSettings, model: Model) -> None:
    name = f"statistics.class_weights {settings.statistics.class_weights!r}"
    if model.task != "classification":
        raise ConfigurationError(f"{name}: the model's task is {model.task}, without classes; set it to 'none'")
    if "class_weights" in settings.training:
        raise ConfigurationError(f"{name}: [training] class_weights says other ones; leave out one of the two")


def _check_canary(settings: AggregatorSettings, model: Model) -> None:
    measures = MEASURES[model.task]
    if settings.canary.measure and settings.canary.measure not in measures:
        known = ", ".join(measures)
        raise ConfigurationError(f"canary.measure: devices of this [model] measure {known}; name one of these, or ''")


def _check_schedule(settings: AggregatorSettings) -> None:
    schedule = settings.schedule
    if not (schedule.goal or schedule.interval_s or schedule.cron):
        raise ConfigurationError("[schedule] has neither goal nor interval_s nor cron: no version would ever be made")
    if schedule.cron and math.isinf(CronLine(schedule.cron).after(time.time())):
        raise ConfigurationError(f"schedule.cron: {schedule.cron!r} names a time that never comes")
