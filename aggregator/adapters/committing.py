"""One batch on its way to the disk, while the worker decides on the next one.

A commit is mostly waiting, without the interpreter's lock, so one more thread is enough to use the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from aggregator.adapters.store import Store
from aggregator.commands import Command
from aggregator.events import Event


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A batch that is being committed: nothing of it may be said to anybody yet."""

    events: Sequence[Event]
    commands: Sequence[Command]
    _done: Future[None]

    def wait(self) -> None:
        """Return when it is on the disk; raise ``StoreError`` when nothing of it is."""
        self._done.result()


class Committer:
    """Commits what the store has begun, in a thread of its own. The store is that thread's until ``wait`` is over."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fedmq-commit")

    def commit(self, events: Sequence[Event], commands: Sequence[Command]) -> UnderWay:
        """Begin to commit the batch that the store has begun."""
        return UnderWay(events, commands, self._pool.submit(self._store.commit))

    def close(self) -> None:
        """Wait for what is under way, and end the thread."""
        self._pool.shutdown()
