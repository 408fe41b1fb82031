"""The loopback listener for anonymous readers, which is off unless it is asked for."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

import broker_config
from tests.support.secure import TOPICS, Guest, secure_broker

A = "press-07"


def test_anonymous_readers_see_the_fleet_and_no_more(tmp_path: Path) -> None:
    port = 20000 + secrets.randbelow(10000)
    with secure_broker(tmp_path, local_port=port) as (broker, keys):
        aggregator, device = keys.context(broker_config.AGGREGATOR), keys.context(A)
        with Guest(broker.port, aggregator) as sender, Guest(broker.port, device) as honest, Guest(port, None) as local:
            local.subscribe("#", "$SYS/#")
            for topic in (TOPICS.current_model, TOPICS.receipt(A), TOPICS.command_all, TOPICS.blob("a" * 64, 0)):
                sender.publish(topic)
            honest.publish(TOPICS.update(A))
            sender.publish(TOPICS.aggregator_state)
            assert local.hear().topic == TOPICS.aggregator_state
            topics = [TOPICS.update(A), TOPICS.device_state(A), TOPICS.current_model, TOPICS.aggregator_state, "any"]
            assert {local.publish(topic) for topic in topics} == {"Not authorized"}
            assert local.heard() == []


def test_it_does_not_open_the_other_listener_to_anybody(tmp_path: Path) -> None:
    with secure_broker(tmp_path, local_port=20000 + secrets.randbelow(10000)) as (broker, keys):
        context = keys.context(None)
        context.maximum_version = context.minimum_version = context.minimum_version.TLSv1_2
        with pytest.raises(OSError, match="handshake failure"):
            Guest(broker.port, context)
