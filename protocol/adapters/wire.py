"""The socket that paho sees: buffered both ways, and with a bound on what a broker can make us hold."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections import deque
from typing import TYPE_CHECKING

from protocol.adapters.packets import body_of

if TYPE_CHECKING:
    from protocol.adapters.tls import TlsSession
    from protocol.link import DownKind

_BLOCK_BYTES = 64 * 1024
_LARGEST_BLOCK_BYTES = 1024 * 1024
"""Read at a time once a whole block was there: every system call gives the interpreter's lock away."""
_BYTES_PER_PASS = 1024 * 1024
"""Fairness: about so much from one link before the others of the loop have their turn."""

_HIGH_WATER_BYTES = 256 * 1024
"""Enough to keep any link busy; more would only be a queue that nobody can look into."""

_NOTHING = memoryview(b"")

CLOSED = "the broker closed the connection"
WANTS_TLS = "the broker speaks TLS on this port: write [broker.tls] in the configuration, or take its other port"
_TLS_ALERT = b"\x15\x03"
"""How a TLS server's complaint begins. In MQTT it would be a packet that brokers never send."""


class OversizedPacketError(OSError):
    """The broker announced a packet larger than we are ready to hold."""


class BufferedSocket:
    """Wraps a connected non-blocking TCP socket, with its TLS if there is any; is a ``SocketLike`` to paho.

    Reading: one system call brings many packets, and ``next_packet`` tells where each of them lies. Writing: packets
    are collected, and ``flush`` sends them together, so that a batch of thousand acknowledgements is not a thousand
    small TCP segments. Packets are taken whole or not at all, so between two calls of ``send`` the stream is always at
    a packet's boundary, and ``append`` may add packets of its own.

    Positions in the outgoing stream (``unsent``, ``written``, ``taken``) count what travels: with TLS the sealed bytes,
    after each ``flush``.
    """

    __slots__ = (
        "_block",
        "_budget",
        "_held",
        "_max_packet",
        "_missing",
        "_out",
        "_parts",
        "_position",
        "_rest",
        "_sealed",
        "_sent",
        "_sock",
        "_tls",
        "_unsent",
        "_virgin",
        "error",
        "kind",
        "oversized",
    )

    def __init__(self, sock: socket.socket, max_packet_bytes: int, tls: TlsSession | None = None) -> None:
        self._sock = sock
        self._tls = tls
        self._max_packet = max_packet_bytes
        self._held = b""
        self._position = 0
        self._parts: list[bytes] = []
        self._missing = 0
        self._block = _BLOCK_BYTES
        self._budget = 0
        self._out: deque[bytes | bytearray] = deque()
        self._sealed: deque[bytes] = deque()
        self._rest = _NOTHING
        self._unsent = 0
        self._sent = 0
        self._virgin = True
        self.error = ""
        """What ended the incoming stream; paho only says that it ended."""
        self.kind: DownKind = "lost"
        self.oversized = False

    def begin_pass(self) -> None:
        """Allow so much to be read until the next pass."""
        self._budget = _BYTES_PER_PASS

    @property
    def perhaps_wants_tls(self) -> bool:
        """Whether this ended as it does when a TLS server is spoken to in the clear: without a single byte."""
        return self._tls is None and self._virgin

    @property
    def more(self) -> bool:
        """Whether reading on makes sense in this pass."""
        return bool(self._held) or self._budget > 0

    def next_packet(self) -> tuple[bytes, int, int, int]:
        """Return (bytes, start, body, end): a whole packet at ``bytes[start:end]``, whose body begins at ``body``.

        Raise ``BlockingIOError`` when none is whole yet, ``OSError`` when none will be, ``MalformedPacketError``.
        """
        while True:
            if not self._held:
                self._held = self._whole()
            held, start = self._held, self._position
            found = body_of(held, start)
            if found is not None:
                body, end = found
                self._check_size(end - body)
                if end <= len(held):
                    # An idle connection holds on to no buffer: there may be thousands of them.
                    self._held, self._position = (held, end) if end < len(held) else (b"", 0)
                    return held, start, body, end
            self._parts = [held[start:]]
            self._missing = 1 if found is None else found[1] - len(held)
            self._held, self._position = b"", 0

    def _whole(self) -> bytes:
        """Return a block from the socket, behind the parts that wait for it; with all that is missing."""
        while self._missing > 0 or not self._parts:
            # Of a packet that a block's end has cut only the rest: what is read with it is copied with it. One byte may
            # also mean that its length is not known yet.
            data = self._read(self._missing if self._missing > 1 else self._block)
            self._parts.append(data)
            self._missing -= len(data)
        whole = b"".join(self._parts) if len(self._parts) > 1 else self._parts[0]
        self._parts, self._missing = [], 0
        return whole

    def _check_size(self, size: int) -> None:
        if size > self._max_packet:  # before it is held
            self.oversized = True
            self.error = f"the broker sent a packet of more than {self._max_packet} bytes"
            raise OversizedPacketError(self.error)

    def _read(self, size: int) -> bytes:
        return self._receive(size) if self._tls is None else self._receive_sealed(self._tls)

    def _receive_sealed(self, tls: TlsSession) -> bytes:
        # All that came is opened before anything is waited for: epoll knows nothing of bytes that are in there.
        while True:
            data = b"" if tls.over else self._receive(_BLOCK_BYTES)
            try:
                opened = tls.open(data)
            except OSError as exc:
                fault = tls.explain(exc)
                self.error, self.kind = fault.reason, fault.kind
                raise
            finally:
                self._put_sealed(tls.output())
            if opened is None:
                self.error = CLOSED
                raise ConnectionError(self.error)
            if opened:
                return opened

    def _receive(self, size: int) -> bytes:
        if self._budget <= 0:
            raise BlockingIOError
        try:
            data = self._sock.recv(size)
        except BlockingIOError:
            self._budget = 0
            raise
        except OSError as exc:
            self.error = f"the connection broke: {exc.strerror or exc}"
            raise
        self._budget -= len(data)
        if len(data) < size:
            self._budget = 0  # the kernel has no more
            self._block = _BLOCK_BYTES
        elif size == self._block:
            self._block = min(4 * size, _LARGEST_BLOCK_BYTES)
        if not data:
            self.error = self.error or CLOSED
            raise ConnectionError(self.error)
        if self._virgin:
            self._look_for_tls(data)
        return data

    def _look_for_tls(self, data: bytes) -> None:
        self._virgin = False
        if self._tls is None and data.startswith(_TLS_ALERT):
            self.error, self.kind = WANTS_TLS, "no-tls"

    @property
    def congested(self) -> bool:
        """Whether so much is waiting to be sent that nothing should be added."""
        return self._unsent >= _HIGH_WATER_BYTES

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._unsent

    @property
    def written(self) -> int:
        """The position of the end of the outgoing stream: all bytes that were ever given to this socket."""
        return self._sent + self._unsent

    def taken(self) -> int:
        """Return how many of those the peer's TCP has acknowledged."""
        (queued,) = struct.unpack("i", fcntl.ioctl(self._sock, termios.TIOCOUTQ, b"\0\0\0\0"))
        return self._sent - int(queued)

    def recv(self, _size: int) -> bytes:
        """Raise ``BlockingIOError``: paho, which asks, is given its packets whole (see ``paho_client``)."""
        raise BlockingIOError

    def send(self, data: bytes | bytearray) -> int:
        """Take the packet for sending, whole; raise ``BlockingIOError`` when congested."""
        if self.congested:
            raise BlockingIOError
        self.append(data)
        return len(data)

    def append(self, packet: bytes | bytearray) -> None:
        """Take a small packet for sending, congested or not."""
        self._out.append(packet)
        self._unsent += len(packet)

    def conclude(self) -> None:
        """Announce to TLS, if there is any, that nothing follows what was taken so far."""
        if self._tls is not None:
            self._seal(self._tls)
            self._put_sealed(self._tls.goodbye())

    def flush(self) -> None:
        """Give the kernel as much as it takes; raise ``OSError`` when the connection is gone."""
        if self._tls is not None and self._out:
            self._seal(self._tls)
        waiting = self._out if self._tls is None else self._sealed
        while self._unsent:
            if not self._rest:
                self._rest = memoryview(b"".join(waiting))
                waiting.clear()
            try:
                count = self._sock.send(self._rest)
            except BlockingIOError:
                return
            # An idle connection holds on to no buffer: there may be thousands of them.
            self._rest = self._rest[count:] if count < len(self._rest) else _NOTHING
            self._sent += count
            self._unsent -= count

    def _seal(self, tls: TlsSession) -> None:
        packets = b"".join(self._out)
        self._out.clear()
        self._unsent -= len(packets)
        self._put_sealed(tls.seal(packets))

    def _put_sealed(self, data: bytes) -> None:
        if data:
            self._sealed.append(data)
            self._unsent += len(data)

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Stay non-blocking, whatever paho says."""

    def close(self) -> None:
        """Leave the socket open: the connection, which still has to take it out of the loop, closes it."""

    def shut_down_writing(self) -> None:
        """Tell the peer that nothing follows."""
        self._sock.shutdown(socket.SHUT_WR)

    def discard_input(self) -> bool:
        """Read and forget what came in; return whether the peer has closed its side."""
        try:
            while data := self._sock.recv(_BLOCK_BYTES):
                if len(data) < _BLOCK_BYTES:
                    return False
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def destroy(self) -> None:
        """Close the socket."""
        self._sock.close()
