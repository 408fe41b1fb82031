"""What a connection to the broker tells its owner, and what it has to be told: values only.

The connection itself is ``protocol.adapters.mqtt.MqttLink``; cores and simulations know nothing but this module.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from protocol.settings import FilePath, OptionalFilePath

ProtocolChoice: TypeAlias = Literal["auto", "5", "3.1.1"]

_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){1,3}|::1", re.IGNORECASE)


class TlsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[broker.tls]`` table: encrypt, know the broker by its certificate, and be known by ours."""

    ca: FilePath
    """PEM: the authorities that may vouch for the broker, and no others."""
    certificate: OptionalFilePath = ""
    """PEM: ours, with its chain if it has one. Empty only for brokers that know their clients by password."""
    key: OptionalFilePath = ""
    """PEM, not encrypted, readable by its owner alone."""
    minimum: Literal["1.2", "1.3"] = "1.2"
    server_name: Annotated[str, Meta(max_length=253)] = ""
    """The name that the broker's certificate must have; empty: the host that we connect to."""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key belong together: set both, or neither")


class BrokerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[broker]`` table of both configuration files."""

    host: Annotated[str, Meta(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    protocol: ProtocolChoice = "auto"
    """``auto`` asks for MQTT 5 and falls back to 3.1.1 when the broker refuses it."""
    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 60
    """A connection that is silent for longer is taken for dead. It must exceed the time one chunk takes to send."""
    connect_timeout_s: Annotated[float, Meta(gt=0, le=300)] = 15.0
    reconnect_min_s: Annotated[float, Meta(gt=0, le=3600)] = 0.5
    reconnect_max_s: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    """Waits between attempts are drawn uniformly from 0 to a ceiling that doubles from min to max (full jitter)."""
    takeover_wait_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    """The ceiling of the first wait after another client has taken our identity; it doubles four times."""
    username: str = ""
    password_file: OptionalFilePath = ""
    """The password is the file's first line; never in the configuration itself."""
    tls: TlsSettings | None = None
    """None: everything is sent in the clear. Fine on the loopback interface only."""

    def check_exposure(self, *, insecure: bool, keys: str = "", missing: str = "") -> None:
        """Raise ``ValueError`` when this would talk in the clear over a network, unless ``insecure`` allows it.

        Also when ``missing`` names a setting of keys without which a broker on another machine would be believed all
        that it says; ``keys`` says how to get them.
        """
        if insecure or is_loopback(self.host):
            return
        if self.tls is None:
            raise ValueError(
                f"broker.host is {self.host!r}, which is not this machine, and there is no table [broker.tls]: anybody "
                "on the way could read and change everything. Write [broker.tls] with ca, certificate and key (fedmq "
                "provision makes them); or, where the whole network may be trusted, insecure = true in [security]"
            )
        if missing:
            raise ValueError(
                f"broker.host is {self.host!r}, which is not this machine, and security.{missing} is not set: whoever "
                f"has that broker could make up models and commands. {keys}; or, where the broker may be trusted with "
                "everything, insecure = true in [security]"
            )


def spelled(host: str) -> str | bytes:
    """Return the host as ``socket`` and ``ssl`` take it without IDNA, where it is plain ASCII anyhow.

    A name in text makes Python load the tables of Unicode to find out that there is nothing to do: 0.4 MB.
    """
    return host.encode() if host.isascii() and host.isprintable() else host


def is_loopback(host: str) -> bool:
    """Return whether the host is this machine by its spelling: localhost, 127.0.0.0/8 or ::1. No name is looked up."""
    return _LOOPBACK.fullmatch(host) is not None


class Will(Struct, frozen=True, kw_only=True):
    """What the broker publishes for us (QoS 1) when the connection dies without a goodbye."""

    topic: str
    payload: bytes
    retain: bool = True


class LinkUp(Struct, frozen=True, kw_only=True):
    """Connected. Subscribe now, every time: a broker may have forgotten everything."""

    session_present: bool
    protocol: Literal["5", "3.1.1"]


DownKind: TypeAlias = Literal[
    "lost",
    "stopped",
    "unreachable",
    "timeout",
    "refused",
    "untrusted-broker",
    "wrong-clock",
    "refused-certificate",
    "no-tls",
    "taken-over",
    "perhaps-taken-over",
    "configuration",
    "fault",
]
"""Why there is no connection, for programs: broken off (``lost``); we stopped; name or address not to be reached; no
answer in time; the broker said no; its certificate is not to be trusted; it is not valid yet, so our clock is slow; the
broker does not take our certificate; no TLS can be agreed on; another client came with our identity, for sure or (many
brokers do not say so) by all appearances; our files are not usable; a fault of ours."""


class LinkDown(Struct, frozen=True, kw_only=True):
    """An attempt to connect failed, or the connection is gone. The link goes on trying by itself."""

    reason: str
    """For people, in one line: what it was and what to do."""
    kind: DownKind = "lost"


class Received(Struct, frozen=True, kw_only=True):
    """A message. With manual acknowledgement, hand it to ``acknowledge`` when it is safe."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 1
    mid: int = 0
    """Message id in its connection; 0 for QoS 0."""
    connection: int = 0
    """Which connection it came by: acknowledgements for an older one are moot, the broker delivers again."""


class Published(Struct, frozen=True, kw_only=True):
    """The end of a publish that carried a token: ``error`` is empty when the broker took it (PUBACK).

    Not a receipt: brokers drop messages after acknowledging them. Every token is answered exactly once; those under
    way when the connection dies are answered with an error, before ``LinkDown``.
    """

    token: str
    error: str = ""


class Subscribed(Struct, frozen=True, kw_only=True):
    """The broker's answer to a subscription; ``refused`` lists the topics that it denied."""

    topics: tuple[str, ...]
    refused: tuple[str, ...] = ()


LinkEvent: TypeAlias = LinkUp | LinkDown | Received | Published | Subscribed
