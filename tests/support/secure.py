"""A federation's certificates and a broker that asks for them, for one test; and clients that speak MQTT over TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Literal, Self

from paho.mqtt.client import Client, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fedmq.embedded_broker import HOST, EmbeddedBroker, start
from fedmq.provision.authority import (
    Credential,
    Revoked,
    client_certificate,
    make_ca,
    make_crl,
    server_certificate,
)
from fedmq.secured import Secured
from protocol.topics import Topics
from tests.support.patience import PATIENCE_S

FEDERATION = "demo"
TOPICS = Topics(FEDERATION)
DAY = timedelta(days=1)


@dataclass
class Keys:
    """An authority and a folder of certificates, as ``fedmq provision`` would make them."""

    folder: Path
    ca: Credential = field(init=False)
    revoked: list[Revoked] = field(default_factory=list)
    issued: dict[str, Credential] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.now = datetime.now(UTC)
        self.ca = make_ca(FEDERATION, not_before=self.now - DAY, not_after=self.now + 30 * DAY)
        (self.folder / "ca.crt").write_bytes(self.ca.certificate_pem)
        self.renew_broker()
        self.write_crl()

    def renew_broker(self) -> None:
        made = server_certificate(
            self.ca, [HOST, "localhost"], not_before=self.now - DAY, not_after=self.now + 30 * DAY
        )
        self.put("broker", made)

    def write_crl(self, *, next_update: datetime | None = None) -> None:
        text = make_crl(self.ca, self.revoked, issued=self.now - DAY, next_update=next_update or self.now + 30 * DAY)
        (self.folder / "crl.pem").write_bytes(text)

    def revoke(self, name: str) -> None:
        self.revoked.append(Revoked(self.client(name).certificate.serial_number, self.now - DAY / 2))
        self.write_crl()

    def client(self, name: str) -> Credential:
        """Return the certificate with this common name; made when it is asked for the first time."""
        if name not in self.issued:
            made = client_certificate(self.ca, name, not_before=self.now - DAY, not_after=self.now + 30 * DAY)
            self.issued[name] = made
            self.put(name, made)
        return self.issued[name]

    def put(self, name: str, made: Credential) -> None:
        certificate, key = self.paths(name)
        certificate.write_bytes(made.certificate_pem)
        key.touch(0o600)
        key.write_bytes(made.key_pem)

    def context(self, name: str | None) -> ssl.SSLContext:
        """Return a client's TLS context; None: without a certificate."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        if name is not None:
            self.client(name)
            context.load_cert_chain(*self.paths(name))
        return context

    def paths(self, name: str) -> tuple[Path, Path]:
        """Return where certificate and key are, whatever characters the name has."""
        tame = name.replace("/", "%2F")
        return self.folder / f"{tame}.crt", self.folder / f"{tame}.key"


@contextmanager
def secure_broker(directory: Path, **more: Any) -> Iterator[tuple[EmbeddedBroker, Keys]]:
    """A running Mosquitto with the shipped configuration, and the certificates of its federation."""
    keys = Keys(directory / "keys")
    options = {name: more.pop(name) for name in ("persistent", "extra") if name in more}
    secured = Secured(federation=FEDERATION, folder=keys.folder, **more)
    with start("mosquitto", directory / "mosquitto", secured=secured, **options) as broker:
        yield broker, keys


class Guest:
    """An MQTT client with a certificate: paho in its own thread, and everything that it hears in a queue."""

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext | None,
        *,
        client_id: str = "",
        protocol: Literal["5", "3.1.1"] = "5",
        clean: bool = True,
        will: tuple[str, bytes] | None = None,
    ) -> None:
        version = MQTTv5 if protocol == "5" else MQTTv311
        session = {} if protocol == "5" else {"clean_session": clean}
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version, **session)  # type: ignore[arg-type]  # a flag
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        if context is not None:
            self._client.tls_set_context(context)
        if will is not None:
            self._client.will_set(*will, qos=1, retain=True)
        self.connected: Queue[Any] = Queue()
        self.gone: Queue[Any] = Queue()
        self.messages: Queue[MQTTMessage] = Queue()
        self._published: Queue[tuple[int, Any]] = Queue()
        self._subscribed: Queue[list[Any]] = Queue()
        self._client.reconnect_delay_set(3600, 3600)  # once gone, it stays away
        more: dict[str, Any] = {}
        if protocol == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
            properties.SessionExpiryInterval = 0 if clean else 3600
            more = {"clean_start": clean, "properties": properties}
        self._client.connect(HOST, port, **more)
        self._client.loop_start()

    def __enter__(self) -> Self:
        self.flags = self.connected.get(timeout=PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def die(self) -> None:
        """Break the connection without a goodbye: the broker publishes the will."""
        sock = self._client.socket()
        assert isinstance(sock, socket.socket)
        sock.shutdown(socket.SHUT_RDWR)

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False, qos: int = 1) -> str:
        """Publish and return the broker's reason."""
        self._client.publish(topic, payload, qos=qos, retain=retain)
        return str(self._published.get(timeout=PATIENCE_S)[1])

    def send(self, topic: str, payload: bytes = b"x", *, qos: int = 1) -> None:
        """Publish and wait for nothing."""
        self._client.publish(topic, payload, qos=qos)

    def subscribe(self, *filters: str) -> list[str]:
        self._client.subscribe([(filter_, 1) for filter_ in filters])
        return [str(reason) for reason in self._subscribed.get(timeout=PATIENCE_S)]

    def hear(self) -> MQTTMessage:
        return self.messages.get(timeout=PATIENCE_S)

    def heard(self) -> list[str]:
        """Return the topics of everything that came, without waiting."""
        topics = []
        try:
            while True:
                topics.append(self.messages.get_nowait().topic)
        except Empty:
            return topics

    def _on_connect(self, _client: Client, _data: Any, flags: Any, reason: Any, _more: Any) -> None:
        self.connected.put((str(reason), flags.session_present))

    def _on_disconnect(self, _client: Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        self.gone.put(str(reason))

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self.messages.put(message)

    def _on_publish(self, _client: Client, _data: Any, mid: int, reason: Any, _more: Any) -> None:
        self._published.put((mid, reason))

    def _on_subscribe(self, _client: Client, _data: Any, _mid: int, reasons: list[Any], _more: Any) -> None:
        self._subscribed.put(reasons)
