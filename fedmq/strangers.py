"""Who should not get in tries to: the secure demo knocks at its own broker, and counts what came of it."""

from __future__ import annotations

import queue
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.adapters.mqtt import LinkLoop, MqttLink
from protocol.adapters.tls import make_context
from protocol.link import LinkDown, LinkUp, Published

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protocol.link import BrokerSettings, LinkEvent

NOT_AUTHORIZED = "Not authorized"
"""A broker's answer to a publish that its access control forbids (MQTT 5, reason code 135)."""
CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who should be refused: at the door, or, with a certificate that is good, when it ``intrudes``."""

    who: str
    settings: BrokerSettings
    intrudes: str = ""
    """The topic that it publishes to, which is not its own."""


@dataclass(frozen=True, slots=True)
class Knock:
    """What came of a visit."""

    who: str
    refused: bool
    """By the broker, in so many words: one that is down, or does not answer, refuses nobody."""
    why: str


class Strangers:
    """All visitors at once; each tries until the broker has let it in or refused it."""

    def __init__(self, visitors: Sequence[Visitor]) -> None:
        self.knocks: list[Knock] = []
        """What is known by now."""
        self._visitors = list(visitors)
        self._loop = LinkLoop("fedmq-strangers")
        self._visits: list[_Visit] = []

    @property
    def called(self) -> bool:
        """Whether they are on their way."""
        return bool(self._visits)

    @property
    def done(self) -> bool:
        """Whether the broker has answered all of them."""
        return len(self.knocks) == len(self._visitors)

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self._visitors)

    def call(self) -> None:
        """Send them to the broker."""
        self._visits = [_Visit(visitor, self._loop) for visitor in self._visitors]

    def poll(self) -> list[Knock]:
        """Return what came of visits since the last time; never waits."""
        fresh = [knock for visit in self._visits if (knock := visit.poll()) is not None]
        self.knocks += fresh
        return fresh

    def stop(self) -> None:
        """Call them back."""
        for visit in self._visits:
            visit.stop()
        if self._visits:
            self._loop.stop()


def tls_version(settings: BrokerSettings) -> str:
    """Return the version of TLS that is agreed on with this broker, as in "TLS 1.3"; raise ``OSError``."""
    if settings.tls is None:
        return ""
    with (
        socket.create_connection((settings.host, settings.port), timeout=CONNECT_S) as raw,
        make_context(settings.tls).wrap_socket(raw, server_hostname=settings.host) as secured,
    ):
        return (secured.version() or "").replace("TLSv", "TLS ")


class _Visit:
    def __init__(self, visitor: Visitor, loop: LinkLoop) -> None:
        self._visitor = visitor
        self._events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
        self._over = False
        self._link = MqttLink(visitor.settings, f"fedmq-{secrets.token_hex(4)}", self._deliver, loop=loop)
        self._link.start()

    def poll(self) -> Knock | None:
        while not self._over:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return None
            if knock := self._judge(event):
                self._over = True
                self._link.stop()
                return knock
        return None

    def stop(self) -> None:
        self._link.stop()

    def _deliver(self, event: LinkEvent) -> bool:
        self._events.put(event)
        return True

    def _judge(self, event: LinkEvent) -> Knock | None:
        visitor = self._visitor
        match event:
            case LinkDown(kind="refused-certificate", reason=reason):
                return Knock(visitor.who, refused=True, why=reason)
            case LinkUp() if not visitor.intrudes:
                return Knock(visitor.who, refused=False, why="was let in")
            case LinkUp():
                self._link.publish(visitor.intrudes, b"{}", token="intrusion")  # noqa: S106 - no password
            case Published(error=""):
                return Knock(visitor.who, refused=False, why="got through")
            case Published(error=error) if NOT_AUTHORIZED in error:
                return Knock(visitor.who, refused=True, why=error)
        return None  # the connection is gone, or there was none: the link tries again
