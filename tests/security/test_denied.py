"""A link whose messages the broker does not take says so, once: there is no other sign of a revoked certificate."""

from __future__ import annotations

import logging
from queue import Queue

import pytest

from fedmq.embedded_broker import HOST, EmbeddedBroker
from protocol.adapters.mqtt import MqttLink
from protocol.link import BrokerSettings, LinkEvent, LinkUp, Published, TlsSettings
from tests.support.patience import PATIENCE_S
from tests.support.secure import TOPICS, Keys


def test_a_publish_that_is_not_allowed_is_logged_once(
    secured: tuple[EmbeddedBroker, Keys], caplog: pytest.LogCaptureFixture
) -> None:
    broker, keys = secured
    keys.client("press-07")
    certificate, key = (str(path) for path in keys.paths("press-07"))
    tls = TlsSettings(ca=str(keys.folder / "ca.crt"), certificate=certificate, key=key)
    events: Queue[LinkEvent] = Queue()

    def deliver(event: LinkEvent) -> bool:
        events.put(event)
        return True

    link = MqttLink(BrokerSettings(host=HOST, port=broker.port, tls=tls), "press-07", deliver)
    with caplog.at_level(logging.WARNING):
        link.start()
        assert isinstance(events.get(timeout=PATIENCE_S), LinkUp)
        for token in ("one", "two"):
            link.publish(TOPICS.device_state("press-08"), b"x", token=token)
            assert events.get(timeout=PATIENCE_S) == Published(token=token, error="Not authorized")
        link.publish(TOPICS.device_state("press-07"), b"x", token="own")
        assert events.get(timeout=PATIENCE_S) == Published(token="own")
        link.stop()

    told = [record.message for record in caplog.records if "does not take" in record.message]
    assert len(told) == 1
    assert TOPICS.device_state("press-08") in told[0]
