"""The current version in a file of its own: what a store that was lost starts again from."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from aggregator.records import Findings, Restored, Shelf, VersionRecord
from models import Model
from protocol.adapters.repeats import Repeats
from protocol.chunks import digest_of

log = logging.getLogger(__name__)

SNAPSHOT_NAME = "latest-version.msgpack"

INTERVAL_S = 10.0
"""What a lost store can cost at most, in training time; and how much writing a federation in a hurry causes."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """The file's content."""

    federation: str
    store_id: str
    """So that the session at the broker goes on, and is not left there to fill with messages."""
    instances: tuple[str, ...] = ()
    generation: int = 0
    """The epoch's: the next one has to be above it."""
    layout: str
    spec: dict[str, Any]
    meaning: str = ""
    """Digest of what the model's inputs mean."""
    version: int
    parameters: bytes
    digest: str
    shelf: tuple[Shelf, ...] = ()
    """Blobs that lie on the broker."""
    findings: Findings = Findings()
    """What surveys found about the fleet's data: in a new epoch it is as true."""


def write_snapshot(directory: Path, snapshot: Snapshot) -> None:
    """Replace the file; a crash at any moment leaves the old one or the new one. Raise ``OSError``."""
    path = directory / SNAPSHOT_NAME
    fresh = path.with_name(SNAPSHOT_NAME + ".new")
    with fresh.open("wb") as file:
        file.write(msgspec.msgpack.encode(snapshot))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_snapshot(directory: Path, federation: str, layout: str, meaning: str = "") -> Snapshot | None:
    """Return the snapshot when there is one that is whole and of this federation, model and inputs, else None."""
    try:
        snapshot = msgspec.msgpack.decode((directory / SNAPSHOT_NAME).read_bytes(), type=Snapshot)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    fits = (snapshot.federation, snapshot.layout, snapshot.meaning) == (federation, layout, meaning)
    return snapshot if fits and digest_of(snapshot.parameters) == snapshot.digest else None


class SnapshotKeeper:
    """Writes the snapshot when the version has changed, but not too often."""

    def __init__(self, directory: Path, federation: str, model: Model, restored: Restored, meaning: str = "") -> None:
        self._directory = directory
        self._federation = federation
        self._store_id = restored.store_id
        self._instances = restored.instances
        self._generation = restored.generation
        self._model = model
        self._meaning = meaning
        self._findings = restored.findings
        self._latest: Snapshot | None = None
        self._pending: Snapshot | None = None
        self._not_before = -math.inf
        self._repeats = Repeats(log, "cannot write the snapshot")

    def note(self, version: VersionRecord, shelf: tuple[Shelf, ...]) -> None:
        """Remember what the next snapshot holds."""
        self._latest = self._pending = Snapshot(
            federation=self._federation,
            store_id=self._store_id,
            instances=self._instances,
            generation=self._generation,
            layout=self._model.layout.digest,
            spec=dict(self._model.spec),
            meaning=self._meaning,
            version=version.version,
            parameters=version.parameters,
            digest=version.digest,
            shelf=shelf,
            findings=self._findings,
        )

    def note_findings(self, findings: Findings) -> None:
        """Remember what goes with this version and those that come."""
        self._findings = findings
        if self._latest is not None:
            self._latest = self._pending = replace(self._latest, findings=findings)

    def wait_s(self, now: float) -> float:
        """Return after how many seconds ``write_if_due`` has something to do."""
        return max(0.0, self._not_before - now) if self._pending else math.inf

    def write_if_due(self, now: float) -> None:
        """Write what is pending, if the last time is long enough ago."""
        if self._pending and now >= self._not_before:
            self._not_before = now + INTERVAL_S
            self.write()

    def write(self) -> None:
        """Write what is pending; a failure is logged, and tried again later."""
        if self._pending is None:
            return
        try:
            write_snapshot(self._directory, self._pending)
        except OSError as exc:
            self._repeats.note(f"version {self._pending.version}: {exc.strerror or exc}")
        else:
            if tally := self._repeats.tally():
                log.info(f"the snapshot is written again{tally}")
                self._repeats.over()
            self._pending = None
