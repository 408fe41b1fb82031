"""The current version in a file of its own: what a store that was lost starts again from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from aggregator.records import Shelf
from protocol.chunks import digest_of

SNAPSHOT_NAME = "latest-version.msgpack"


class Snapshot(Struct, frozen=True, kw_only=True):
    """The file's content."""

    federation: str
    store_id: str
    """So that the session at the broker goes on, and is not left there to fill with messages."""
    layout: str
    spec: dict[str, Any]
    version: int
    parameters: bytes
    digest: str
    shelf: tuple[Shelf, ...] = ()
    """Blobs that lie on the broker."""


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


def read_snapshot(directory: Path, federation: str, layout: str) -> Snapshot | None:
    """Return the snapshot when there is one that is whole and of this federation and model, else None."""
    try:
        snapshot = msgspec.msgpack.decode((directory / SNAPSHOT_NAME).read_bytes(), type=Snapshot)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    fits = snapshot.federation == federation and snapshot.layout == layout
    return snapshot if fits and digest_of(snapshot.parameters) == snapshot.digest else None
