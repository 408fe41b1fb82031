"""Making connections without blocking: names are resolved in a thread, addresses are tried one by one, TLS is begun."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from protocol.adapters.handshake import Handshake
from protocol.adapters.loop import WRITABLE
from protocol.adapters.terms import Loss
from protocol.link import spelled
from protocol.settings import ConfigurationError

if TYPE_CHECKING:
    from protocol.adapters.loop import LinkLoop, Timer
    from protocol.adapters.tls import TlsSession
    from protocol.adapters.tls_faults import TlsFault
    from protocol.link import BrokerSettings, DownKind

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


@dataclass(frozen=True, slots=True)
class Reached:
    """A connected socket, after the handshake if there is TLS."""

    sock: socket.socket
    tls: TlsSession | None


class Dial:
    """One attempt to reach the broker; ``done`` is called once, in the loop's thread, unless cancelled.

    After ``connect_timeout_s`` in all it fails; each address of a name has its share of that, or one that swallows
    packets (a broken IPv6 route, say) would keep us from ever trying the next.

    The socket is connected and non-blocking, with TCP_NODELAY: without it small messages wait 40 ms for each other.
    """

    def __init__(self, loop: LinkLoop, settings: BrokerSettings, done: Callable[[Reached | Loss], None]) -> None:
        self._loop = loop
        self._settings = settings
        self._host = settings.host
        self._port = settings.port
        self._timeout_s = settings.connect_timeout_s
        self._deadline = loop.now() + settings.connect_timeout_s
        self._timer: Timer | None = None
        self._done = done
        self._addresses: list[Address] = []
        self._sock: socket.socket | None = None
        self._session: TlsSession | None = None
        self._ended = False
        self._loss = Loss(reason=f"{settings.host} has no address", kind="unreachable")

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
        what = "did not answer" if self._session is None else "did not finish the TLS handshake"
        self._failed(f"{self._host} port {self._port} {what} within {self._timeout_s:g} s", "timeout")
        self._try_next()

    def _found(self, addresses: list[Address], error: str) -> None:
        if self._ended:
            return
        self._cancel_timer()
        self._addresses = list(addresses)
        if error:
            self._loss = Loss(reason=error, kind="unreachable")
        self._try_next()

    def _try_next(self) -> None:
        while self._addresses:
            family, address = self._addresses.pop(0)
            try:
                self._try(family, address)
            except OSError as exc:
                self._unreachable(exc.errno or 0)
            else:
                return
        self._finish(self._loss)

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
            self._unreachable(error)
            self._try_next()
            return
        self._loop.forget(sock.fileno())
        if self._settings.tls is None:
            self._finish(Reached(sock, None))
        else:
            self._begin_tls(sock)

    def _begin_tls(self, sock: socket.socket) -> None:
        from protocol.adapters.tls import TlsSession  # noqa: PLC0415 - ssl is 4 MB that a link without TLS does not need

        assert self._settings.tls is not None  # noqa: S101 - for the type checker
        try:
            self._session = TlsSession(self._settings.tls, self._host)
        except ConfigurationError as exc:
            self._drop()
            self._finish(Loss(reason=str(exc), kind="configuration"))
            return
        Handshake(self._loop, sock, self._session, self._on_handshake).start()

    def _on_handshake(self, fault: TlsFault | None) -> None:
        sock = self._sock
        if sock is None:
            return
        if fault is None:
            self._finish(Reached(sock, self._session))
        else:
            self._failed(fault.reason, fault.kind)
            self._try_next()

    def _unreachable(self, error: int) -> None:
        self._failed(f"{self._host} port {self._port} cannot be reached: {os.strerror(error)}", "unreachable")

    def _failed(self, reason: str, kind: DownKind) -> None:
        # What a broker that was reached had to say is worth more than that its other address is not there.
        if kind not in {"unreachable", "timeout"} or self._loss.kind in {"unreachable", "timeout"}:
            self._loss = Loss(reason=reason, kind=kind)
        self._drop()

    def _drop(self) -> None:
        self._cancel_timer()
        if self._sock is not None:
            self._loop.forget(self._sock.fileno())
            self._sock.close()
            self._sock = self._session = None

    def _finish(self, outcome: Reached | Loss) -> None:
        self._ended = True
        self._cancel_timer()
        self._sock = self._session = None
        self._done(outcome)


def _connected_to_itself(sock: socket.socket) -> int:
    # TCP allows it: a local port where nobody listens, and by chance our own end was given the same number. It would
    # look like a broker that does not answer, and keep the broker from starting on its port.
    try:
        return errno.ECONNREFUSED if sock.getsockname() == sock.getpeername() else 0
    except OSError as exc:  # reset already
        return exc.errno or errno.ENOTCONN


def _addresses(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(spelled(host), port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _type, _protocol, _name, address in found]


def _text_of(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else "") or str(exc)
