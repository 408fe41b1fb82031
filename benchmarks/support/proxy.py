"""A TCP proxy that counts: what passes between clients and the broker's socket, in each direction."""

from __future__ import annotations

import asyncio
import socket
import threading
from types import TracebackType
from typing import Self

_BLOCK = 256 * 1024


class CountingProxy:
    """Listens on a free loopback port and passes everything on to ``broker_port``.

    ``up_bytes`` go to the broker, ``down_bytes`` come from it: bytes of the TCP stream, so MQTT's own headers,
    acknowledgements and pings are in, IP and TCP headers are not.
    """

    def __init__(self, broker_port: int) -> None:
        self.port = 0
        self.up_bytes = 0
        self.down_bytes = 0
        self.connections = 0
        self._broker_port = broker_port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="counting-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10.0):
            raise TimeoutError("the proxy does not start")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        broker, to_broker = await asyncio.open_connection("127.0.0.1", self._broker_port)
        for writer in (to_client, to_broker):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.gather(self._up(client, to_broker), self._down(broker, to_client))
        except ConnectionError:
            pass
        finally:
            to_client.close()
            to_broker.close()

    async def _up(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_BLOCK):
            self.up_bytes += len(data)
            sink.write(data)
            await sink.drain()
        sink.close()

    async def _down(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_BLOCK):
            self.down_bytes += len(data)
            sink.write(data)
            await sink.drain()
        sink.close()
