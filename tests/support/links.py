"""Links with an inbox, stopped after the test. A plugin, named in tests/conftest.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from protocol.adapters.mqtt import MqttLink
from protocol.link import BrokerSettings, LinkUp, Published, Subscribed
from tests.support.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = {"reconnect_min_s": 0.05, "reconnect_max_s": 0.2}


class Peer:
    """A link and what it told; its first connection is waited for by ``up``."""

    def __init__(self, port: int, client_id: str, settings: dict[str, Any], options: dict[str, Any]) -> None:
        self.inbox = Inbox()
        whole = msgspec.convert({"port": port, **QUICK, **settings}, BrokerSettings)
        self.link = MqttLink(whole, client_id, self.inbox, **options)

    def up(self) -> LinkUp:
        return self.inbox.wait(LinkUp)

    def subscribe(self, *topics: str, qos: int = 1) -> None:
        assert self.link.subscribe(topics, qos)
        assert self.inbox.wait(Subscribed).refused == ()

    def publish(self, topic: str, payload: bytes, **options: Any) -> None:
        """Publish and wait until the broker has it."""
        assert self.link.publish(topic, payload, token="sent", **options)
        assert self.inbox.wait(Published, lambda event: event.token == "sent").error == ""


class Links:
    """Makes peers."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.peers: list[Peer] = []
        self._settings = settings

    def __call__(self, port: int, client_id: str = "tester", *, start: bool = True, **options: Any) -> Peer:
        """Return a started peer; ``settings`` are those of the broker, other options those of the link."""
        settings = {**self._settings, **options.pop("settings", {})}
        peer = Peer(port, client_id, settings, options)
        self.peers.append(peer)
        if start:
            peer.link.start()
        return peer


@pytest.fixture
def links(transport: str, request: pytest.FixtureRequest) -> Iterator[Links]:
    """Make links that are stopped in the end."""
    made = Links(request.getfixturevalue("me") if transport == "tls" else {})
    yield made
    for peer in made.peers:
        peer.link.stop()
