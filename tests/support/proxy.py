"""A TCP proxy that does to connections what networks do, at the moment a test wants it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

Direction: TypeAlias = Literal["up", "down"]
"""``up``: from the client to the broker."""

_RESET = struct.pack("ii", 1, 0)
_BUFFER_BYTES = 2048


class _Line:
    """One client's connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.tasks: list[asyncio.Task[None]] = []

    def close(self, *, reset: bool) -> None:
        for sock in (self.client, self.server):
            if reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()
        for task in self.tasks:
            task.cancel()


class FaultProxy:
    """Forwards ``host:port`` to a broker. All methods may be called from any thread, while traffic flows.

    Its receive buffers are small, so that a slow line is felt by the sender as it would be by a sensor on a bad link.
    """

    def __init__(self, broker_port: int, broker_host: str = "127.0.0.1") -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self._broker = (broker_host, broker_port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._lines: set[_Line] = set()
        self._thawed: asyncio.Event | None = None
        self._rate: float | None = None
        self._latency_s = 0.0
        self._corrupt: dict[Direction, int] = {}
        self._reset_after: dict[Direction, int] = {}
        self._stall: tuple[random.Random, float, float] | None = None
        self.forwarded: dict[Direction, int] = {"up": 0, "down": 0}
        self.accepted = 0

    # --- for tests

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def rate(self, bytes_per_s: float | None) -> None:
        """Forward no faster than this in each direction; None: as fast as possible."""
        self._rate = bytes_per_s

    def latency(self, seconds: float) -> None:
        """Hold each piece of data back for so long."""
        self._latency_s = seconds

    def stall(self, rng: random.Random, probability: float, seconds: float) -> None:
        """Hold a piece of data back with this probability: what a TCP user sees of lost packets."""
        self._stall = (rng, probability, seconds)

    def freeze(self) -> None:
        """Forward nothing more, and close nothing: half-open, as when a NAT box forgot the connection."""
        self._call(self._freeze)

    def thaw(self) -> None:
        """Forward again, what was held back included."""
        self._call(self._thaw)

    def cut(self, *, reset: bool = True) -> None:
        """End all connections now, by RST or by FIN."""
        self._call(lambda: self._cut(reset=reset))

    def refuse(self) -> None:
        """Refuse new connections."""
        self._call(self._stop_listening)

    def accept(self) -> None:
        """Take connections again, on the same port."""
        self._call(self._open)

    def reset_after(self, byte_count: int, direction: Direction = "up") -> None:
        """Reset the connection when so many more bytes were forwarded: in the middle of whatever it is."""
        self._reset_after[direction] = byte_count

    def corrupt(self, direction: Direction, offset: int = 0) -> None:
        """Invert the byte ``offset`` bytes from here."""
        self._corrupt[direction] = offset

    def wait_until(self, true: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until traffic has made the condition true (it is looked at whenever something was forwarded)."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not true():
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"not within {timeout_s} s: {what}"
                self._changed.wait(left_s)

    # --- in the proxy's thread

    def _call(self, function: Callable[[], None]) -> None:
        done: threading.Event = threading.Event()

        def run() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(PATIENCE_S)

    def _open(self) -> None:
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        listener.setblocking(False)
        listener.bind((self.host, self.port))
        listener.listen(1024)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._accepting = self._loop.create_task(self._accept(listener))

    def _stop_listening(self) -> None:
        if self._listener is not None and self._accepting is not None:
            self._accepting.cancel()
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _close(self) -> None:
        self._stop_listening()
        self._cut(reset=True)

    def _cut(self, *, reset: bool) -> None:
        for line in list(self._lines):
            self._end(line, reset=reset)

    def _end(self, line: _Line, *, reset: bool) -> None:
        self._lines.discard(line)
        for sock in (line.client, line.server):
            if sock.fileno() >= 0:
                self._loop.remove_reader(sock)
                self._loop.remove_writer(sock)
        line.close(reset=reset)
        self._notify()

    def _freeze(self) -> None:
        self._thawed = asyncio.Event()

    def _thaw(self) -> None:
        if self._thawed is not None:
            self._thawed.set()
        self._thawed = None

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _address = await self._loop.sock_accept(listener)
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket()
            server.setblocking(False)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = _Line(client, server)
            self._lines.add(line)
            self.accepted += 1
            self._notify()
            line.tasks.append(self._loop.create_task(self._serve(line)))

    async def _serve(self, line: _Line) -> None:
        try:
            await self._loop.sock_connect(line.server, self._broker)
        except OSError:
            self._end(line, reset=True)
            return
        for source, target, direction in (
            (line.client, line.server, "up"),
            (line.server, line.client, "down"),
        ):
            line.tasks.append(self._loop.create_task(self._pump(line, source, target, direction)))  # type: ignore[arg-type]

    async def _pump(self, line: _Line, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        try:
            while data := await self._loop.sock_recv(source, self._piece()):
                if self._thawed is not None:
                    await self._thawed.wait()
                await asyncio.sleep(self._delay_s(len(data)))
                piece, ends = self._spoil(data, direction)
                await self._loop.sock_sendall(target, piece)
                self.forwarded[direction] += len(piece)
                self._notify()
                if ends:
                    self._end(line, reset=True)
                    return
        except OSError:
            self._end(line, reset=True)
        else:
            self._end(line, reset=False)

    def _piece(self) -> int:
        return 65536 if self._rate is None else max(1, min(1024, int(self._rate / 10)))

    def _delay_s(self, size: int) -> float:
        delay_s = self._latency_s
        if self._rate is not None:
            delay_s += size / self._rate
        if self._stall is not None:
            rng, probability, seconds = self._stall
            delay_s += seconds if rng.random() < probability else 0.0
        return delay_s

    def _spoil(self, data: bytes, direction: Direction) -> tuple[bytes, bool]:
        offset = self._corrupt.get(direction)
        if offset is not None:
            if offset < len(data):
                data = data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 :]
                del self._corrupt[direction]
            else:
                self._corrupt[direction] = offset - len(data)
        left = self._reset_after.get(direction)
        if left is None:
            return data, False
        if left > len(data):
            self._reset_after[direction] = left - len(data)
            return data, False
        del self._reset_after[direction]
        return data[:left], True
