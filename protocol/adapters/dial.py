"""Making TCP connections without blocking: names are resolved in a thread, addresses are tried one by one."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from protocol.adapters.loop import WRITABLE

if TYPE_CHECKING:
    from protocol.adapters.loop import LinkLoop, Timer

Address: TypeAlias = tuple[socket.AddressFamily, tuple[object, ...]]
Found: TypeAlias = Callable[[list[Address], str], None]


class Resolver:
    """Names to addresses, each lookup in a thread of its own, since ``getaddrinfo`` blocks and cannot be interrupted.

    Links that ask for a name while it is being looked up share the answer: ten thousand links are one lookup, and a
    name server that hangs costs one thread, however often links try again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, int], list[tuple[LinkLoop, Found]]] = {}

    def resolve(self, loop: LinkLoop, host: str, port: int, found: Found) -> None:
        """Have ``found(addresses, error)`` called in the loop's thread."""
        with self._lock:
            waiting = self._waiting.setdefault((host, port), [])
            waiting.append((loop, found))
            if len(waiting) > 1:
                return
        threading.Thread(target=self._look_up, args=(host, port), name="fedmq-resolve", daemon=True).start()

    def _look_up(self, host: str, port: int) -> None:
        try:
            addresses, error = _addresses(host, port, 0), ""
        except (OSError, UnicodeError) as exc:
            addresses, error = [], f"the name {host!r} cannot be resolved: {_text_of(exc)}"
        with self._lock:
            waiting = self._waiting.pop((host, port))
        for loop, found in waiting:
            loop.call_soon(partial(found, addresses, error))


_RESOLVER = Resolver()


class Dial:
    """One attempt to reach a host; ``done(socket, error)`` is called once, in the loop's thread, unless cancelled.

    After ``timeout_s`` in all it fails; each address of a name has its share of that, or one that swallows packets (a
    broken IPv6 route, say) would keep us from ever trying the next.

    The socket is connected and non-blocking, with TCP_NODELAY: without it small messages wait 40 ms for each other.
    This is also the place where a TLS handshake belongs, between "connected" and ``done``.
    """

    def __init__(
        self,
        loop: LinkLoop,
        host: str,
        port: int,
        timeout_s: float,
        done: Callable[[socket.socket | None, str], None],
    ) -> None:
        self._loop = loop
        self._host = host
        self._port = port
        self._timeout_s = timeout_s
        self._deadline = loop.now() + timeout_s
        self._timer: Timer | None = None
        self._done = done
        self._addresses: list[Address] = []
        self._sock: socket.socket | None = None
        self._ended = False
        self._error = f"{host} has no address"

    def start(self) -> None:
        """Begin; ``done`` may be called before this returns."""
        try:
            addresses = _addresses(self._host, self._port, socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            self._timer = self._loop.call_at(self._deadline, self._on_timeout)
            _RESOLVER.resolve(self._loop, self._host, self._port, self._found)
        else:
            self._found(addresses, "")

    def cancel(self) -> None:
        """Give up silently."""
        self._ended = True
        self._drop()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        self._error = f"{self._host} port {self._port} did not answer within {self._timeout_s:g} s"
        self._drop()
        self._try_next()

    def _found(self, addresses: list[Address], error: str) -> None:
        if self._ended:
            return
        self._cancel_timer()
        self._addresses = list(addresses)
        self._error = error or self._error
        self._try_next()

    def _try_next(self) -> None:
        while self._addresses:
            family, address = self._addresses.pop(0)
            try:
                self._try(family, address)
            except OSError as exc:
                self._failed(exc.errno or 0)
            else:
                return
        self._finish(None)

    def _try(self, family: socket.AddressFamily, address: tuple[object, ...]) -> None:
        self._sock = sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)
        self._loop.watch(sock.fileno(), WRITABLE, self._on_ready)
        now = self._loop.now()
        share_s = max(0.0, self._deadline - now) / (1 + len(self._addresses))
        self._timer = self._loop.call_at(now + share_s, self._on_timeout)

    def _on_ready(self, _events: int) -> None:
        sock = self._sock
        if sock is None:
            return
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or _connected_to_itself(sock)
        if error:
            self._failed(error)
            self._try_next()
        else:
            self._loop.forget(sock.fileno())
            self._finish(sock)

    def _failed(self, error: int) -> None:
        self._error = f"{self._host} port {self._port} cannot be reached: {os.strerror(error)}"
        self._drop()

    def _drop(self) -> None:
        self._cancel_timer()
        if self._sock is not None:
            self._loop.forget(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _finish(self, sock: socket.socket | None) -> None:
        self._ended = True
        self._cancel_timer()
        self._sock = None
        self._done(sock, "" if sock is not None else self._error)


def _connected_to_itself(sock: socket.socket) -> int:
    # TCP allows it: a local port where nobody listens, and by chance our own end was given the same number. It would
    # look like a broker that does not answer, and keep the broker from starting on its port.
    try:
        return errno.ECONNREFUSED if sock.getsockname() == sock.getpeername() else 0
    except OSError as exc:  # reset already
        return exc.errno or errno.ENOTCONN


def _addresses(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _type, _protocol, _name, address in found]


def _text_of(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else "") or str(exc)
