"""The queue between a link's owner and its connection: bounded, and open only while the link is up."""

from __future__ import annotations

import threading
from collections import deque

from protocol.adapters.terms import Job, Publish

MAX_PENDING_BYTES = 16 * 1024 * 1024
MAX_PENDING_MESSAGES = 16384
"""What is taken while a connection is slower than its owner: the real queue is the owner's store, not this."""


class Outgoing:
    """Jobs for the connection. Any thread may put, the loop's thread does the rest.

    The lock makes "is the link up?" and "then queue it" one step, so that a publish is either refused or answered,
    whatever becomes of the connection at that moment.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._open = False
        self._shut = False
        self._messages = 0
        self._bytes = 0

    def put(self, job: Job) -> bool:
        """Queue the job; return False when the link is down or too much is pending."""
        with self._lock:
            if not self._open:
                return False
            if isinstance(job, Publish):
                # When nothing is pending a message of any size is taken, or a large one could never be sent.
                full = self._messages >= MAX_PENDING_MESSAGES or self._bytes + len(job.payload) > MAX_PENDING_BYTES
                if full and self._messages:
                    return False
                self._messages += 1
                self._bytes += len(job.payload)
            self._jobs.append(job)
            return True

    def next(self) -> Job | None:
        """Return the oldest job, None when there is none."""
        with self._lock:
            return self._jobs.popleft() if self._jobs else None

    def settled(self, job: Publish) -> None:
        """Take note that a publish came to its end: it was pending from ``put`` until now."""
        with self._lock:
            self._messages -= 1
            self._bytes -= len(job.payload)

    @property
    def all_settled(self) -> bool:
        """Whether no publish is pending."""
        return not self._messages

    def open(self) -> None:
        """Take jobs, if the queue was not shut for good."""
        with self._lock:
            self._open = not self._shut

    def close(self) -> list[Publish]:
        """Take no more; return the publishes that were still queued (they are not settled yet)."""
        with self._lock:
            self._open = False
            jobs = [job for job in self._jobs if isinstance(job, Publish)]
            self._jobs.clear()
            return jobs

    def shut(self) -> None:
        """Take no more, for good; what is queued stays."""
        with self._lock:
            self._open = False
            self._shut = True
