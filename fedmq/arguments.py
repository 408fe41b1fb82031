"""Checks what the command line says, and says what is allowed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import typer

from protocol.errors import ProtocolError
from protocol.identifiers import check_identifier
from protocol.link import BrokerSettings

if TYPE_CHECKING:
    from pathlib import Path

    from fedmq.embedded_broker import Kind

DEFAULT_PORT = 1883
SENSED = "watch"
"""The demo's task that sensors can measure."""
MAX_WATCHES = 7
"""One for each of those people of the study who are not strangers."""
_ADDRESS = re.compile(r"\A(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_.-]+))(?::(?P<port>[0-9]{1,5}))?\Z")


def broker_address(text: str, option: str = "--broker", default_port: int = DEFAULT_PORT) -> BrokerSettings:
    """Return the broker at ``HOST``, ``HOST:PORT`` or ``[IPv6]:PORT``; raise ``typer.BadParameter``."""
    found = _ADDRESS.match(text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no address; allowed are HOST, HOST:PORT and [IPv6]:PORT", param_hint=option
        )
    data = {"host": found["six"] or found["host"], "port": int(found["port"] or default_port)}
    try:
        return msgspec.convert({**data, "reconnect_max_s": 5.0}, BrokerSettings)
    except msgspec.ValidationError as exc:
        raise typer.BadParameter(f"{text!r}: {exc}", param_hint=option) from exc


def embedded_or_address(text: str) -> Kind | BrokerSettings:
    """Return the kind of a broker that we start ourselves, or the broker at the address."""
    match text:
        case "auto" | "mosquitto" | "iotcore":
            return text
        case _ if ":" in text:
            return broker_address(text)
    raise typer.BadParameter(f"{text!r}; allowed are auto, mosquitto, iotcore and HOST:PORT", param_hint="--broker")


def check_demo(task: str, devices: int | None, most: int, *, sensors: bool, secure: bool) -> None:
    """Raise ``typer.BadParameter`` for a demo that there is not, and name what goes together."""
    if sensors and task != SENSED:
        raise typer.BadParameter(
            f"not with --task {task}: only {SENSED} is measured by sensors; --chaos and --secure go with every task",
            param_hint="--sensors",
        )
    if sensors and secure:
        raise typer.BadParameter(
            "not with --secure: the demo's watches have no certificates; --sensors goes with --chaos",
            param_hint="--sensors",
        )
    most = MAX_WATCHES if sensors else most
    if devices is not None and devices > most:
        who = f"{most} people wear a watch" if sensors else f"the data of --task {task} suffice for {most}"
        raise typer.BadParameter(f"{devices}; {who}", param_hint="--devices")


def federation_name(text: str, option: str = "--federation") -> str:
    """Return the name when it is one; raise ``typer.BadParameter``."""
    try:
        return check_identifier(text, "federation")
    except ProtocolError as exc:
        raise typer.BadParameter(str(exc), param_hint=option) from exc


def folder_for_examples(folder: Path) -> Path:
    """Return the folder unless something else has its name; raise ``typer.BadParameter``."""
    if folder.exists() and not folder.is_dir():
        raise typer.BadParameter(f"{folder} is there, and is no folder", param_hint="DIR")
    return folder
