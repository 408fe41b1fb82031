"""Puts the files of broker and aggregator where Debian's Mosquitto and the aggregator look for them."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import broker_config
from fedmq.provision.exports import Holdings, aggregator_files, broker_files
from fedmq.provision.keystore import CONFIGURATION, KeystoreError, sweep_keys, update, update_configuration
from fedmq.provision.texts import AGGREGATOR_STATE

if TYPE_CHECKING:
    from collections.abc import Iterator

What: TypeAlias = Literal["broker", "aggregator"]

BROKER_USER = "mosquitto"
AGGREGATOR_USER = "fedmq"
"""Owns the aggregator's files where there is such a user."""

CONFIGURATION_AT = "etc/mosquitto/conf.d/fedmq.conf"
DROP_IN_AT = "etc/systemd/system/mosquitto.service.d/fedmq.conf"
DROP_IN = "mosquitto.service.conf"
AGGREGATOR_AT = "etc/fedmq/aggregator"


@dataclass(frozen=True, slots=True)
class Installed:
    """What has changed."""

    written: tuple[Path, ...]
    restart: bool
    """Mosquitto has to be restarted; otherwise a reload suffices."""


def check_allowed(root: Path, what: set[What], owner: str = "") -> None:
    """Raise ``KeystoreError``, before anything is done, when this user or this machine cannot take the files."""
    if root != Path("/"):
        return
    if os.geteuid() != 0:
        raise KeystoreError("installing writes to /etc, and that takes root: run this command with sudo")
    if "broker" in what and _owner(root, BROKER_USER) is None:
        raise KeystoreError(
            "there is no user mosquitto on this machine: apt install mosquitto first, or copy broker/ to the "
            "broker's machine"
        )
    if owner and _owner(root, owner) is None:
        raise KeystoreError(f"there is no user {owner} on this machine")


def install_broker(holdings: Holdings, root: Path) -> Installed:
    """Put the broker's files in place, owned by Mosquitto's user, and return those that differed."""
    contents = broker_files(holdings)
    directory = root / broker_config.DIRECTORY.lstrip("/")
    placed = {
        CONFIGURATION_AT: contents.pop(broker_config.CONFIGURATION),
        DROP_IN_AT: contents.pop(DROP_IN),
    }
    owner = _owner(root, BROKER_USER)
    written = update(directory, contents, owner)
    elsewhere = update(root, placed)
    return Installed((*written, *elsewhere), restart=bool(elsewhere))


def install_aggregator(holdings: Holdings, root: Path, user: str = "") -> Installed:
    """Put the aggregator's files in place; of an aggregator.toml that is there only its block of identity changes.

    They belong to ``user``; to the owner that the folder has, if none is named.
    """
    folder = root / AGGREGATOR_AT
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    owner = _owner(root, user) if user else None
    if owner is not None:
        os.chown(folder, *owner)
    elif _owner(root, AGGREGATOR_USER) and folder.stat().st_uid == 0:
        owner = _owner(root, AGGREGATOR_USER)
    written = update(folder, aggregator_files(holdings), owner)
    if update_configuration(folder / CONFIGURATION, holdings, state_dir=AGGREGATOR_STATE):
        written.append(folder / CONFIGURATION)
    sweep_keys(folder, holdings)
    return Installed(tuple(written), restart=False)


def outdated(holdings: Holdings, root: Path) -> Iterator[Path]:
    """Yield the broker's files that are installed on this machine, for this federation, and are not up to date."""
    directory = root / broker_config.DIRECTORY.lstrip("/")
    if _read(directory / "ca.crt") != holdings.federation.ca:
        return
    for name, content in broker_files(holdings).items():
        path = directory / name
        if name not in (broker_config.CONFIGURATION, DROP_IN) and _read(path) not in (content.data, None):
            yield path


def _owner(root: Path, user: str) -> tuple[int, int] | None:
    if root != Path("/"):
        return None
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        return None
    return found.pw_uid, found.pw_gid


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
