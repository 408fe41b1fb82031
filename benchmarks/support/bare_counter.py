"""The bare baseline of the intake: a paho subscriber that only counts what comes.

    python -m benchmarks.support.bare_counter PORT TOPIC FILE

The count stands in the first eight bytes of FILE, so that whoever sends can watch it without a message.
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt

from benchmarks.support.bare_client import bare_client
from benchmarks.support.processes import Program


class BareCounter:
    """The running counter, seen from outside."""

    def __init__(self, program: Program, path: Path) -> None:
        self.program = program
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 16)

    def count(self) -> int:
        """Return how many messages it has received."""
        value: int = struct.unpack_from("<q", self._memory)[0]
        return value

    def ready(self) -> bool:
        """Return whether its subscription is granted."""
        return self._memory[8] == 1


@contextmanager
def bare_counter(port: int, topic: str, directory: Path) -> Iterator[BareCounter]:
    """Run a counter until the block ends."""
    path = directory / "count"
    path.write_bytes(bytes(16))
    arguments = [sys.executable, "-m", "benchmarks.support.bare_counter", str(port), topic, str(path)]
    with Program(arguments, directory / "counter.log") as program:
        counter = BareCounter(program, path)
        while not counter.ready():
            program.check()
        yield counter


def main(port: int, topic: str, path: Path) -> None:
    """Count for ever."""
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 16)
    count = 0

    def counted(_client: mqtt.Client, _userdata: object, _message: mqtt.MQTTMessage) -> None:
        nonlocal count
        count += 1
        struct.pack_into("<q", memory, 0, count)

    def granted(_client: mqtt.Client) -> None:
        memory[8] = 1

    client = bare_client(lambda client: client.subscribe(topic, qos=1), granted)
    client.on_message = counted
    client.connect("127.0.0.1", port)
    client.loop_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
