"""From the sample store to a ``Series``. Imports NumPy: only the trainer's thread and whoever predicts import this."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from device_agent.adapters.leaving import leave_if, never
from device_agent.sensing.adapters.sample_store import FILE_NAME, SCHEMA_VERSION, streams_of
from models.series import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ROWS_AT_ONCE = 2048
ASK_EVERY_STEPS = 20_000
"""Of SQLite's machine: less than a millisecond."""


class SamplesError(ValueError):
    """The store cannot be read; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Which rows of which store: the same extent is the same data, as long as none of it is evicted."""

    identity: str
    """Of the store's file."""
    newest: int
    """Number of the newest row; also how many there have ever been."""
    labelled: int
    """How often labels came later."""


def extent_of(state_dir: Path) -> Extent:
    """Return what the store holds now; raise ``SamplesError``."""
    with _Opened(state_dir) as db:
        newest = db.execute("SELECT ifnull(max(id), 0) FROM samples").fetchone()[0]
        meta = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('identity', 'labelled')"))
        return Extent(identity=meta["identity"].decode(), newest=newest, labelled=int(meta.get("labelled", b"0")))


def read(
    state_dir: Path,
    channels: Sequence[str],
    *,
    upto: int | None = None,
    limit: int = 100_000,
    stopped: Callable[[], bool] = never,
) -> Series:
    """Return the newest ``limit`` rows that have one of the channels, in the order of time; raise ``SamplesError``.

    ``upto``: no row with a higher number, so that the same rows can be read again (those that were not evicted). Memory
    is bounded by ``limit``. Rows whose time is before that of an earlier row of their source are left out: a clock that
    was set back. The numbers of the series (``ids``) are those of the one source that the channels come from; where
    several sources give them, they are the times in microseconds. ``stopped`` is asked on the way: ``TaskLeftError``.
    """
    with _Opened(state_dir, stopped) as db:
        streams = _columns(db, channels)
        return _series(_Table(db, streams, upto, limit), tuple(channels), stopped)


def _columns(
    db: sqlite3.Connection, channels: Sequence[str]
) -> dict[int, tuple[str, NDArray[np.intp], NDArray[np.intp]]]:
    """Return by stream: its source, and which of its columns become which of ours."""
    found = {}
    for number, source, names in streams_of(db):
        pairs = [(names.index(name), place) for place, name in enumerate(channels) if name in names]
        if pairs:
            theirs, ours = zip(*pairs, strict=True)
            found[number] = (source, np.array(theirs, np.intp), np.array(ours, np.intp))
    return found


class _Table:
    """The rows as they are stored, newest ``limit`` of them, in the order of their numbers."""

    def __init__(
        self,
        db: sqlite3.Connection,
        streams: dict[int, tuple[str, NDArray[np.intp], NDArray[np.intp]]],
        upto: int | None,
        limit: int,
    ) -> None:
        self.streams = streams
        chosen = f"stream IN ({','.join(map(str, streams)) or 'NULL'}) AND id <= ?"
        last = upto if upto is not None else 2**62
        begin = db.execute(
            f"SELECT id FROM samples WHERE {chosen} ORDER BY id DESC LIMIT 1 OFFSET ?",  # noqa: S608 - numbers of ours
            (last, limit - 1),
        ).fetchone()
        values = (last, begin[0] if begin else 0)
        self.size = db.execute(f"SELECT count(*) FROM samples WHERE {chosen} AND id >= ?", values).fetchone()[0]  # noqa: S608 - as above
        self._rows = db.execute(
            f"SELECT stream, number, time, label, vals FROM samples WHERE {chosen} AND id >= ? ORDER BY id",  # noqa: S608 - as above
            values,
        )

    def blocks(
        self,
    ) -> Iterator[
        tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...], tuple[float | None, ...], tuple[bytes, ...]]
    ]:
        """Return column after column of some rows at a time."""
        while rows := self._rows.fetchmany(ROWS_AT_ONCE):
            streams, numbers, times, labels, values = zip(*rows, strict=True)
            yield streams, numbers, times, labels, values


def _series(table: _Table, channels: tuple[str, ...], stopped: Callable[[], bool]) -> Series:
    size = table.size
    times, labels = np.empty(size, np.float64), np.empty(size, np.float64)
    values = np.full((size, len(channels)), np.nan, np.float32)
    stream, numbers = np.empty(size, np.int64), np.empty(size, np.int64)
    at = 0
    for streams, block_numbers, block_times, block_labels, blobs in table.blocks():
        leave_if(stopped)
        part = slice(at, at + len(streams))
        stream[part], numbers[part], times[part] = streams, block_numbers, block_times
        labels[part] = np.array(block_labels, dtype=np.float64)
        _unpack(table, stream[part], blobs, values[part])
        at += len(streams)
    source = _sources(table, stream)
    kept = _in_order(times, source)
    return _ordered(
        times[kept], values[kept], labels[kept], channels, numbers[kept], several=len(np.unique(source)) > 1
    )


def _unpack(table: _Table, streams: NDArray[np.int64], blobs: tuple[bytes, ...], out: NDArray[np.float32]) -> None:
    for number in np.unique(streams):
        _source, theirs, ours = table.streams[int(number)]
        rows = np.flatnonzero(streams == number)
        found = np.frombuffer(b"".join(blobs[row] for row in rows), "<f4").reshape(len(rows), -1)
        out[rows[:, None], ours] = found[:, theirs]


def _sources(table: _Table, stream: NDArray[np.int64]) -> NDArray[np.int64]:
    names = sorted({source for source, _, _ in table.streams.values()})
    highest = max(table.streams, default=0)
    of_stream = np.zeros(highest + 1, np.int64)
    for number, (source, _, _) in table.streams.items():
        of_stream[number] = names.index(source)
    return of_stream[stream]


def _in_order(times: NDArray[np.float64], source: NDArray[np.int64]) -> NDArray[np.bool_]:
    kept = np.ones(len(times), np.bool_)
    for number in np.unique(source):
        rows = np.flatnonzero(source == number)
        kept[rows] = times[rows] >= np.maximum.accumulate(times[rows])
    return kept


def _ordered(
    times: NDArray[np.float64],
    values: NDArray[np.float32],
    labels: NDArray[np.float64],
    channels: tuple[str, ...],
    ids: NDArray[np.int64],
    *,
    several: bool,
) -> Series:
    if several:
        order = np.argsort(times, kind="stable")
        times, values, labels = times[order], values[order], labels[order]
        micros = np.round(times * 1e6).astype(np.int64)
        # Rows of one moment: each a microsecond after the one before.
        steps = np.arange(len(micros))
        ids = np.maximum.accumulate(micros - steps) + steps
    return Series(times, np.ascontiguousarray(values), labels, channels, ids)


class _Opened:
    """The store, opened to be read beside who writes."""

    def __init__(self, state_dir: Path, stopped: Callable[[], bool] = never) -> None:
        self._path = state_dir / FILE_NAME
        self._stopped = stopped

    def __enter__(self) -> sqlite3.Connection:
        if not self._path.is_file():
            raise SamplesError(f"{self._path}: there is no such file yet; no source has brought anything")
        try:
            self._db = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            self._db.execute("BEGIN")
            # A question that takes long (where the newest rows begin, in a store of millions) is given up on the way.
            self._db.set_progress_handler(self._stopped, ASK_EVERY_STEPS)
        except sqlite3.Error as exc:
            raise SamplesError(f"{self._path} cannot be read: {exc}") from exc
        if version != SCHEMA_VERSION:
            self._db.close()
            raise SamplesError(f"{self._path} is of schema {version}, this version of fedmq knows {SCHEMA_VERSION}")
        return self._db

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        self._db.close()
        if isinstance(error, sqlite3.OperationalError):
            leave_if(self._stopped)
        if isinstance(error, sqlite3.Error | KeyError | ValueError | TypeError):
            raise SamplesError(f"{self._path} cannot be read: {error}") from error
