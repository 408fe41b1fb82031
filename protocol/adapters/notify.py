"""Tells systemd how this process is, if systemd wants to know (sd_notify(3)): a datagram to the socket that it named.

Without that socket, started by hand say, nothing is done. Nothing here raises: a process is not to end over this.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Mapping

from protocol.supervision import Supervision

PATIENCE_S = 1.0
"""How long a message may wait for room. systemd reads hundreds of them at once; this is for one that is stopped."""

MICROSECONDS = 1e-6


class Notifier:
    """The socket. ``watchdog_s`` is the silence after which systemd kills us, None when it does not."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self.watchdog_s = _watchdog_s(environment) if self.wanted else None

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return self._address.startswith(("/", "@"))

    def send(self, text: str) -> bool:
        """Hand over a message; return whether that could be done."""
        if not self.wanted:
            return False
        try:
            self._opened().sendto(text.encode(), self._target())
        except (OSError, ValueError):  # ValueError: a NUL byte in the path
            return False
        return True

    def close(self) -> None:
        """Give back the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _opened(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(PATIENCE_S)
        return self._socket

    def _target(self) -> str:
        # An "@" stands for the NUL byte that begins the name of an abstract socket, one that is in no file system.
        return "\0" + self._address[1:] if self._address.startswith("@") else self._address


class Supervised:
    """The worker's side of the watchdog: it calls ``turn`` once in each of its turns, and nobody else ever does."""

    def __init__(self, line: Callable[[], str], alive: Callable[[], bool], notifier: Notifier | None = None) -> None:
        """``line`` describes the process for people; ``alive`` says whether all its other threads are well."""
        self._line = line
        self._alive = alive
        self._notifier = notifier or Notifier()
        self._plan = Supervision(self._notifier.watchdog_s)

    def turn(self, now: float, *, news: bool = True, settled: bool = False) -> None:
        """Tell what is due. ``news``: something happened. ``settled``: connected, or knowingly offline."""
        if not self._notifier.wanted:
            return
        if news:
            self._plan.note()
        if settled:
            self._plan.settle()
        self._tell(now)

    def stopping(self, now: float) -> None:
        """Tell that the end has begun; more often than once does no harm."""
        if self._notifier.wanted:
            self._plan.stop()
            self._tell(now)

    def next_at(self) -> float:
        """When the next turn has to be; infinity = not before something happens."""
        return self._plan.next_at if self._notifier.wanted else math.inf

    def close(self) -> None:
        """Give back the socket."""
        self._notifier.close()

    def _tell(self, now: float) -> None:
        telling = self._plan.due(now, self._line, self._alive)
        if telling is not None:
            (self._plan.told if self._notifier.send(telling.text) else self._plan.not_told)(telling, now)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's time in seconds; None when there is none, or it is meant for another process."""
    if environment.get("WATCHDOG_PID", "") not in ("", str(os.getpid())):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) * MICROSECONDS if text.isdecimal() and int(text) > 0 else None
