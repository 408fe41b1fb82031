"""The socket that paho sees: buffered both ways, and with a bound on what a broker can make us hold."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections import deque

from protocol.adapters.packets import body_of

_BLOCK_BYTES = 64 * 1024
_READS_PER_PASS = 16
"""Fairness: at most about a megabyte from one link before the others of the loop have their turn."""

_HIGH_WATER_BYTES = 256 * 1024
"""Enough to keep any link busy; more would only be a queue that nobody can look into."""

_NOTHING = memoryview(b"")


class OversizedPacketError(OSError):
    """The broker announced a packet larger than we are ready to hold."""


class BufferedSocket:
    """Wraps a connected non-blocking TCP socket; has what paho's ``SocketLike`` asks for.

    Reading: one system call brings many packets, and ``next_packet`` tells where each of them lies. Writing: packets
    are collected, and ``flush`` sends them together, so that a batch of thousand acknowledgements is not a thousand
    small TCP segments. Packets are taken whole or not at all, so between two calls of ``send`` the stream is always at
    a packet's boundary, and ``append`` may add packets of its own.
    """

    __slots__ = (
        "_budget",
        "_held",
        "_max_packet",
        "_missing",
        "_out",
        "_parts",
        "_position",
        "_rest",
        "_sent",
        "_sock",
        "_unsent",
        "error",
        "oversized",
    )

    def __init__(self, sock: socket.socket, max_packet_bytes: int) -> None:
        self._sock = sock
        self._max_packet = max_packet_bytes
        self._held = b""
        self._position = 0
        self._parts: list[bytes] = []
        self._missing = 0
        self._budget = 0
        self._out: deque[bytes | bytearray] = deque()
        self._rest = _NOTHING
        self._unsent = 0
        self._sent = 0
        self.error = ""
        """What ended the incoming stream; paho only says that it ended."""
        self.oversized = False

    def begin_pass(self) -> None:
        """Allow so many reads until the next pass."""
        self._budget = _READS_PER_PASS

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
            data = self._read(max(self._missing, _BLOCK_BYTES))
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
        if self._budget <= 0:
            raise BlockingIOError
        self._budget -= 1
        try:
            data = self._sock.recv(size)
        except BlockingIOError:
            self._budget = 0
            raise
        except OSError as exc:
            self.error = f"the connection broke: {exc.strerror or exc}"
            raise
        if len(data) < size:
            # The kernel has no more. (Not so with TLS, whose records end reads early: look at ``pending`` there.)
            self._budget = 0
        if not data:
            self.error = "the broker closed the connection"
            raise ConnectionError(self.error)
        return data

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
        """All bytes that were ever given to this socket: the position of the end of the outgoing stream."""
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

    def flush(self) -> None:
        """Give the kernel as much as it takes; raise ``OSError`` when the connection is gone."""
        while self._unsent:
            if not self._rest:
                self._rest = memoryview(b"".join(self._out))
                self._out.clear()
            try:
                count = self._sock.send(self._rest)
            except BlockingIOError:
                return
            # An idle connection holds on to no buffer: there may be thousands of them.
            self._rest = self._rest[count:] if count < len(self._rest) else _NOTHING
            self._sent += count
            self._unsent -= count

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
