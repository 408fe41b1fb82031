"""``fedmq provision check``: looks at index, files, modes and clock, and at a broker that is running."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from aggregator.configuration import AggregatorSettings
from fedmq.provision import files, findings
from fedmq.provision.exports import AGGREGATOR_FOLDER, all_files
from fedmq.provision.findings import Finding
from fedmq.provision.installing import outdated
from fedmq.provision.keystore import BUNDLE_FOLDERS, CA_KEY, CONFIGURATION, INDEX, Keystore, KeystoreError
from protocol import bundles
from protocol.adapters.configuration import ConfigurationError, load
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmq.provision.records import Certificate

REPAIR = "fedmq provision check --repair"
MAX_TOLD = 5


def all_findings(keystore: Keystore, now: int) -> Iterator[Finding]:
    """Yield everything that is wrong with the keystore."""
    holdings = keystore.holdings()
    certificates = keystore.index.certificates()
    yield from findings.clock(keystore.index.latest_issue(), now)
    yield from findings.authority(holdings, now)
    yield from findings.expiries(certificates, now)
    yield from findings.pairs(holdings)
    yield from _authority_key(keystore)
    yield from loose_modes(keystore.folder)
    yield from _differing(keystore)
    yield from _configuration(keystore)
    yield from _bundles(keystore, {one.subject: one for one in certificates if one.current})
    for path in outdated(holdings, Path("/")):
        yield Finding(f"{path} is not what the keystore says now", "sudo fedmq provision install")


def _authority_key(keystore: Keystore) -> Iterator[Finding]:
    if not (keystore.folder / CA_KEY).exists():
        return  # kept elsewhere, as it should be in quiet times
    try:
        keystore.authority()
    except KeystoreError as exc:
        if "chmod" not in str(exc):  # the modes are told of below
            yield Finding(str(exc), f"put the right {CA_KEY} back, from a backup")


def loose_folder(folder: Path) -> Iterator[Finding]:
    """Yield that others may write into the keystore's folder: they could put another index in its place."""
    if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield Finding(f"others than its owner can write into {folder}", f"chmod go-w {folder}")


def loose_modes(folder: Path) -> Iterator[Finding]:
    """Yield what others than the owner can get at, though it is secret."""
    secret = [folder / CA_KEY, folder / INDEX, *folder.rglob("*.key"), *folder.rglob("*.fedmq")]
    loose = [path for path in dict.fromkeys(secret) if _is_loose(path)]
    for path in loose[:MAX_TOLD]:
        mode = stat.S_IMODE(path.stat().st_mode)
        yield Finding(f"others than its owner can get at {path} (mode {mode:04o})", f"chmod 600 {path}")
    if len(loose) > MAX_TOLD:
        rest = "find . -name '*.key' -o -name '*.fedmq' | xargs chmod 600"
        yield Finding(f"... and at {len(loose) - MAX_TOLD:,} more", f"cd {folder} && {rest}")


def _is_loose(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
    except OSError:
        return False


def _differing(keystore: Keystore) -> Iterator[Finding]:
    for name, content in all_files(keystore.holdings()).items():
        path = keystore.folder / name
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            yield Finding(f"{path} is missing", REPAIR)
        except OSError as exc:
            yield Finding(f"{path}: {exc.strerror or exc}", "run this as the keystore's owner")
        else:
            if found != content.data:
                yield Finding(f"{path} is not what the keystore says: half made, or changed by hand", REPAIR)
    for folder, _folders, names in os.walk(keystore.folder):
        if any(name.startswith(files.TEMPORARY) for name in names):
            yield Finding(f"an interrupted command left unfinished files in {folder}", REPAIR)


def _configuration(keystore: Keystore) -> Iterator[Finding]:
    path = keystore.folder / AGGREGATOR_FOLDER / CONFIGURATION
    try:
        settings = load(path, AggregatorSettings)
    except ConfigurationError as exc:
        yield Finding(str(exc), f"mend {path}, or delete it, and {REPAIR}")
        return
    hosts = keystore.index.federation().hosts
    host = (settings.broker.tls.server_name if settings.broker.tls else "") or settings.broker.host
    if host.lower() not in [name.lower() for name in hosts]:
        yield Finding(
            f"{path} looks for the broker at {host}, and its certificate is good for {', '.join(hosts)}",
            f"set host in [broker], or fedmq provision rotate broker --broker {host}",
        )


def _bundles(keystore: Keystore, current: dict[object, Certificate]) -> Iterator[Finding]:
    by_path = {keystore.bundle_path(one.subject): one for one in current.values() if one.subject.role in BUNDLE_FOLDERS}
    for folder in BUNDLE_FOLDERS.values():
        for path in sorted((keystore.folder / folder).glob("*.fedmq")):
            problem = _problem(path, by_path.get(path))
            if problem:
                yield Finding(f"{path} {problem}", f"delete it; a new one: fedmq provision rotate device {path.stem}")


def _problem(path: Path, certificate: Certificate | None) -> str:
    try:
        with path.open("rb") as file:
            bundle = bundles.decode(file.read(bundles.MAX_BUNDLE_BYTES + 1))
        serial = x509.load_pem_x509_certificate(bundle.files["certificate"].encode()).serial_number
    except OSError as exc:
        return f"cannot be read: {exc.strerror or exc}"
    except (ProtocolError, ValueError):
        return "is damaged"
    if certificate is None or certificate.serial != serial:
        return "holds a certificate that is not its bearer's current one"
    return "is revoked" if certificate.revoked is not None else ""
