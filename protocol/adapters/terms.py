"""What a link and its connections tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from protocol.link import BrokerSettings, DownKind, Received, Subscribed, Will
    from protocol.negotiation import Version


class Publish(Struct, frozen=True):
    """A message to be published; if it has a token, that is answered once."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    token: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Filters to subscribe to."""

    topics: tuple[str, ...]
    qos: int


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Filters to unsubscribe from."""

    topics: tuple[str, ...]


Job: TypeAlias = Publish | Subscribe | Unsubscribe


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms to connect."""

    settings: BrokerSettings
    client_id: str
    protocol: Version
    will: Will | None
    password: str | None
    clean_session: bool
    session_expiry_s: int
    max_packet_bytes: int
    manual_ack: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Why a connection ended."""

    reason: str
    kind: DownKind = "lost"
    version_in_doubt: bool = False
    """Refused for its version of MQTT, or cut off before any answer: the other version may do better."""
    oversized: bool = False
    """The broker sent more than we take; in a stored session it will do so again."""
    closed: bool = False
    """The broker ended it in good order and without a word: often that is all one hears of a takeover."""
    fault: Exception | None = None
    """The exception, when it was a fault of this program (or bytes that paho choked on)."""


@dataclass(slots=True)
class Counters:
    """What passed through a link since it was made."""

    bytes_sent: int = 0
    """Payload bytes handed over for sending."""
    bytes_received: int = 0
    """Payload bytes received."""
    dropped: int = 0
    """Messages for which the owner had no room."""
    reconnects: int = 0
    """Connections after the first."""


class Owner(Protocol):
    """Whom a connection tells what happens; always in the loop's thread."""

    def came_up(self, *, session_present: bool) -> None:
        """Take note that the broker accepted the connection."""

    def got(self, received: Received) -> bool:
        """Take a message; return whether there was room for it."""

    def settled(self, job: Publish, error: str) -> None:
        """Take note of the end of a publish, a good one if ``error`` is empty."""

    def denied(self, topic: str, error: str) -> None:
        """Take note that the broker does not take what we publish there."""

    def subscribed(self, event: Subscribed) -> None:
        """Take note of the broker's answer to a subscription."""

    def next_job(self) -> Job | None:
        """Return what to do next."""

    def lost(self, loss: Loss) -> None:
        """Take note that the connection is gone. Called once, after all publishes were settled."""


def taken_over(client_id: str) -> str:
    """Return in words that somebody else has our identity."""
    return (
        f"another client came with our identity ({client_id}), and a broker keeps only one of them: look for a copy of "
        "this configuration, or of its certificate, on another machine"
    )


def perhaps_taken_over(client_id: str) -> str:
    """Return the same in words for a broker that does not say why it closes connections."""
    return (
        f"the broker closes every connection soon and without a word: perhaps another client has our identity "
        f"({client_id}), as a copy of this configuration or certificate would; see the broker's log"
    )


def fault_text(exc: Exception) -> str:
    """Return the fault in words for a log and for ``LinkDown``."""
    return f"fault: {type(exc).__name__}: {exc}"[:200]
