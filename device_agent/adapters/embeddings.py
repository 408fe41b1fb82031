"""Embeddings that a backbone has made once, kept on the device: a sample is never sent through a network twice."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from device_agent.adapters.leaving import leave_if, never, until
from models.parameters import FloatArray

log = logging.getLogger(__name__)

_KEY_BYTES = 16
"""Two of a million samples meet with a probability of 1e-27."""

_PER_ROW_BYTES = 60
"""What SQLite takes for a row beside the embedding, about."""

_KEEP_EVERY = 64
"""Embeddings that a kill may cost."""


class EmbeddingCache:
    """Maps samples to embeddings, in a file of its own; one thread at a time.

    The file belongs to one backbone: another one empties it. It holds nothing that could not be made again, so it is
    not synced. Whatever is wrong with it (a damaged one is renamed; a full disk) makes it empty or useless, never a
    failure.
    """

    def __init__(self, path: Path, digest: str, outputs: int, max_bytes: int) -> None:
        self._path = path
        self._outputs = outputs
        self._most = max(1, max_bytes // (4 * outputs + _PER_ROW_BYTES))
        self._digest = f"{digest} {outputs}"
        self.reused = 0
        """Samples that were found here."""
        self._used: set[int] = set()
        """Rows that somebody wanted since the file was opened."""
        self._count = 0
        self._all_used = False
        self._db = self._opened() if max_bytes else None

    def embed(
        self, x: FloatArray, compute: Callable[[FloatArray], FloatArray], stopped: Callable[[], bool] = never
    ) -> FloatArray:
        """Return the embeddings of the samples; ``compute`` is asked for each one that is not known.

        ``stopped`` is asked between two of them: ``TaskLeftError``; what was computed until then is kept.
        """
        result = np.empty((len(x), self._outputs), np.float32)
        missing: list[tuple[int, bytes]] = []
        for position, row in enumerate(until(stopped, np.ascontiguousarray(x))):
            key = hashlib.blake2b(row.tobytes(), digest_size=_KEY_BYTES).digest()
            if not self._read(key, result[position]):
                missing.append((position, key))
        self.reused += len(x) - len(missing)
        done: list[tuple[bytes, bytes]] = []
        try:
            for position, key in missing:
                leave_if(stopped)
                result[position] = compute(x[position : position + 1])[0]
                done.append((key, result[position].tobytes()))
                if len(done) >= _KEEP_EVERY:
                    self._keep(done)
                    done = []
        finally:
            self._keep(done)
        return result

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _read(self, key: bytes, into: FloatArray) -> bool:
        try:
            found = (
                self._db.execute("SELECT value, id FROM embeddings WHERE key = ?", (key,)).fetchone()
                if self._db
                else None
            )
        except sqlite3.Error as exc:
            self._give_up(exc)
            return False
        if found is None or len(found[0]) != into.nbytes:
            return False
        self._used.add(found[1])
        into[...] = np.frombuffer(found[0], np.float32)
        return True

    def _keep(self, rows: list[tuple[bytes, bytes]]) -> None:
        """Keep what there is room for: beside what is wanted now, and in the place of the oldest that is not."""
        if self._db is None or not rows:
            return
        try:
            with self._db:
                for key, value in rows[: self._make_room(self._db, len(rows))]:
                    done = self._db.execute(
                        "INSERT OR REPLACE INTO embeddings (key, value) VALUES (?, ?)", (key, value)
                    )
                    self._used.add(int(done.lastrowid or 0))
                    self._count += 1
        except sqlite3.Error as exc:
            self._give_up(exc)

    def _make_room(self, db: sqlite3.Connection, wanted: int) -> int:
        """Return for how many more there is room, after the oldest that nobody wanted had to go."""
        room = self._most - self._count
        if room < wanted and not self._all_used:
            ids = (number for (number,) in db.execute("SELECT id FROM embeddings ORDER BY id"))
            idle = list(islice((number for number in ids if number not in self._used), wanted - room))
            db.executemany("DELETE FROM embeddings WHERE id = ?", [(number,) for number in idle])
            self._count -= len(idle)
            self._all_used = len(idle) < wanted - room
        return max(0, self._most - self._count)

    def _give_up(self, exc: sqlite3.Error) -> None:
        log.warning(f"embeddings are not kept in {self._path}: {exc}")
        with contextlib.suppress(sqlite3.Error):
            self.close()
        self._db = None

    def _opened(self) -> sqlite3.Connection | None:
        for _ in range(2):
            try:
                return self._prepared()
            except (sqlite3.Error, OSError) as exc:
                log.warning(f"{self._path} is begun anew: {exc}")
                with contextlib.suppress(OSError):
                    self._path.replace(self._path.with_name(f"{self._path.name}.aside"))
        return None

    def _prepared(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, check_same_thread=False)
        try:
            db.execute("PRAGMA synchronous = OFF")
            db.execute("CREATE TABLE IF NOT EXISTS backbone (digest TEXT)")
            db.execute("CREATE TABLE IF NOT EXISTS embeddings (id INTEGER PRIMARY KEY, key BLOB UNIQUE, value BLOB)")
            with db:
                if db.execute("SELECT digest FROM backbone").fetchone() != (self._digest,):
                    db.execute("DELETE FROM embeddings")
                    db.execute("DELETE FROM backbone")
                    db.execute("INSERT INTO backbone VALUES (?)", (self._digest,))
            (self._count,) = db.execute("SELECT count(*) FROM embeddings").fetchone()
        except BaseException:
            db.close()
            raise
        return db
