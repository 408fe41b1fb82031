"""What TLS costs against MQTT in the clear: time to connect, bytes, throughput, and memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.support.digits import Part
from benchmarks.support.federation import TOPICS, agent_file
from benchmarks.support.processes import Program, command, free_port
from benchmarks.support.proxy import CountingProxy
from benchmarks.support.report import Options, Row, paired, progress, run
from benchmarks.support.watcher import Watcher
from fedmq.embedded_broker import start
from fedmq.provision import authority
from fedmq.provision.files import write_pem, write_public
from protocol.adapters.mqtt import MqttLink
from protocol.link import BrokerSettings, LinkEvent, LinkUp, Published

_SETTLE_S = 1.0
_MB = 1e6
_PATIENCE_S = 60.0
_CHUNK = 65_536
_SMALL = 1_000
_UNDER_WAY = 32
_DAY = timedelta(days=1)

_LINKS = """
import sys, threading, time, msgspec
from protocol.adapters.mqtt import LinkLoop, MqttLink
from protocol.link import BrokerSettings, LinkUp
count, settings = int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=BrokerSettings)
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
up, loop = threading.Semaphore(0), LinkLoop()
def deliver(event):
    if isinstance(event, LinkUp):
        up.release()
    return True
def connect(name):
    link = MqttLink(settings, name, deliver, loop=loop)
    link.start()
    return link
links = [connect("first")]
up.acquire()
before = rss()
for number in range(count):
    links.append(connect(f"link-{number}"))
    if number % 50 == 49:
        for _ in range(50):
            up.acquire()
print((rss() - before) / count)
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A broker, and how it is spoken to."""

    port: int
    watching: int
    """A port without TLS, for those who only look."""
    tls: dict[str, str] | None

    def settings(self, port: int | None = None) -> BrokerSettings:
        """Return the settings of a link."""
        table = {"host": "127.0.0.1", "port": port or self.port, **({"tls": self.tls} if self.tls else {})}
        return msgspec.convert(table, BrokerSettings)


@contextmanager
def place(directory: Path, *, tls: bool) -> Iterator[Place]:
    """Run a broker, with mutual TLS or without."""
    directory.mkdir()
    watching = free_port()
    lines, own = _certificates(directory) if tls else ("", None)
    with start("mosquitto", directory, extra=f"{lines}listener {watching} 127.0.0.1\n") as broker:
        yield Place(broker.port, watching, own)


def _certificates(folder: Path) -> tuple[str, dict[str, str]]:
    now = datetime.now(UTC)
    life = {"not_before": now - _DAY, "not_after": now + _DAY}
    ca = authority.make_ca("benchmark", **life)
    server = authority.server_certificate(ca, ["127.0.0.1"], **life)
    client = authority.client_certificate(ca, "device", **life)
    write_public(folder / "ca.crt", ca.certificate_pem)
    certfile, keyfile = write_pem(folder, "broker", server.certificate_pem, server.key_pem)
    certificate, key = write_pem(folder, "device", client.certificate_pem, client.key_pem)
    lines = f"cafile {folder}/ca.crt\ncertfile {certfile}\nkeyfile {keyfile}\nrequire_certificate true\n"
    return lines, {"ca": f"{folder}/ca.crt", "certificate": str(certificate), "key": str(key)}


class Peer:
    """A link that can be waited for."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._changed = threading.Condition()
        self._up = False
        self._published = 0
        self.link = MqttLink(settings, "peer", self._take)
        self.link.start()
        self._wait(lambda: self._up)

    def publish(self, count: int, payload: bytes) -> float:
        """Publish so many messages, 32 under way; return the seconds until the broker has acknowledged them all."""
        begun, before = time.perf_counter(), self._published
        for sent in range(count):
            self._wait(lambda sent=sent: self._published >= before + sent - _UNDER_WAY)  # type: ignore[misc]
            if not self.link.publish("bulk", payload, token="t"):  # noqa: S106 - no password
                raise RuntimeError("the link does not take the message")
        self._wait(lambda: self._published >= before + count)
        return time.perf_counter() - begun

    def _take(self, event: LinkEvent) -> bool:
        with self._changed:
            self._up = self._up or isinstance(event, LinkUp)
            self._published += isinstance(event, Published)
            self._changed.notify_all()
        return True

    def _wait(self, true: Callable[[], bool]) -> None:
        with self._changed:
            if not self._changed.wait_for(true, _PATIENCE_S):
                raise TimeoutError("the broker does not answer")


def agent(directory: Path, where: Place) -> tuple[float, float]:
    """Return an agent's seconds from start to its first state, and its MB when idle."""
    part = Part(np.zeros((8, 64), dtype=np.float32), np.zeros(8, dtype=np.int64))
    file = agent_file(directory, where.port, "device", part, {"broker": {"port": where.port}})
    if where.tls:
        tls = "\n".join(f'{key} = "{value}"' for key, value in where.tls.items())
        file.write_text(f"{file.read_text()}\n[broker.tls]\n{tls}\n")
    with Watcher(where.watching, [TOPICS.device_state("device")]) as watcher:
        begun = time.perf_counter()
        with Program([command("fedmq-agent"), "run", "--config", str(file)], directory / "agent.log") as program:
            first = watcher.wait_for(lambda seen: bool(seen.payload), _PATIENCE_S, program.check)
            time.sleep(_SETTLE_S)
            return first.at - begun, program.rss_bytes() / _MB


def traffic(where: Place, count: int) -> dict[str, float]:
    """Return bytes to connect, bytes per chunk, and what passes in a second."""
    with CountingProxy(where.port) as proxy:
        peer = Peer(where.settings(proxy.port))
        connecting = proxy.up_bytes + proxy.down_bytes
        peer.publish(count, b"x" * _CHUNK)
        each = (proxy.up_bytes + proxy.down_bytes - connecting) / count
        peer.link.stop()
    peer = Peer(where.settings())
    peer.publish(count // 4, b"x" * _CHUNK)  # for nothing: buffers grow
    chunks = count * _CHUNK / peer.publish(count, b"x" * _CHUNK) / _MB
    small = 20 * count / peer.publish(20 * count, b"x" * _SMALL)
    peer.link.stop()
    return {"connecting": connecting, "each": each, "chunks": chunks, "small": small}


def links(where: Place, count: int) -> float:
    """Return the KB that a further link takes in a process that has some."""
    settings = msgspec.json.encode(where.settings()).decode()
    arguments = [sys.executable, "-c", _LINKS, str(count), settings]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=5 * _PATIENCE_S, check=True)
    return float(done.stdout) / 1e3


def measure(options: Options) -> list[Row]:
    """Measure with and without TLS in turns."""
    count, many = (50, 100) if options.quick else (500, 500)
    found: dict[str, tuple[list[float], list[float]]] = {}
    for _ in range(options.repeat):
        for side, tls in enumerate((True, False)):
            progress(f"{'TLS' if tls else 'clear'}: agent, traffic, many links")
            with tempfile.TemporaryDirectory() as home, place(Path(home) / "broker", tls=tls) as where:
                seconds, memory = agent(Path(home), where)
                figures = {"start": seconds, "memory": memory, **traffic(where, count), "links": links(where, many)}
            for name, figure in figures.items():
                found.setdefault(name, ([], []))[side].append(figure)
    return [
        paired("agent, start to connected", *found["start"], "s"),
        paired("agent, memory idle", *found["memory"], "MB RSS"),
        paired("bytes from TCP's connect to the broker's CONNACK", *found["connecting"], "bytes"),
        paired("bytes per chunk of 64 KB, acknowledged", *found["each"], "bytes"),
        paired("chunks of 64 KB, QoS 1", *found["chunks"], "MB/s"),
        paired("messages of 1 KB, QoS 1", *found["small"], "1/s"),
        paired("a further link in one process", *found["links"], "KB"),
    ]


if __name__ == "__main__":
    run("tls", "what TLS costs against MQTT in the clear", measure)
