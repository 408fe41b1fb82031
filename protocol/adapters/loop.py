"""One thread that drives any number of links: epoll, timers, and calls from other threads."""

from __future__ import annotations

import heapq
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import TypeAlias

log = logging.getLogger(__name__)

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT

_MAX_EVENTS = 1024
_NEVER_S = 3600.0

Handler: TypeAlias = Callable[[int], None]


class Timer:
    """A call at a time; ``cancel`` it when it is moot."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget the call. Loop thread only."""
        self.call = None


class LinkLoop:
    """The I/O thread. Links share one by being given the same loop; a link without one makes its own.

    epoll rather than paho's own ``loop_start``, whose ``select`` fails silently past file descriptor 1023. Nothing
    that is called here may block: one slow callback stalls every link of the loop.
    """

    def __init__(self, name: str = "fedmq-link") -> None:
        self._name = name
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, READABLE)
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._calls: deque[Callable[[], None]] = deque()
        self._woken = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ending = False
        self._closed = False

    def start(self) -> None:
        """Start the thread, if it is not running yet."""
        with self._lock:
            if self._closed:
                raise RuntimeError("this loop was stopped")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """End the thread. Stop the links first: what they still had to do is forgotten."""
        with self._lock:
            thread, self._ending = self._thread, True
            if thread is None:
                self._close()
                return
            if not self._closed:
                os.eventfd_write(self._wake_fd, 1)
        if thread is not threading.current_thread():
            thread.join(timeout_s)

    @property
    def ended(self) -> bool:
        """Whether it was stopped: what it is asked to do now is never done."""
        return self._closed

    @property
    def inside(self) -> bool:
        """Whether the caller is in the loop's thread."""
        return threading.current_thread() is self._thread

    @staticmethod
    def now() -> float:
        """Return the loop's clock in seconds: monotonic, of no particular beginning."""
        return time.monotonic()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have the thread make the call. From any thread; never blocks; after ``stop`` nothing happens."""
        self._calls.append(call)
        # The flag goes down before the calls are taken out: a call that finds it up is sure to be seen. One wake-up
        # serves all the calls of a burst.
        if self._woken:
            return
        self._woken = True
        if not self.inside:
            with self._lock:
                if not self._closed:
                    os.eventfd_write(self._wake_fd, 1)

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Have the call made at ``when`` (of ``now()``). Loop thread only."""
        timer = Timer(when, call)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Call ``handler(events)`` when the file descriptor is ready. Loop thread only, as the next two."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Change what the file descriptor is watched for."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Watch the file descriptor no more; before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _run(self) -> None:
        try:
            while not self._ending:
                self._turn()
        finally:
            with self._lock:
                self._close()

    def _turn(self) -> None:
        for fd, events in self._epoll.poll(self._wait_s(), _MAX_EVENTS):
            if fd == self._wake_fd:
                os.eventfd_read(fd)
                continue
            handler = self._handlers.get(fd)
            if handler is not None:  # an earlier event of this turn may have ended it
                _guarded(handler, events)
        self._woken = False
        for _ in range(len(self._calls)):
            _guarded(self._calls.popleft())
        self._ring()

    def _wait_s(self) -> float:
        if self._calls:
            return 0.0
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)  # moot: nobody is to wake up for it
        if not self._timers:
            return _NEVER_S
        return min(max(0.0, self._timers[0][0] - self.now()), _NEVER_S)

    def _ring(self) -> None:
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                _guarded(call)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._epoll.close()
            os.close(self._wake_fd)


class Pulse:
    """Whether a loop's thread still does what it is asked to. For one thread, which asks from time to time."""

    def __init__(self, loop: LinkLoop) -> None:
        self._loop = loop
        self._answered = True

    def beats(self) -> bool:
        """Return whether the thread has answered the question of the last call; if so, ask the next one."""
        if not self._answered:
            return False
        self._answered = False
        self._loop.call_soon(self._answer)
        return True

    def _answer(self) -> None:
        self._answered = True


def _guarded(call: Callable[..., None], *arguments: int) -> None:
    # Links catch their own faults and reconnect; this is the last line, so that no fault of one ends them all.
    try:
        call(*arguments)
    except Exception:
        log.exception("a fault in the I/O thread")
