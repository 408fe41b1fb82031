"""``fedmq-agent enroll``: brings an identity from its bundle into place, whole or not at all.

The files go into a new folder of their own, ``identity-<the certificate's number>``. The agent knows of them only by
``agent.toml``, so replacing that file, by renaming, is the moment at which the device changes from the old identity to
the new one. The folder before stays, for an agent that is still running with it.
"""

from __future__ import annotations

import errno
import os
import pwd
import secrets
import shutil
import stat
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from device_agent.settings import AgentSettings
from protocol import bundles
from protocol.adapters.configuration import ConfigurationError, load
from protocol.errors import ProtocolError
from protocol.toml_block import with_block, with_value

CONFIGURATION = "agent.toml"
SYSTEM_FOLDER = Path("/etc/fedmq")
"""Where a device of its own has its identity, and in folders there one that takes part in several federations."""
UNITS = Path("/etc/systemd/system")
SYSTEM_STATE = "/var/lib/fedmq/agent"
"""The state of such a device; of those in folders with ``-NAME`` behind."""
_FOLDER = "identity-"
_TEMPORARY = ".fedmq-tmp-"


class EnrolmentError(RuntimeError):
    """Nothing has changed; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What was done."""

    configuration: Path
    folder: Path
    kept: bool
    """The configuration was there already, and only its identity has changed."""
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asks for."""

    folder: Path
    data: str | None = None
    replace: bool = False
    owner: str | None = None
    """The user that runs the agent, and is to own the key."""


def read_bundle(path: Path, now: datetime) -> bundles.Bundle:
    """Return a device's bundle after every check that can be made here; raise ``EnrolmentError``."""
    try:
        with path.open("rb") as file:
            content = file.read(bundles.MAX_BUNDLE_BYTES + 1)
        bundle = bundles.decode(content)
    except OSError as exc:
        raise EnrolmentError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except ProtocolError as exc:
        raise EnrolmentError(f"{path}: {exc}") from exc
    if bundle.role != "device":
        raise EnrolmentError(f"{path}: the bundle of {bundle.role} {bundle.name}, and not of a device")
    _check_identity(path, bundle, now)
    return bundle


def enroll(bundle: bundles.Bundle, wish: Wish) -> Enrolled:
    """Put the bundle's identity in place; raise ``EnrolmentError`` with everything as it was."""
    target = wish.folder / CONFIGURATION
    try:
        wish.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if wish.folder.stat().st_mode & stat.S_IWOTH:
            raise EnrolmentError(f"everybody can write into {wish.folder}, and would take the key: chmod o-w it")
        before = _text_at(target)
        keeps = before is not None and _keeps(target, before, bundle, wish)
        folder = wish.folder / f"{_FOLDER}{_serial(bundle)}"
        _write_identity(folder, bundle, _owner_of(wish.owner))
        text = before if keeps and before is not None else _fresh(bundle, wish.folder)
        aside = _configuration_aside(target, text, wish, folder.name)
        if before is not None and not keeps:
            _write(wish.folder / f"{CONFIGURATION}.replaced", before.encode(), 0o644)
        os.replace(aside, target)  # noqa: PTH105 - the moment that counts
        _sync(wish.folder)
        _clear_older(wish.folder, folder, before)
    except OSError as exc:
        raise EnrolmentError(f"{wish.folder}: {exc.strerror or exc}; is this run as root?") from exc
    return Enrolled(target, folder, keeps, tuple(_remarks(target, bundle)))


# -- checks


def _check_identity(path: Path, bundle: bundles.Bundle, now: datetime) -> None:
    try:
        certificate = _certificate(bundle)
        ca = x509.load_pem_x509_certificate(bundle.files["ca"].encode())
        key = serialization.load_pem_private_key(bundle.files["key"].encode(), password=None)
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature, InternalError, UnsupportedAlgorithm):
        raise EnrolmentError(f"{path}: its certificates do not fit together; have a new bundle made") from None
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in names] != [bundle.name]:
        raise EnrolmentError(f"{path}: says device {bundle.name}, but its certificate does not; have a new one made")
    if certificate.public_key() != key.public_key():
        raise EnrolmentError(f"{path}: the key is not that of the certificate; have a new bundle made")
    if certificate.not_valid_after_utc < now:
        raise EnrolmentError(
            f"{path}: the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d} (it is "
            f"{now:%Y-%m-%d} here): fedmq provision rotate device {bundle.name} makes a new bundle"
        )


def _keeps(target: Path, before: str, bundle: bundles.Bundle, wish: Wish) -> bool:
    """Whether the configuration that is there stays; raise ``EnrolmentError`` when it is somebody else's."""
    if wish.replace:
        return _owner(before) == (bundle.name, bundle.federation)
    owner = _owner(before)
    if owner is None:
        raise EnrolmentError(f"{target} is there, and is no configuration of an agent: --replace sets it aside")
    if owner != (bundle.name, bundle.federation):
        raise EnrolmentError(
            f"this is device {owner[0]} of federation {owner[1]} already, and the bundle is that of "
            f"device {bundle.name} of federation {bundle.federation}: --replace makes it that one, "
            f"and sets {CONFIGURATION} aside"
        )
    return True


def _owner(text: str) -> tuple[str, str] | None:
    try:
        device: Any = tomllib.loads(text).get("device")
        return str(device["id"]), str(device["federation"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError, RecursionError):
        return None


def _remarks(target: Path, bundle: bundles.Bundle) -> list[str]:
    settings = load(target, AgentSettings)
    remarks = []
    if (settings.broker.host, settings.broker.port) != (bundle.host, bundle.port):
        remarks.append(
            f"{target} says the broker is {settings.broker.host}:{settings.broker.port}, "
            f"the bundle {bundle.host}:{bundle.port}; the file was kept"
        )
    if settings.data.path and not Path(settings.data.path).exists():
        remarks.append(f"there is no {settings.data.path} yet: examples belong there; or set path in [data]")
    return remarks


# -- files


def _write_identity(folder: Path, bundle: bundles.Bundle, owner: tuple[int, int] | None) -> None:
    """Write the folder under another name, and rename it. One with the same certificate is as good, and stays."""
    if folder.exists():
        if owner is not None:
            _give(folder / bundles.FILE_NAMES["key"], owner)
        return
    aside = folder.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
    aside.mkdir(mode=0o755)
    for part, name in bundles.FILE_NAMES.items():
        _write(aside / name, bundle.files[part].encode(), 0o600 if part == "key" else 0o644)
    if owner is not None:
        _give(aside / bundles.FILE_NAMES["key"], owner)
    _sync(aside)
    aside.rename(folder)
    _sync(folder.parent)


def _give(key: Path, owner: tuple[int, int]) -> None:
    """Make the key its owner's, and never what a link in its place leads to: this is root."""
    fd = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_plain(fd, key)
        os.fchown(fd, *owner)
    finally:
        os.close(fd)


def _check_plain(fd: int, path: Path) -> None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise EnrolmentError(f"{path}: not a file with this one name; remove it, and enroll again")


def _owner_of(user: str | None) -> tuple[int, int] | None:
    if user is None:
        return None
    try:
        found = pwd.getpwnam(user)
    except KeyError as exc:
        raise EnrolmentError(f"there is no user {user} on this machine") from exc
    return found.pw_uid, found.pw_gid


def _fresh(bundle: bundles.Bundle, folder: Path) -> str:
    """Return the bundle's configuration, with the state where its user may write."""
    text = bundle.files["configuration"]
    if folder.absolute() == SYSTEM_FOLDER:
        return text
    try:
        return with_value(text, "device", "state_dir", _state_dir(folder.absolute()))
    except ValueError:
        return text  # says nothing of it; whatever is wrong with that is told when it is checked


def _state_dir(folder: Path) -> str:
    """Return where the unit ``fedmq-agent@NAME`` may write, for ``/etc/fedmq/NAME``; elsewhere a folder beside."""
    if folder.parent == SYSTEM_FOLDER:
        return f"{SYSTEM_STATE}-{folder.name}"
    return str(folder / "state")


def next_step(configuration: Path, *, kept: bool) -> str:
    """Return the command that has the agent take part: by its unit, where there is one for this configuration."""
    folder = configuration.parent.absolute()
    names = {SYSTEM_FOLDER: "fedmq-agent", SYSTEM_FOLDER / folder.name: f"fedmq-agent@{folder.name}"}
    name = names.get(folder)
    if name is None or not (UNITS / "fedmq-agent.service").exists():
        return f"fedmq-agent run --config {configuration}"
    return f"sudo systemctl {'restart' if kept else 'enable --now'} {name}"


def _configuration_aside(target: Path, text: str, wish: Wish, folder: str) -> Path:
    """Write the new configuration under another name, and have it checked as the agent does it."""
    text = with_block(text, bundles.identity_block(folder))
    if wish.data is not None:
        try:
            text = with_value(text, "data", "path", str(Path(wish.data).absolute()))
        except ValueError as exc:
            raise EnrolmentError(f"{target}: {exc}; set path there by hand, without --data") from exc
    aside = target.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
    _write(aside, text.encode(), 0o644)
    try:
        load(aside, AgentSettings)
    except ConfigurationError as exc:
        aside.unlink(missing_ok=True)
        told = str(exc).replace(str(aside), str(target))
        raise EnrolmentError(f"{told}\nmend the file, or set it aside with --replace") from exc
    return aside


def _write(path: Path, content: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)  # whatever lay there: nothing is written through it
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(fd, mode)  # whatever the umask is
        os.fsync(fd)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _clear_older(where: Path, current: Path, before: str | None) -> None:
    """Remove identities but the current one and the one before, and what killed processes left."""
    for path in where.glob(f"{_FOLDER}*"):
        if path.is_dir() and not path.is_symlink() and path != current and path.name not in (before or ""):
            shutil.rmtree(path, ignore_errors=True)
    for path in where.glob(f"{_TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _text_at(path: Path) -> str | None:
    # Not through a link: root may read what it leads to, and what is read here is written again for everybody.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            _check_plain(fd, path)
            return file.read().decode()
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise EnrolmentError(f"{path} is a link: put the file itself there") from exc
        raise
    except UnicodeDecodeError:
        return "?"  # no TOML either


def _certificate(bundle: bundles.Bundle) -> x509.Certificate:
    return x509.load_pem_x509_certificate(bundle.files["certificate"].encode())


def _serial(bundle: bundles.Bundle) -> str:
    return f"{_certificate(bundle).serial_number:040x}"[:16]


def today() -> datetime:
    """Return the moment."""
    return datetime.now(UTC)
