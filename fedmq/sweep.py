"""Takes a federation's retained messages off a broker that is not ours."""

from __future__ import annotations

import queue
import secrets
import time
from typing import TYPE_CHECKING

from protocol.adapters.mqtt import MqttLink
from protocol.link import LinkUp, Received, Subscribed
from protocol.topics import Topics

if TYPE_CHECKING:
    from protocol.link import BrokerSettings, LinkEvent

MAX_INBOX = 10_000
QUIET_S = 1.0
"""No further retained message for so long: that was all."""


def sweep(broker: BrokerSettings, federation: str, timeout_s: float = 20.0) -> int:
    """Clear everything that is retained under the federation's topics; return how many messages that were.

    The federation's processes must have ended, or they would publish it again.
    """
    inbox: queue.Queue[LinkEvent] = queue.Queue(maxsize=MAX_INBOX)

    def deliver(event: LinkEvent) -> bool:
        try:
            inbox.put_nowait(event)
        except queue.Full:
            return False
        return True

    link = MqttLink(broker, f"fedmq-sweep-{secrets.token_hex(4)}", deliver)
    link.start()
    cleared = 0
    deadline = time.monotonic() + timeout_s
    wait_s = timeout_s
    try:
        while (left_s := deadline - time.monotonic()) > 0:
            event = inbox.get(timeout=min(left_s, wait_s))
            if isinstance(event, LinkUp):
                link.subscribe([f"{Topics(federation).root}/#"])
            elif isinstance(event, Subscribed):
                wait_s = QUIET_S  # retained messages follow the answer
            elif isinstance(event, Received) and event.retain and event.payload:
                cleared += link.publish(event.topic, b"", retain=True)
    except queue.Empty:
        pass
    finally:
        link.stop()
    return cleared
