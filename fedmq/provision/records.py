"""What a keystore remembers, as values. Times are whole seconds since 1970, UTC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fedmq.provision.names import Subject

KeyKind: TypeAlias = Literal["signing", "sealing"]
KeyPlace: TypeAlias = Literal["next", "current", "previous"]
Suite: TypeAlias = Literal["x25519", "mlkem768-x25519"]

DAY_S = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Whose keystore this is."""

    name: str
    hosts: tuple[str, ...]
    """The broker's names and addresses; clients are told the first."""
    port: int
    suite: Suite
    made: int
    ca: bytes
    """The authority's certificate, PEM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One that was issued. Of those of one bearer the newest is ``current``; older ones stay valid beside it."""

    serial: int
    subject: Subject
    issued: int
    not_before: int
    not_after: int
    pem: bytes
    key: bytes | None = None
    """The private key (PEM) of broker and aggregator. A bearer of a bundle alone has his."""
    current: bool = True
    revoked: int | None = None

    @property
    def serial_hex(self) -> str:
        """The serial number as openssl writes it."""
        text = f"{self.serial:X}"
        return text.rjust(len(text) + len(text) % 2, "0")

    def works(self, now: int) -> bool:
        """Whether a broker takes it."""
        return self.revoked is None and self.not_before <= now <= self.not_after


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationKey:
    """A signing or a sealing key."""

    kind: KeyKind
    id: str
    """16 hexadecimal digits, as messages name it."""
    place: KeyPlace
    private: bytes
    """PEM."""
    public: bytes
    """Raw."""
    made: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Crl:
    """The current list of revoked certificates."""

    pem: bytes
    number: int
    next_update: int


def key_at(keys: Iterable[FederationKey], place: KeyPlace) -> FederationKey | None:
    """Return the key of one kind that is in this place."""
    return next((key for key in keys if key.place == place), None)
