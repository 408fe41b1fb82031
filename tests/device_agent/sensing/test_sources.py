"""The tables of agent.toml: what is allowed, and how mistakes are named."""

from __future__ import annotations

from typing import Any

import pytest

from device_agent.sensing.sources import CsvSource, MqttSource
from device_agent.settings import AgentSettings
from protocol.settings import ConfigurationError, anchored, settings_from

DEVICE = {"id": "a", "federation": "f", "state_dir": "state"}
MQTT = {"kind": "mqtt", "topics": ["a/+"], "fields": {"t": "x.y[0]"}}
CSV = {"kind": "csv", "path": "log.csv", "fields": {"t": "temp"}}


def settings(**tables: Any) -> AgentSettings:
    return settings_from({"device": DEVICE, **tables}, AgentSettings, "agent.toml")


def test_sources_are_tables_of_several_kinds() -> None:
    found = settings(sources={"press": MQTT, "log": CSV})
    assert isinstance(found.sources["press"], MqttSource)
    assert isinstance(found.sources["log"], CsvSource)
    assert found.sources["press"].broker.host == "127.0.0.1"
    assert found.data.path == ""


def test_paths_of_sources_are_anchored() -> None:
    source = anchored(settings(sources={"log": CSV}), "/etc/fedmq").sources["log"]
    assert isinstance(source, CsvSource)
    assert source.path == "/etc/fedmq/log.csv"


@pytest.mark.parametrize(
    ("tables", "fault"),
    [
        ({}, "either path in [data] (a file of ready examples) or tables [sources.NAME]; there is neither"),
        ({"data": {"path": "x.npz"}, "sources": {"a": MQTT}}, "there are both"),
        ({"sources": {"a": {**MQTT, "kind": "mqtts"}}}, "sources.a.kind is the text 'mqtts'; allowed is 'mqtt', 'csv'"),
        ({"sources": {"a": {"topics": []}}}, "sources.a.kind is missing; allowed is 'mqtt'"),
        ({"sources": {"a": 5}}, "sources.a is 5, but it must be a table: write [sources.a] above its keys"),
        ({"sources": 5}, "sources is 5, but it must be a table: write [sources.NAME] above its keys"),
        ({"sources": {"a b": MQTT}}, "the name the text 'a b' is not allowed; allowed is a text of 1 to 64 letters"),
        ({"sources": {"a": {**MQTT, "topic": "x"}}}, "sources.a.topic is not a key of [sources.a]"),
        ({"sources": {"a": {**MQTT, "silence_s": -1}}}, "sources.a.silence_s is -1; allowed is a number from 0"),
        ({"sources": {"a": {**MQTT, "broker": {"prot": 1}}}}, "sources.a.broker.prot is not a key"),
        ({"sources": {"a": {**MQTT, "broker": {"host": "hub"}}}}, "sources.a: broker.host is 'hub', which is not this"),
        ({"sources": {"a": {**MQTT, "fields": {"t": "x..y"}}}}, "sources.a: the path 'x..y' cannot be read from"),
        ({"sources": {"a": {**MQTT, "time": "["}}}, "sources.a: the path '[' cannot be read"),
        ({"sources": {"a": {**MQTT, "limits": {"u": [0, 1]}}}}, "limits names 'u', which is none of the channels"),
        ({"sources": {"a": {**MQTT, "limits": {"t": [1, 0]}}}}, "limits of 't' are [1, 0]: the lowest value comes"),
        ({"sources": {"a": {**MQTT, "topics": ["a/#/b"]}}}, "topic filter 'a/#/b' has a wildcard in a wrong place"),
        ({"sources": {"a": {**MQTT, "topics": []}}}, "sources.a: topics is missing"),
        ({"sources": {"a": {**MQTT, "fields": {}}}}, "sources.a: topics and fields belong together"),
        ({"sources": {"a": {**MQTT, "label_until": "x"}}}, "label_until needs label_from"),
        ({"sources": {"a": {**CSV, "fields": {}}}}, "sources.a: fields is missing"),
        ({"sources": {"a": {**CSV, "kind": "npz"}}}, "either time (the array of times) or interval_s is needed"),
        (
            {"sources": {"a": {"kind": "npz", "path": "x", "time": "t", "fields": {"t": "a.b"}}}},
            "'a.b' is no array, nor a column of one",
        ),
        ({"sources": {"a": {"kind": "plugin", "plugin": "x"}}}, "sources.a: fields is missing"),
        ({"samples": {"commit_s": 0}, "sources": {"a": MQTT}}, "samples.commit_s is 0; allowed is a number above 0"),
    ],
)
def test_mistakes_are_named(tables: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(**tables)
    assert fault in str(caught.value)


def test_a_broker_elsewhere_is_fine_with_tls_or_where_it_is_allowed() -> None:
    broker = {"host": "hub"}
    settings(sources={"a": {**MQTT, "broker": {**broker, "tls": {"ca": "ca.pem"}}}})
    settings(sources={"a": {**MQTT, "broker": broker}}, security={"insecure": True})


def test_columns_of_csv_files_may_have_any_name() -> None:
    settings(sources={"a": {**CSV, "fields": {"t": "Temp [°C] ..x"}, "time": "Date / Time"}})
