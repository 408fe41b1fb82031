"""Writes what the sources bring, in batches, and goes on after whatever the disk does."""

from __future__ import annotations

import logging
import math
import random
import time
from typing import TYPE_CHECKING

import msgspec

from device_agent.adapters.store import StoreCorruptError, StoreWriteError
from device_agent.sensing.adapters.sample_store import Batch, SampleStore, refuse_newer
from device_agent.sensing.rows import Row
from device_agent.sensing.waiting import Waiting, mended
from protocol.backoff import full_jitter

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Container
    from pathlib import Path

    from device_agent.sensing.adapters.sample_clock import SampleClock
    from device_agent.sensing.intake import Intake
    from device_agent.sensing.rows import Stretch
    from device_agent.sensing.sources import SamplesSettings

log = logging.getLogger("fedmq.sensing")

AGAIN_FIRST_S = 2.0
AGAIN_MAX_S = 120.0
"""After a write that failed, ever more rarely."""

CLOCK_LOOK_S = 2.0
MEND_LOOK_S = 30.0
"""So often one looks whether stored times can be made right."""

FACTS_AFTER_S = 60.0
"""What became of the sources is written down with the next rows; when none come, so long after it changed."""

_RNG = random.Random()  # noqa: S311 - waits are no secret


class Recorder:
    """The store and what waits for it. ``put`` and ``put_read`` are called under the lock, the rest without."""

    def __init__(self, state_dir: Path, settings: SamplesSettings, lock: threading.Lock, clock: SampleClock) -> None:
        """Raise ``StoreError`` when the store was written by a newer version."""
        self.facts: Callable[[], dict[str, object]] = dict
        self.trouble = ""
        """What is wrong with the store, in few words; empty: nothing."""
        self._state_dir = state_dir
        self._settings = settings
        self._lock = lock
        self._clock = clock
        self._waiting = Waiting()
        self._store: SampleStore | None = None
        self._failures = 0
        self._retry_at: float | None = None
        self._facts = b""
        self._facts_at: float | None = None
        self._mend_at = 0.0
        refuse_newer(state_dir)
        self._open()

    @property
    def ready(self) -> bool:
        """Whether there is a store to write to."""
        return self._store is not None

    def write_facts(self, now: float) -> None:
        """Have what is known of the sources written down some time, also when no row comes."""
        if self._facts_at is None:
            self._facts_at = now + FACTS_AFTER_S

    # -- for other threads

    @property
    def taken(self) -> int | None:
        """How many rows have ever been stored."""
        return self._store.newest if self._store is not None else None

    @property
    def labelled(self) -> int:
        """How often labels came later."""
        return self._store.labelled if self._store is not None else 0

    @property
    def rows(self) -> int:
        """How many rows are stored."""
        return self._store.rows if self._store is not None else 0

    @property
    def store_bytes(self) -> int:
        """Size of the file, as of the last commit."""
        return self._store.largest_bytes if self._store is not None else 0

    @property
    def stuck(self) -> bool:
        """Whether files are not to be read now: there is no room for what is in them, or nobody to store it."""
        return self._retry_at is not None or self._waiting.full

    @property
    def wants_attention(self) -> bool:
        """Whether the sensing thread has to look at the deadline again."""
        return self._waiting.size == 1 or (self._waiting.pressing and self._retry_at is None)

    def put(self, intake: Intake, item: Row | Stretch, now: float) -> bool:
        """Take what somebody sent; count it as refused when there is no room."""
        if self._waiting.put(item, now):
            return True
        intake.note("no room: the store takes nothing")
        return False

    def put_read(self, rows: list[Row], source: str, position: bytes, now: float) -> None:
        """Take what was read from a file."""
        self._waiting.put_read(rows, source, position, now)

    # -- the sensing thread

    def begin(self) -> None:
        """Look through the store for damage, before anything is written to it."""
        if self._store is None:
            return
        try:
            self._store.verify()
        except StoreCorruptError as exc:
            self._begin_anew(exc)

    def position(self, source: str) -> bytes | None:
        """Return how far a file has been read."""
        try:
            return self._store.position(source) if self._store is not None else None
        except Exception:  # noqa: BLE001 - it is read again then; what is wrong shows with the next commit
            return None

    @property
    def deadline(self) -> float:
        """When ``attend`` has something to do; infinity: not before something comes."""
        if self._retry_at is not None:
            return self._retry_at
        mending = self._mend_at if self._store is not None and self._store.guessing else math.inf
        return min(mending, self._rows_due())

    def _rows_due(self) -> float:
        since = self._waiting.since
        if since is None:
            return math.inf if self._facts_at is None or self._store is None else self._facts_at
        if not self._clock.settled:
            return since + CLOCK_LOOK_S
        return since if self._waiting.pressing else since + self._settings.commit_s

    def attend(self, now: float) -> bool:
        """Write if it is time; return whether the store is a new one, and all positions are forgotten."""
        if now < self.deadline:
            return False
        self._mend_at = now + MEND_LOOK_S
        if self._store is None:
            self._open()
        if self._store is None or not self._clock.settled:
            self._put_off(now)
            return False
        return self._write(self._store, now)

    def forget(self, sources: Container[str]) -> None:
        """Drop what waits of these sources."""
        with self._lock:
            self._waiting.forget(sources)

    def close(self) -> None:
        """Write what waits, if that can be, and close the store."""
        if self._store is not None:
            # Guessed times are mended after the start, in this boot; rows that are not there never are.
            self._write(self._store, math.inf)
            if self._store is not None:
                self._store.close()
            self._store = None

    # -- steps

    def _open(self) -> None:
        try:
            self._store = SampleStore(self._state_dir, self._settings)
        except StoreWriteError as exc:
            self._fail(str(exc))
            self._retry_at = time.monotonic() + self._wait_s()
            return
        self._retry_at = None
        self._clock.go_on_from(self._store.last_time)
        if self._store.set_aside is not None:
            log.error("samples damaged: started a new store aside=%s", self._store.set_aside)

    def _put_off(self, now: float) -> None:
        with self._lock:
            self._waiting.since = now if self._waiting.size else None
        if self._store is not None and self._waiting.size:
            self.trouble = "the clock is not set: rows wait in memory"
        if self._store is None:
            self._retry_at = now + self._wait_s()

    def _write(self, store: SampleStore, now: float) -> bool:
        with self._lock:
            load = self._waiting.take()
            facts = msgspec.json.encode(self.facts())
        moment, at = self._clock.now(), self._clock.boot_time()
        self._facts_at = None
        fresh = facts if facts != self._facts else b""
        mending = store.mends(at)
        if not load and not fresh and not mending:
            return False
        batch = Batch(
            rows=mended(load.rows, self._clock.time_of),
            stretches=load.stretches,
            progress=load.progress,
            facts=fresh,
            at=at,
        )
        try:
            attached = store.append(batch, moment.wall_s if moment.clock_set else None)
        except StoreCorruptError as exc:
            return self._begin_anew(exc)
        except StoreWriteError as exc:
            self._fail(str(exc))
            with self._lock:
                self._waiting.not_written(now)
            self._retry_at = now + self._wait_s()
            return False
        self._facts = facts
        self._recovered()
        with self._lock:
            self._waiting.written()
        if mending:
            log.info("the clock was set: samples that came before have better times now")
        if attached:
            log.info("labels came for %d rows", attached)
        return False

    def _begin_anew(self, exc: StoreCorruptError) -> bool:
        if self._store is None:
            return False
        try:
            self._store.begin_anew()
        except (StoreWriteError, OSError) as again:
            self._store = None
            self._fail(str(again))
            self._retry_at = time.monotonic() + self._wait_s()
        else:
            log.error("%s: started a new store aside=%s", exc, self._store.set_aside)
        return True

    def _fail(self, why: str) -> None:
        if not self._failures:
            log.error("samples cannot be stored: %s", why)
        self._failures += 1
        self.trouble = f"cannot be stored: {why}"[:120]

    def _wait_s(self) -> float:
        return 1.0 + full_jitter(_RNG, self._failures, AGAIN_FIRST_S, AGAIN_MAX_S)

    def _recovered(self) -> None:
        if self._failures:
            log.info("samples are stored again")
        self._failures = 0
        self._retry_at = None
        self.trouble = ""
