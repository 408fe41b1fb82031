"""Who may hold a certificate, and under which common name. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import broker_config
from broker_config import NameRefusedError
from protocol.errors import ProtocolError
from protocol.identifiers import check_identifier
from protocol.topics import EVERYBODY

Role: TypeAlias = Literal["broker", "aggregator", "device", "monitor", "bridge"]

SINGLE = ""
"""The name of those of whom a federation has one: its aggregator, and the broker that all connect to."""


class Subject(NamedTuple):
    """Somebody with a certificate. A broker with a name is that of the site whose bridge has the same name."""

    role: Role
    name: str = SINGLE

    def __str__(self) -> str:
        """Return how people write it: a device by its id alone."""
        if self.role == "device":
            return self.name
        return f"{self.role}:{self.name}" if self.name else self.role


BROKER, AGGREGATOR = Subject("broker"), Subject("aggregator")


def common_name(subject: Subject) -> str:
    """Return the name in a client's certificate, by which the broker knows it; raise ``NameRefusedError``, with why."""
    match subject.role:
        case "aggregator":
            return broker_config.AGGREGATOR
        case "monitor":
            return broker_config.monitor(subject.name)
        case "bridge":
            return broker_config.bridge(subject.name)
        case _:
            return _device_id(subject.name)


def subject_of(text: str) -> Subject:
    """Read ``ID``, ``monitor:NAME`` or ``bridge:NAME``; raise ``NameRefusedError``."""
    head, _colon, rest = text.partition(":")
    match head:
        case "monitor" | "bridge" if rest:
            subject = Subject("monitor" if head == "monitor" else "bridge", rest)
        case _:
            subject = Subject("device", text)
    common_name(subject)
    return subject


def _device_id(text: str) -> str:
    try:
        check_identifier(text, "device id")
    except ProtocolError as exc:
        raise NameRefusedError(str(exc)) from exc
    if text == EVERYBODY:
        raise NameRefusedError(f"device id {text!r} is everybody's, in the topic of commands: choose another name")
    return text
