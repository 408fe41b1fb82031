"""A load generator that acts as many devices: one process, one epoll loop, a socket for each device."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Self

import msgpack

from benchmarks.support import packets
from protocol.topics import Topics

MessagesOf = Callable[[int, int], Sequence[bytes]]
"""The messages that make the update of device number ``n`` with sequence ``s``; more than one when it is chunked."""

_CONNECTING_AT_ONCE = 200
"""Below the backlog of Mosquitto's listening socket."""
_PATIENCE_S = 60.0
_READ_BYTES = 1 << 18


class _Device:
    __slots__ = ("inbox", "number", "outbox", "packet_id", "pending", "ready", "sequence", "sock", "topic", "writing")

    def __init__(self, number: int, topic: str, sock: socket.socket) -> None:
        self.number = number
        self.topic = packets.topic_field(topic)
        self.sock = sock
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.writing = False
        self.packet_id = 0
        self.sequence = 0
        self.pending = 0
        self.ready = False


class Swarm:
    """Devices that send updates and wait for their receipts, as fast as a window of unanswered ones allows.

    ``answered`` counts receipts by status. With ``counted`` (a function that returns how many messages a bare
    subscriber has seen so far) the window is kept by that count instead, since nobody sends receipts then.
    """

    def __init__(self, port: int, federation: str, device_ids: Sequence[str]) -> None:
        self._port = port
        self._topics = Topics(federation)
        self._ids = list(device_ids)
        self._epoll = select.epoll()
        self._devices: dict[int, _Device] = {}
        self._order: list[_Device] = []
        self._ready = 0
        self._sent = 0
        self._sent_messages = 0
        self.answered: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def __enter__(self) -> Self:
        for start in range(0, len(self._ids), _CONNECTING_AT_ONCE):
            for number in range(start, min(start + _CONNECTING_AT_ONCE, len(self._ids))):
                self._open(number)
            wanted = len(self._devices)
            self._turn_until(lambda wanted=wanted: self._ready >= wanted, "subscribed devices")  # type: ignore[misc]
        return self

    def __exit__(self, *_: object) -> None:
        for device in self._order:
            device.sock.close()
        self._epoll.close()

    def send(
        self, total: int, window: int, messages_of: MessagesOf, counted: Callable[[], int] | None = None
    ) -> tuple[float, float]:
        """Send ``total`` updates, each device in turn, and return (seconds, updates per second) of the answers.

        At most ``window`` are unanswered. The clock runs from the first send to the last answer.
        """
        first_answer, first_sent, first_messages = sum(self.answered.values()), self._sent, self._sent_messages
        base = counted() if counted else 0
        turns = self._turns()
        per_update = 0

        def done() -> int:
            if counted is None:
                return sum(self.answered.values()) - first_answer
            return (counted() - base) // max(per_update, 1)

        started = time.perf_counter()
        deadline = time.monotonic() + _PATIENCE_S
        answered = 0
        while answered < total:
            while self._sent - first_sent < min(answered + window, total):
                per_update = self._send_one(next(turns), messages_of)
            self._poll(0.0005 if counted else 1.0)
            before, answered = answered, done()
            if answered > before:
                deadline = time.monotonic() + _PATIENCE_S
            elif time.monotonic() > deadline:
                sent = self._sent_messages - first_messages
                raise TimeoutError(f"{answered} of {total} updates answered ({sent} messages sent): {self.reasons}")
        seconds = time.perf_counter() - started
        return seconds, total / seconds

    def _turns(self) -> Iterator[_Device]:
        return cycle(self._order)

    def _open(self, number: int) -> None:
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=_PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        device = _Device(number, self._topics.update(self._ids[number]), sock)
        self._devices[sock.fileno()] = device
        self._order.append(device)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._write(device, packets.connect(f"swarm-{self._ids[number]}"))

    def _send_one(self, device: _Device, messages_of: MessagesOf) -> int:
        device.sequence += 1
        messages = messages_of(device.number, device.sequence)
        for payload in messages:
            device.packet_id = device.packet_id % 65535 + 1
            self._write(device, packets.publish(device.topic, device.packet_id, payload))
        self._sent += 1
        self._sent_messages += len(messages)
        return len(messages)

    def _write(self, device: _Device, data: bytes) -> None:
        if not device.outbox:
            with contextlib.suppress(BlockingIOError):
                data = data[device.sock.send(data) :]
        if data:
            device.outbox += data
            self._watch(device, writing=True)

    def _watch(self, device: _Device, *, writing: bool) -> None:
        if device.writing != writing:
            device.writing = writing
            self._epoll.modify(device.sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if writing else 0))

    def _turn_until(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not reached():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited in vain for {what}")
            self._poll(1.0)

    def _poll(self, timeout_s: float) -> None:
        for fd, events in self._epoll.poll(timeout_s, 1024):
            device = self._devices[fd]
            if events & select.EPOLLOUT:
                self._flush(device)
            if events & ~select.EPOLLOUT:
                self._read(device)

    def _flush(self, device: _Device) -> None:
        try:
            sent = device.sock.send(device.outbox)
        except BlockingIOError:
            return
        del device.outbox[:sent]
        if not device.outbox:
            self._watch(device, writing=False)

    def _read(self, device: _Device) -> None:
        data = device.sock.recv(_READ_BYTES)
        if not data:
            raise ConnectionError(f"the broker closed the connection of {self._ids[device.number]}")
        device.inbox += data
        acknowledgements = bytearray()
        for kind, flags, body in packets.take(device.inbox):
            if kind == packets.PUBLISH:
                packet_id, payload = packets.published(flags, body)
                if packet_id:
                    acknowledgements += packets.puback(packet_id)
                self._answer(payload)
            elif kind == packets.CONNACK:
                self._write(device, packets.subscribe(1, self._topics.receipt(self._ids[device.number])))
            elif kind == packets.SUBACK:
                self._ready += 1
        if acknowledgements:
            self._write(device, bytes(acknowledgements))

    def _answer(self, payload: bytes) -> None:
        receipt = msgpack.unpackb(payload)
        self.answered[receipt["status"]] += 1
        if receipt["status"] != "accepted":
            self.reasons[f"{receipt['status']}: {receipt['reason'][:80]}"] += 1
