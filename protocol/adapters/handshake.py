"""The TLS handshake on a connected socket, without blocking: between TCP's "connected" and MQTT's CONNECT."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from protocol.adapters.loop import READABLE, WRITABLE

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from protocol.adapters.loop import LinkLoop
    from protocol.adapters.tls import TlsSession
    from protocol.adapters.tls_faults import TlsFault

_BLOCK_BYTES = 16 * 1024


class Handshake:
    """Drives a session to the end of its handshake; ``done(fault)`` is called once, in the loop's thread.

    The socket stays its owner's, who also sees to it that this does not take for ever.
    """

    def __init__(
        self, loop: LinkLoop, sock: socket.socket, session: TlsSession, done: Callable[[TlsFault | None], None]
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._session = session
        self._done = done
        self._unsent = b""
        self._shaken = False

    def start(self) -> None:
        """Say the first words. The loop must not be watching the socket."""
        self._loop.watch(self._sock.fileno(), READABLE, self._on_ready)
        self._advance(None)

    def _on_ready(self, events: int) -> None:
        data = None
        try:
            if self._unsent:
                self._send()
            if events & ~WRITABLE and not self._shaken:
                data = self._sock.recv(_BLOCK_BYTES)
        except BlockingIOError:
            pass
        except OSError as exc:
            self._fail(exc)
            return
        if data is None:
            self._finish_or_wait()
        else:
            self._advance(data)

    def _advance(self, data: bytes | None) -> None:
        try:
            self._shaken = self._session.shake_hands(data)
            self._unsent += self._session.output()
            self._send()
        except Exception as exc:  # noqa: BLE001 - whatever it is, this attempt is over, and must not be called again
            self._fail(exc)
        else:
            self._finish_or_wait()

    def _fail(self, exc: Exception) -> None:
        self._loop.forget(self._sock.fileno())
        fault = self._session.explain(exc)
        # The alert, for the broker's log; if it does not go out at once it is not worth waiting for.
        self._unsent += self._session.output()
        with contextlib.suppress(OSError):
            self._send()
        self._done(fault)

    def _finish_or_wait(self) -> None:
        if self._shaken and not self._unsent:
            self._loop.forget(self._sock.fileno())
            self._done(None)
            return
        # What the broker says after the handshake is the connection's to read.
        listen = 0 if self._shaken else READABLE
        self._loop.change(self._sock.fileno(), listen | (WRITABLE if self._unsent else 0))

    def _send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
