"""The chunks of one blob, by a few exact subscriptions; and when to ask again for what comes badly or never."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_agent.commands import Command, Subscribe, Unsubscribe
from protocol.backoff import full_jitter

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from protocol.messages import BlobRef
    from protocol.topics import Topics

WINDOW = 4
"""Chunk topics subscribed at a time: enough to fill a link, few enough for a broker to queue for a whole fleet."""


class Pull:
    """Follows the subscriptions to one blob's chunks. Its owner says which are wanted, lowest first, and keeps them.

    It stops when the connection goes, and goes on when the manifest is seen again (``announced``). When nothing comes
    for a while it asks for ``model/current`` rather than for the chunks: that message travels behind chunks that are
    merely slow, so it never makes a slow link carry a chunk twice.

    What a broken or hostile broker sends instead of chunks is asked for again after waits that are drawn from what
    doubles with each attempt in vain, whatever is announced meanwhile.
    """

    def __init__(self, topics: Topics, rng: random.Random, *, first_wait_s: float, max_wait_s: float) -> None:
        self.deadline: float | None = None
        self.trouble = ""
        """What is wrong with chunks that came, until all of them are right; empty: nothing."""
        self.asked = False
        """Whether the manifest was asked for on this connection because subscribed chunks did not come."""
        self._topics, self._rng = topics, rng
        self._first_wait_s, self._max_wait_s = first_wait_s, max_wait_s
        self._digest = ""
        self._linked = False
        self._window: list[int] = []
        self._stale: list[int] = []
        """Still subscribed, and not wanted any more."""
        self._paused = False
        """Whether the manifest is waited for before going on."""
        self._not_before: float | None = None
        """Until then no chunk is asked for again: what came was bad."""
        self._failures = self._spoils = 0

    @property
    def failures(self) -> int:
        """Attempts in a row that led nowhere."""
        return self._failures

    @property
    def stalled(self) -> bool:
        """Whether the last attempt got nowhere."""
        return self._failures > 0 or self._spoils > 0

    def begin(self, blob: BlobRef, wanted: Sequence[int], now: float) -> list[Command]:
        """Ask for this blob from now on, whatever was asked for before; its failures are remembered, no other's."""
        commands = self.end() if blob.digest == self._digest else self.forget()
        self._digest = blob.digest
        if not self._waits(now):
            return commands + self._open(wanted, now)
        self._paused, self.deadline = True, self._not_before
        return commands

    def end(self) -> list[Command]:
        """Ask for nothing."""
        self._paused = self.asked = False
        self.deadline = None
        self._failures = 0
        return self.close()

    def forget(self) -> list[Command]:
        """Ask for nothing, and have no memory of what went wrong."""
        commands = self.end()
        self._digest = self.trouble = ""
        self._spoils, self._not_before = 0, None
        return commands

    def close(self) -> list[Command]:
        """Take the subscriptions back."""
        self._stale += self._window
        self._window = []
        return self._unsubscribe()

    def link_up(self, now: float, *, wanting: bool) -> None:
        """Expect the manifest, which every connection subscribes to first, if anything is still wanted."""
        self._linked = True
        if wanting:
            self._paused = True
            self._wait(now)

    def link_down(self, *, wanting: bool) -> None:
        """Forget the subscriptions: sessions are clean."""
        self._linked = self.asked = False
        self._window, self._stale = [], []
        if wanting:
            self.deadline = None

    def announced(self, wanted: Sequence[int], now: float) -> list[Command]:
        """Take in the manifest once more; go on if that was waited for, and nothing bad came too lately."""
        return self._open(wanted, now) if self._paused and not self._waits(now) else []

    def expects(self, index: int) -> bool:
        """Return whether the chunk is subscribed."""
        return index in self._window

    def took(self, index: int, wanted: Sequence[int], now: float, *, further: bool = True) -> list[Command]:
        """Take note of a chunk that is right, and ask for the next ones: those of ``wanted`` that are not under way.

        ``further``: it was the next one, or its place does not matter. Otherwise it says nothing about those before it.
        """
        if further:
            self._failures = 0
        if not self._window:
            return []  # what was bad is waited for; this one was on its way already
        self._paused = self.asked = False
        self._wait(now)
        if index not in self._window:
            return []
        self._window.remove(index)
        commands: list[Command] = [Unsubscribe(topics=self._names([index]))]
        fresh = [each for each in wanted if each not in self._window][: WINDOW - len(self._window)]
        if fresh:
            self._window += fresh
            commands.append(Subscribe(topics=self._names(fresh)))
        return commands

    def emptied(self, index: int, what: str, now: float) -> list[Command]:
        """Take in an empty chunk: the aggregator cleared it, so a newer version must be there. Ask for that at once.

        Only the first time: should the broker stand by what it announced, somebody else keeps emptying it.
        """
        if index not in self._window:
            return []
        self._failures += 1
        self.asked = True
        first = self._failures == 1
        if not first:
            self.trouble = f"chunks of the {what} come empty"
        self._hold(now, 0.0 if first else self._jitter_s(self._failures))
        return self.close()

    def spoil(self, now: float, trouble: str = "") -> None:
        """Begin again, later: what had come was of no use."""
        self._spoils += 1
        self.trouble = trouble
        self._stale += self._window
        self._window = []
        self._hold(now, self._first_wait_s + self._jitter_s(self._spoils))

    def due(self, now: float) -> list[Command]:
        """Ask for the manifest again when its time has come."""
        if self.deadline is None or now < self.deadline:
            return []
        self.asked = self.asked or bool(self._window)
        if self._not_before is None:
            self._failures += 1
        self._not_before = None  # it was counted when it was set
        self._paused = True
        self._wait(now)
        return [Subscribe(topics=(self._topics.current_model,))]

    def _open(self, wanted: Sequence[int], now: float) -> list[Command]:
        if not self._linked:
            self._paused = True
            return []
        self._paused, self._not_before = False, None
        self._window = list(wanted[:WINDOW])
        self._wait(now)
        return [*self._unsubscribe(), Subscribe(topics=self._names(self._window))]

    def _unsubscribe(self) -> list[Command]:
        stale, self._stale = self._stale, []
        return [Unsubscribe(topics=self._names(stale))] if stale else []

    def _hold(self, now: float, wait_s: float) -> None:
        self._paused = True
        self._not_before = self.deadline = now + wait_s

    def _waits(self, now: float) -> bool:
        return self._not_before is not None and now < self._not_before

    def _wait(self, now: float) -> None:
        failures = max(self._failures, self._spoils)
        self.deadline = now + self._first_wait_s + (self._jitter_s(failures) if failures else 0.0)
        if self._waits(now):
            self.deadline = self._not_before  # over the next connection too

    def _jitter_s(self, failures: int) -> float:
        return full_jitter(self._rng, failures, self._first_wait_s, self._max_wait_s)

    def _names(self, indices: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._topics.blob(self._digest, index) for index in indices)
