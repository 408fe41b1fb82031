"""Where the demo takes place: broker, folder, and how to get there. In the clear, on somebody's broker, or secure.

The order differs: a secure broker needs its certificates before it starts, and they are made for its port.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmq import embedded_broker
from fedmq.strangers import Strangers, tls_version
from fedmq.strongroom import Strongroom
from fedmq.sweep import sweep
from fedmq.workshop import Workshop
from protocol.link import BrokerSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from fedmq.embedded_broker import EmbeddedBroker, Kind

    Write = Callable[[Workshop, str, int], None]
    """Writes the fleet's files into the workshop, for a broker at this host and port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Everything is there but the aggregator and the devices."""

    workshop: Workshop
    broker: EmbeddedBroker | None
    """Ours, if it is."""
    settings: BrokerSettings
    """How the demo itself reaches it."""
    tls: str = ""
    """The version, as it was agreed on with the broker; empty: in the clear."""
    strangers: Strangers | None = None

    @property
    def address(self) -> str:
        """The broker's, for people."""
        return f"{self.settings.host}:{self.settings.port}"


def check_secure(wanted: Kind | BrokerSettings) -> None:
    """Raise ``BrokerError`` when there is no such broker that could be secured."""
    if isinstance(wanted, BrokerSettings):
        raise embedded_broker.BrokerError(
            "--secure makes a broker of its own, with certificates of its own: leave --broker out. "
            "A broker of yours is secured with fedmq provision (docs/security.md)"
        )
    if wanted == "iotcore":
        raise embedded_broker.BrokerError(
            "--secure needs Mosquitto: iotcore has no access control (Debian: apt install mosquitto)"
        )
    if embedded_broker.find_mosquitto() is None:
        raise embedded_broker.BrokerError(
            "--secure needs Mosquitto 2, and there is no program 'mosquitto' here (Debian: apt install mosquitto)"
        )


def plain(stack: ExitStack, folder: Path, federation: str, wanted: Kind, write: Write) -> Ground:
    """Start a broker on the loopback interface that takes everybody."""
    broker = stack.enter_context(embedded_broker.start(wanted, folder / "broker"))
    # A laptop's demo: nobody wants to wait for the backoff that spares a fleet's network.
    settings = BrokerSettings(host=broker.host, port=broker.port_v5, reconnect_min_s=0.2, reconnect_max_s=1.0)
    workshop = Workshop(folder, federation)
    write(workshop, settings.host, settings.port)
    return Ground(workshop=workshop, broker=broker, settings=settings)


def elsewhere(stack: ExitStack, folder: Path, federation: str, there: BrokerSettings, write: Write) -> Ground:
    """Use the broker that runs there, and leave nothing behind."""
    # Called back last, when all who would publish again have ended.
    stack.callback(sweep, there, federation)
    workshop = Workshop(folder, federation)
    write(workshop, there.host, there.port)
    return Ground(workshop=workshop, broker=None, settings=there)


def secure(stack: ExitStack, folder: Path, federation: str, victim: str, write: Write) -> Ground:
    """Make a keystore and all identities, start a broker that takes nobody else; strangers will try ``victim``."""
    port = embedded_broker.free_port()
    room = Strongroom(folder, federation)
    write(room, embedded_broker.HOST, port)
    broker = stack.enter_context(embedded_broker.start("mosquitto", folder / "broker", port, secured=room.secured))
    settings = stack.enter_context(room.watching())
    strangers = Strangers(room.visitors(settings, victim))
    stack.callback(strangers.stop)
    return Ground(workshop=room, broker=broker, settings=settings, tls=tls_version(settings), strangers=strangers)
