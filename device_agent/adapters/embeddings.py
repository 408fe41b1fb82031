"""Embeddings that a backbone has made once, kept on the device: a sample is never sent through a network twice."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np

from models.parameters import FloatArray

log = logging.getLogger(__name__)

_KEY_BYTES = 16
"""Two of a million samples meet with a probability of 1e-27."""

_PER_ROW_BYTES = 60
"""What SQLite takes for a row beside the embedding, about."""


class EmbeddingCache:
    """Maps samples to embeddings, in a file of its own; one thread at a time.

    The file belongs to one backbone: another one empties it. It holds nothing that could not be made again, so it is
    not synced, and whatever is wrong with it (damage, a full disk) makes it empty or useless, never a failure.
    """

    def __init__(self, path: Path, digest: str, outputs: int, max_bytes: int) -> None:
        self._path = path
        self._outputs = outputs
        self._most = max(1, max_bytes // (4 * outputs + _PER_ROW_BYTES))
        self._digest = f"{digest} {outputs}"
        self._db = self._opened()

    def embed(self, x: FloatArray, compute: Callable[[FloatArray], FloatArray]) -> FloatArray:
        """Return the embeddings of the samples; ``compute`` is asked for those that are not known."""
        keys = [hashlib.blake2b(row.tobytes(), digest_size=_KEY_BYTES).digest() for row in np.ascontiguousarray(x)]
        result = np.empty((len(x), self._outputs), np.float32)
        missing = [position for position, key in enumerate(keys) if not self._read(key, result[position])]
        if missing:
            result[missing] = compute(x[missing])
            self._keep([(keys[position], result[position].tobytes()) for position in missing])
        return result

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _read(self, key: bytes, into: FloatArray) -> bool:
        try:
            found = (
                self._db.execute("SELECT value FROM embeddings WHERE key = ?", (key,)).fetchone() if self._db else None
            )
        except sqlite3.Error as exc:
            self._give_up(exc)
            return False
        if found is None or len(found[0]) != into.nbytes:
            return False
        into[...] = np.frombuffer(found[0], np.float32)
        return True

    def _keep(self, rows: list[tuple[bytes, bytes]]) -> None:
        if self._db is None:
            return
        try:
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO embeddings (key, value) VALUES (?, ?)", rows)
                # The oldest go: samples do, too.
                newest = "SELECT id FROM embeddings ORDER BY id DESC LIMIT 1 OFFSET ?"
                self._db.execute(f"DELETE FROM embeddings WHERE id <= ({newest})", (self._most,))  # noqa: S608 - a constant
        except sqlite3.Error as exc:
            self._give_up(exc)

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
                    self._path.unlink(missing_ok=True)
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
        except BaseException:
            db.close()
            raise
        return db
