"""The bare baseline of the agent: an interpreter with paho that connects and says so.

    python -m benchmarks.support.bare_device PORT TOPIC [MODULE...]

It imports the MODULEs first (``numpy``, say), publishes one message on TOPIC once it is connected, and stays.
"""

from __future__ import annotations

import importlib
import sys

from benchmarks.support.bare_client import bare_client


def main(port: int, topic: str, modules: list[str]) -> None:
    """Connect, say so, and stay connected."""
    for module in modules:
        importlib.import_module(module)
    client = bare_client(lambda client: client.publish(topic, b"here", qos=1))
    client.connect("127.0.0.1", port)
    client.loop_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
