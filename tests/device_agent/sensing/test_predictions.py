from __future__ import annotations

import json
import math
from typing import Any

import pytest

from device_agent.sensing.predictions import PredictionSettings, What, limit_of, names_of, prediction
from device_agent.settings import AgentSettings
from protocol.settings import ConfigurationError, settings_from
from protocol.thresholds import Threshold


def said(output: list[float], what: What, **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"time": 1_780_000_000.25, "device_id": "press-1", "version": 12, "by": "numpy"} | more
    found: dict[str, Any] = json.loads(prediction(output, what=what, **fields))
    return found


COMMON = {"time": 1_780_000_000.25, "device": "press-1", "version": 12, "by": "numpy"}


def test_a_class_has_its_name_and_its_confidence() -> None:
    assert said([0.1, 0.7, 0.2], "class", names={1: "worn"}) == COMMON | {"class": 1, "name": "worn", "confidence": 0.7}
    assert said([0.1, 0.7, 0.2], "class", names={0: "fine"}) == COMMON | {"class": 1, "confidence": 0.7}


def test_values_and_errors_are_numbers() -> None:
    assert said([21.5], "values") == COMMON | {"value": 21.5}
    assert said([1.0, 2.0], "values") == COMMON | {"values": [1.0, 2.0]}
    assert said([0.125], "error") == COMMON | {"error": 0.125}


def test_an_error_is_judged_by_the_threshold_that_holds_here() -> None:
    found = Threshold(error=0.5, quantile=0.99, version=7)
    federation = limit_of(PredictionSettings(), found)
    own = limit_of(PredictionSettings(threshold=0.25), found)

    of_federation = {"threshold": 0.5, "threshold_version": 7}
    assert said([0.5], "error", limit=federation) == COMMON | {"error": 0.5, "anomaly": False} | of_federation
    assert said([0.51], "error", limit=federation) == COMMON | {"error": 0.51, "anomaly": True} | of_federation
    assert said([0.5], "error", limit=own) == COMMON | {"error": 0.5, "anomaly": True, "threshold": 0.25}
    assert said([math.nan], "error", limit=own)["anomaly"] is True
    assert limit_of(PredictionSettings(), None) is None
    assert said([1.0], "values", limit=own) == COMMON | {"value": 1.0}


def test_what_is_not_finite_is_null_and_still_json() -> None:
    assert said([math.nan, 1.0], "values") == COMMON | {"values": [None, 1.0]}
    assert said([math.nan, math.nan], "class")["confidence"] is None


def test_names_come_from_the_settings_or_from_the_sources() -> None:
    tables = [{"off": 0.0, "on": 1.0}, {"no": 0.0, "half": 0.5}]
    assert names_of(PredictionSettings(), tables) == {0: "off", 1: "on"}
    assert names_of(PredictionSettings(names=["a", "b"]), tables) == {0: "a", 1: "b"}


SOURCE = {"kind": "mqtt", "topics": ["x"], "fields": {"x": "x"}}


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"predictions": {"topic": "a/+/b"}, "sources": {"s": SOURCE}}, "wildcard"),
        ({"predictions": {"topic": "a"}, "data": {"path": "x.npz"}}, "no [sources.NAME]"),
        (
            {"predictions": {"topic": "a", "broker": {"host": "far"}}, "sources": {"s": SOURCE}},
            "[predictions.broker.tls]",
        ),
        ({"predictions": {"topik": "a"}, "sources": {"s": SOURCE}}, "topik"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tables: dict[str, Any], says: str) -> None:
    device = {"id": "a", "federation": "f", "state_dir": "s"}

    with pytest.raises(ConfigurationError) as refused:
        settings_from({"device": device, **tables}, AgentSettings, "agent.toml")

    assert says in str(refused.value)
