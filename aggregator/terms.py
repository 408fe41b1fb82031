"""Under which terms a version was made: all that decides what it is and is nowhere else in the store, as plain data."""

from __future__ import annotations

from typing import Any

import msgspec

from aggregator.configuration import AggregatorSettings
from aggregator.keyring import Keyring
from models import Model, Personal, Pipeline, TrainingPlan
from protocol.signing import key_id


def terms_of(settings: AggregatorSettings, model: Model, keys: Keyring, software: str) -> dict[str, Any]:
    """Return the terms, complete with defaults; no paths, no secrets, nothing that differs between two equal starts."""
    evaluation = settings.evaluation
    return {
        "software": software,
        "model": dict(model.spec),
        "training": model.followed(TrainingPlan.from_data(settings.training)),
        "features": Pipeline.from_data(settings.features).to_data() if settings.features else {},
        "weighting": _weighting(settings),
        "personal": Personal.from_data(settings.personal).to_data() if settings.personal else {},
        "participation": _plain(settings.participation),
        "aggregation": _plain(settings.aggregation),
        "clip_factor": settings.admission.clip_factor,
        "downlink": {"encoding": settings.downlink.encoding, "delta_codec": settings.downlink.delta_codec},
        "gate": {
            "evaluated": bool(evaluation.path),
            "max_accuracy_drop": evaluation.max_accuracy_drop,
            "max_loss_ratio": evaluation.max_loss_ratio,
            "max_step_norm": evaluation.max_step_norm,
        },
        "security": _security(settings, keys),
    }


def _weighting(settings: AggregatorSettings) -> dict[str, Any]:
    """Return how weights of the classes are made of their counts; empty where classes count alike."""
    table = settings.statistics
    if table.class_weights == "none":
        return {}
    found = {"class_weights": table.class_weights, "max_class_weight": table.max_class_weight}
    return found | ({"effective_beta": table.effective_beta} if table.class_weights == "effective" else {})


def _security(settings: AggregatorSettings, keys: Keyring) -> dict[str, Any]:
    sealing = keys.sealing
    return {
        "tls": settings.broker.tls is not None,
        "signed": keys.signer is not None,
        "signing_keys": [key_id(key) for key in keys.signing_keys],
        "sealed": sealing is not None,
        "sealing_suite": sealing.suite if sealing else "",
        "sealing_key": key_id(sealing.key) if sealing else "",
    }


def _plain(settings: msgspec.Struct) -> dict[str, Any]:
    """Return a flat table with its defaults, also where it leaves them out on the wire."""
    return {name: getattr(settings, name) for name in settings.__struct_fields__}
