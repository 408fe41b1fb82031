"""The folder of a federation: who is in it, one process at a time, and what a killed one has left.

    keystore.sqlite     the index, and all private keys but the authority's: the truth
    ca.key              the authority's key; may be kept elsewhere while nothing is issued or revoked
    bundles/ monitors/  what is carried to devices and monitors
    broker/ aggregator/ sites/    made of the index, ready to copy

A step counts from the moment at which the index has it. Bundles are written aside before that, and get their names
after it; everything else is made after it, and made again by the next command if this one is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from fedmq.provision import files
from fedmq.provision.authority import Credential, read_credential
from fedmq.provision.exports import AGGREGATOR_FOLDER, GENERATED, Content, Holdings, Site, aggregator_files, all_files
from fedmq.provision.index import Index, IndexDamagedError
from fedmq.provision.names import AGGREGATOR, BROKER, Subject, common_name
from fedmq.provision.records import Certificate
from fedmq.provision.texts import aggregator_block, aggregator_toml
from protocol.toml_block import with_block

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

INDEX = "keystore.sqlite"
CA_KEY = "ca.key"
LOCK = "lock"
BUNDLE_FOLDERS = {"device": "bundles", "monitor": "monitors"}
CONFIGURATION = "aggregator.toml"


class KeystoreError(RuntimeError):
    """Something the operator has to know, and what to do about it."""


class Keystore:
    """An open keystore. Writing commands get theirs from ``writing``, which lets in one at a time."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.index = index

    # -- what is in it

    def authority(self) -> Credential:
        """Return the federation's authority with its key, to issue or revoke something."""
        path = self.folder / CA_KEY
        try:
            mode = path.stat().st_mode
            key = path.read_bytes()
        except FileNotFoundError as exc:
            raise KeystoreError(f"{path} is missing, and nothing is issued or revoked without it: put it back") from exc
        except OSError as exc:
            raise KeystoreError(f"{path}: {exc.strerror or exc}") from exc
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeystoreError(f"{path}: others than its owner can get at it; chmod 600 {path}")
        try:
            return read_credential(self.index.federation().ca, key)
        except ValueError as exc:
            raise KeystoreError(f"{path} is not the key of this federation's authority: {exc}") from exc

    def holdings(self) -> Holdings:
        """Return what the files are made of."""
        return Holdings(
            federation=self.index.federation(),
            broker=self._current(BROKER),
            aggregator=self._current(AGGREGATOR),
            signing=self.index.keys("signing"),
            sealing=self.index.keys("sealing"),
            crl=self.index.crl(),
            monitors=[one.subject.name for one in self.index.certificates("monitor") if _in_force(one)],
            sites=[
                Site(name=one.subject.name, bridge=one, broker=self._current(Subject("broker", one.subject.name)))
                for one in self.index.certificates("bridge")
                if _in_force(one)
            ],
            revoked=[common_name(subject) for subject in self.index.revoked_subjects()],
        )

    def bundle_path(self, subject: Subject) -> Path:
        """Return where the bearer's bundle is, or would be."""
        return self.folder / BUNDLE_FOLDERS[subject.role] / f"{subject.name}.fedmq"

    def _current(self, subject: Subject) -> Certificate:
        found = self.index.current(subject)
        if found is None:
            raise KeystoreError(f"{self.folder / INDEX} knows no {subject}: restore it from a backup")
        return found

    # -- bundles

    def stage(self, bundles: Mapping[Certificate, bytes]) -> None:
        """Write bundles aside, to the disk, before the index has their certificates."""
        staged = [(self._staged(certificate), content) for certificate, content in bundles.items()]
        files.write_many(staged)

    def unveil(self, certificates: Mapping[Certificate, bytes]) -> None:
        """Give staged bundles their names, after the index has their certificates."""
        for certificate in certificates:
            os.replace(self._staged(certificate), self.bundle_path(certificate.subject))  # noqa: PTH105 - as in files
        for folder in {self.bundle_path(certificate.subject).parent for certificate in certificates}:
            files.sync_folder(folder)

    def _staged(self, certificate: Certificate) -> Path:
        return self.bundle_path(certificate.subject).parent / f"{files.TEMPORARY}{certificate.serial:x}"

    def recover(self) -> None:
        """Finish or undo what a killed process began."""
        files.sweep(self.folder)
        for folder in BUNDLE_FOLDERS.values():
            (self.folder / folder).mkdir(mode=0o700, exist_ok=True)
            for path in (self.folder / folder).glob(f"{files.TEMPORARY}*"):
                self._recover_bundle(path)
        for subject in self.index.revoked_subjects():
            if subject.role in BUNDLE_FOLDERS:
                self.bundle_path(subject).unlink(missing_ok=True)

    def _recover_bundle(self, path: Path) -> None:
        try:
            found = self.index.by_serial(int(path.name.removeprefix(files.TEMPORARY), 16))
        except ValueError:
            found = None
        if found is not None and _in_force(found):
            os.replace(path, self.bundle_path(found.subject))  # noqa: PTH105 - as in files
            files.sync_folder(path.parent)
        else:
            path.unlink(missing_ok=True)

    # -- what it shows

    def export(self) -> None:
        """Bring all files that are made of the index up to date; touch no other."""
        holdings = self.holdings()
        update(self.folder, all_files(holdings))
        folder = self.folder / AGGREGATOR_FOLDER
        update_configuration(folder / CONFIGURATION, holdings, state_dir="aggregator-state")
        sweep_keys(folder, holdings)


def update(folder: Path, wanted: Mapping[str, Content], owner: files.Owner | None = None) -> list[Path]:
    """Write the files that are missing or differ, in this order; return them. Mends loose modes too."""
    written = []
    for name, content in wanted.items():
        path = folder / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        files.sweep(path.parent)
        if _differs(path, content, owner):
            files.write_whole(path, content.data, files.SECRET if content.secret else files.PUBLIC, owner)
            written.append(path)
    return written


def update_configuration(path: Path, holdings: Holdings, *, state_dir: str) -> bool:
    """Write aggregator.toml, or in one that is there the block that changes with keys; return whether it changed."""
    made = aggregator_block(holdings.signing, holdings.sealing)
    try:
        before = files.read_own(path).decode()
    except FileNotFoundError:
        before = ""
        text = aggregator_toml(holdings.federation, holdings.federation.hosts[0], state_dir, made)
    else:
        text = with_block(before, made)
    if text != before:
        files.write_public(path, text.encode())
    return text != before


def sweep_keys(folder: Path, holdings: Holdings) -> None:
    """Remove the keys that have been replaced, now that the configuration names them no more."""
    wanted = aggregator_files(holdings)
    for pattern in GENERATED:
        for path in folder.glob(pattern):
            if path.name not in wanted:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[Keystore]:
    """Open the keystore to look at it; other processes may be at work."""
    index = _opened(folder)
    try:
        yield Keystore(folder, index)
    finally:
        index.close()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Keystore]:
    """Open the keystore alone, finish what a killed process began, and bring its files up to date at the end."""
    if not (folder / INDEX).exists():
        _opened(folder)
    with locked(folder):
        index = _opened(folder)
        try:
            keystore = Keystore(folder, index)
            keystore.recover()
            yield keystore
            keystore.export()
        finally:
            index.close()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; raise ``KeystoreError`` when somebody else does."""
    try:
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise KeystoreError(f"{folder}: cannot be written to: {exc.strerror or exc}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise KeystoreError(f"another fedmq provision is at work in {folder}: wait for it, and try again") from exc
    try:
        yield
    finally:
        os.close(fd)


def _opened(folder: Path) -> Index:
    path = folder / INDEX
    try:
        there = path.exists()
    except OSError as exc:
        raise KeystoreError(f"{folder}: {exc.strerror or exc}") from exc
    if there:
        try:
            index = Index(path)
        except (IndexDamagedError, OSError) as exc:
            raise KeystoreError(str(exc)) from exc
        if index.made:
            return index
        index.close()
    raise KeystoreError(
        f"there is no keystore in {folder}: make one with fedmq provision init, or name its folder with --keystore"
    )


def _differs(path: Path, content: Content, owner: files.Owner | None) -> bool:
    try:
        status = path.stat()
        loose = content.secret and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        foreign = owner is not None and (status.st_uid, status.st_gid) != owner
        return bool(loose) or foreign or path.read_bytes() != content.data
    except OSError:
        return True


def _in_force(certificate: Certificate) -> bool:
    return certificate.current and certificate.revoked is None
