"""Opening the store: making it, checking it, and starting again when it is broken."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from aggregator.adapters.deltas import SUFFIXES, DeltaFiles
from aggregator.adapters.errors import StoreDamaged, StoreError, StoreRefused, translated
from aggregator.adapters.lock import StateLock
from aggregator.adapters.restoring import instances_of, read_meta, restored
from aggregator.adapters.rows import json_of
from aggregator.adapters.schema import (
    APPLICATION_ID,
    DATABASE_NAME,
    SCHEMA_VERSION,
    TABLES,
    connect,
    tables_of,
    upgrade,
)
from aggregator.adapters.snapshot import Snapshot, read_snapshot
from aggregator.adapters.store import Store, initial_meta, put_meta, save_version
from aggregator.adapters.term_rows import note_terms
from aggregator.configuration import RegistryTable
from aggregator.numbering import next_generation, next_number
from aggregator.records import Counters, Findings, ServerState, Shelf, VersionRecord

log = logging.getLogger(__name__)

FirstVersion: TypeAlias = tuple[VersionRecord, ServerState, tuple[Shelf, ...]]

MAX_CHECKED_BYTES = 256 * 1024 * 1024
"""Up to this size the whole file is checked at the start (about a second); of a larger one, what is read."""

KEPT_WRECKS = 5
"""So many broken databases are kept to be looked at."""

KEPT_INSTANCES = 64
"""Starts that a store remembers; what older ones said has long been replaced at the broker."""

_PARTS = ("-wal", "-shm", *SUFFIXES, "")
"""What the files of a database are called behind its name; the database itself goes last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Founding:
    """What a store is for, and how it begins."""

    federation: str
    layout: str
    spec: dict[str, Any]
    features: dict[str, Any] = field(default_factory=dict)
    """The pipeline as data; empty: devices have ready examples."""
    meaning: str = ""
    """Digest of what the pipeline's inputs mean; empty without one."""
    backbone: str = ""
    """Digest of the frozen network before the model; empty: there is none."""
    shared: str = ""
    """Digest of the layout of updates; empty: the model's."""
    terms: dict[str, Any] = field(default_factory=dict)
    """Under which versions are made, see ``aggregator.terms``."""
    begin: Callable[[], FirstVersion]
    """Makes version 0."""
    go_on: Callable[[int, bytes], FirstVersion]
    """Makes the first version of a new epoch from the number and the parameters of the last one of the old."""
    clock: Callable[[], float] = time.time
    date: Callable[[], float] | None = None
    """The clock for the number of a signed epoch: may wait, raises ``ValueError`` when it cannot be right."""
    signed: bool = False
    """Whether devices hold the numbers of epochs against us."""


def open_store(directory: Path, founding: Founding, limits: RegistryTable) -> Store:
    """Return the store in ``directory``, made when it is not there, begun anew when it is broken.

    Raise ``StoreInUse``, ``StoreRefused`` (it belongs to something else), ``StoreError`` (the disk).
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = StateLock(directory)
    except OSError as exc:
        raise StoreError(f"state_dir {directory} cannot be written: {exc.strerror or exc}") from exc
    try:
        return _open_locked(directory, founding, limits, lock)
    except BaseException:
        lock.release()
        raise


def _open_locked(directory: Path, founding: Founding, limits: RegistryTable, lock: StateLock) -> Store:
    path = directory / DATABASE_NAME
    try:
        return _opened(path, founding, limits, lock)
    except StoreDamaged as exc:
        wreck = _set_aside(path)
        log.error(f"the store is broken ({exc}); kept as {wreck}; beginning a new one")  # noqa: TRY400 - a traceback says no more
        return _opened(path, founding, limits, lock)


def _opened(path: Path, founding: Founding, limits: RegistryTable, lock: StateLock) -> Store:
    try:
        db = connect(path)
    except sqlite3.Error as exc:
        raise translated(exc, path) from exc
    try:
        if _is_new(db, path):
            _found(db, path.parent, founding)
        else:
            _check(db, path, founding)
            note_terms(db, founding.terms)
        _note_this_start(db, founding.clock())
        return Store(path, db, lock, limits)
    except sqlite3.Error as exc:
        db.close()
        raise translated(exc, path) from exc
    except BaseException:
        db.close()
        raise


def _is_new(db: sqlite3.Connection, path: Path) -> bool:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    application = db.execute("PRAGMA application_id").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not (version or application or tables):
        return True
    if application != APPLICATION_ID:
        raise StoreRefused(f"{path} is a database of another program; choose another state_dir")
    if version > SCHEMA_VERSION:
        raise StoreRefused(
            f"{path} was written by a newer fedmq (schema {version}, this one knows {SCHEMA_VERSION}); "
            "install that version again, or choose another state_dir"
        )
    return False


def _check(db: sqlite3.Connection, path: Path, founding: Founding) -> None:
    if path.stat().st_size <= MAX_CHECKED_BYTES:
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StoreDamaged(f"{path}: {verdict}")
    wanted = tables_of(db.execute("PRAGMA user_version").fetchone()[0])
    missing = wanted.difference(name for (name,) in db.execute("SELECT name FROM sqlite_master"))
    if missing:
        raise StoreDamaged(f"{path}: there is no table {min(missing)}")
    try:
        _number_old_store(db)
        _check_owner(db, path, founding)
    except KeyError as exc:
        raise StoreDamaged(f"{path}: {exc} is missing") from exc
    upgrade(db)
    # Reading it all once, now: whatever is broken is found while something can be done about it.
    deltas = DeltaFiles(path)
    try:
        restored(db, deltas)
    finally:
        deltas.close()


def _number_old_store(db: sqlite3.Connection) -> None:
    """Give a store from before epochs were numbered the time at which it was made."""
    meta = read_meta(db)
    if "generation" not in meta:
        put_meta(db, {"generation": str(int(float(meta["created"]) * 1000)), "issued": "0"})


def _note_this_start(db: sqlite3.Connection, wall: float) -> None:
    meta = read_meta(db)
    instances = (*instances_of(meta), secrets.token_hex(8))[-KEPT_INSTANCES:]
    put_meta(db, {"issued": str(next_number(int(meta["issued"]), wall)), "instances": " ".join(instances)})


def _check_owner(db: sqlite3.Connection, path: Path, founding: Founding) -> None:
    meta = read_meta(db)
    if meta["federation"] != founding.federation:
        raise StoreRefused(
            f"{path} belongs to federation {meta['federation']!r}, the configuration says {founding.federation!r}; "
            "each federation needs a state_dir of its own"
        )
    if meta["layout"] != founding.layout:
        raise StoreRefused(
            f"{path} holds a model of another shape than the configuration describes: {meta['spec']!s} there; "
            "set [model] back to that, or choose another state_dir to begin anew"
        )
    if json.loads(meta["spec"]) != founding.spec:
        put_meta(db, {"spec": json.dumps(founding.spec)})
        log.warning(f"[model] was changed from {meta['spec']!s}; its shape is the same, so training goes on")
    _check_backbone(path, founding, meta)
    _check_features(db, path, founding, meta)
    # A store from before there was anything private is one of updates that hold everything.
    if meta.get("shared", meta["layout"]) != (founding.shared or founding.layout):
        raise StoreRefused(
            f"{path} holds updates of other parameters than [personal] now leaves to be shared: private is another "
            "list than it was. Set it back, or choose another state_dir to begin anew"
        )


def _check_backbone(path: Path, founding: Founding, meta: dict[str, Any]) -> None:
    then = str(meta.get("backbone", ""))
    if then != founding.backbone:
        before, now = (
            f"the one whose SHA-256 is {digest}" if digest else "none" for digest in (then, founding.backbone)
        )
        raise StoreRefused(
            f"{path} holds a model of other inputs than the backbone gives: there it is {before}, [backbone] path now "
            f"names {now}; what was learned would mean something else. Put the file back, or choose another "
            "state_dir to begin anew with this one"
        )


def _check_features(db: sqlite3.Connection, path: Path, founding: Founding, meta: dict[str, Any]) -> None:
    # A store from before there were pipelines is one of ready examples.
    then = str(meta.get("features", "{}"))
    if meta.get("meaning", "") != founding.meaning:
        before = then if json.loads(then) else "ready examples, without [features]"
        raise StoreRefused(
            f"{path} holds a model of other inputs than [features] describes: {before} there; the shape is the same, "
            "but what was learned means something else. Set [features] back to that, or choose another federation and "
            "state_dir to begin anew"
        )
    if json.loads(then) != founding.features:
        put_meta(db, {"features": json.dumps(founding.features)})
        log.warning(f"[features] was changed from {then}; inputs mean the same, so training goes on")


def _found(db: sqlite3.Connection, directory: Path, founding: Founding) -> None:
    snapshot = read_snapshot(directory, founding.federation, founding.layout, founding.meaning)
    try:
        # Where nobody holds numbers against us nobody need wait for the date either.
        wall = founding.date() if founding.signed and founding.date else founding.clock()
        generation = next_generation(snapshot.generation if snapshot else 0, wall, signed=founding.signed)
    except ValueError as exc:
        raise StoreError(f"{directory}: {exc}") from exc
    if snapshot is None:
        version, server, shelf = founding.begin()
        store_id, instances = secrets.token_hex(8), ""
        log.info(f"new store for federation {founding.federation}: version {version.version}")
    else:
        version, server, shelf = founding.go_on(snapshot.version, snapshot.parameters)
        shelf, store_id, instances = _together(snapshot, shelf), snapshot.store_id, " ".join(snapshot.instances)
        log.warning(
            f"no store, but a snapshot: going on with version {version.version} in a new epoch; "
            "lineage, fleet and what was in the open buffer are lost"
        )
    meta = {
        **initial_meta(Counters()),
        "created": str(founding.clock()),
        "epoch": secrets.token_hex(8),
        "generation": str(generation),
        "issued": str(generation),
        "store_id": store_id,
        "instances": instances,
        "federation": founding.federation,
        "layout": founding.layout,
        "spec": json.dumps(founding.spec),
        "features": json.dumps(founding.features),
        "meaning": founding.meaning,
        "backbone": founding.backbone,
        "shared": founding.shared or founding.layout,
        "shelf": json_of(shelf),
        "findings": json_of(snapshot.findings if snapshot else Findings()),
    }
    # executescript commits a transaction that is open, so the script holds the BEGIN itself.
    db.executescript(f"BEGIN IMMEDIATE;{TABLES}")
    put_meta(db, meta)
    note_terms(db, founding.terms)
    save_version(db, version, server)
    db.execute("COMMIT")


def _together(snapshot: Snapshot, fresh: tuple[Shelf, ...]) -> tuple[Shelf, ...]:
    digests = {shelf.digest for shelf in fresh}
    return (*(shelf for shelf in snapshot.shelf if shelf.digest not in digests), *fresh)


def _set_aside(path: Path) -> Path:
    """Rename the database with all that belongs to it; keep no more than ``KEPT_WRECKS`` such."""
    pattern = re.compile(re.escape(path.name) + r"\.corrupt-(\d+)")
    numbers = sorted(int(m[1]) for f in path.parent.iterdir() if (m := pattern.fullmatch(f.name)))
    wreck = path.with_name(f"{path.name}.corrupt-{max(numbers, default=0) + 1}")
    for old in numbers[: max(0, len(numbers) + 1 - KEPT_WRECKS)]:
        for suffix in _PARTS:
            path.with_name(f"{path.name}.corrupt-{old}{suffix}").unlink(missing_ok=True)
    for suffix in _PARTS:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(wreck.with_name(wreck.name + suffix))
    return wreck
