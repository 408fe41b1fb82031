"""A broker of our own on the loopback interface, for the demo and for tests: Mosquitto, or iotcore where there is none.

It never outlives this process, whichever way that ends (see ``fedmq.processes``).
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from fedmq.processes import Child, log_tail
from fedmq.secured import Secured

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

Kind: TypeAlias = Literal["auto", "mosquitto", "iotcore"]

HOST = "127.0.0.1"

_READY_S = 60.0
_POLL_S = 0.005
_STOP_S = 30.0
"""Mosquitto writes down its memory then, and what has to be killed would forget it. A disk may be slow."""
_ATTEMPTS = 8

# Below the range from which Linux takes the ports of outgoing connections: while the broker is down, none of the many
# connections around can be given its port by chance.
_LOWEST_PORT = 20000
_HIGHEST_PORT = 32767

_ELSEWHERE = "/usr/sbin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/sbin"
"""Where Debian and others put the program, though it is not on every user's PATH."""

_SERVE_IOTCORE = """
import logging, sys
from iotcore.iotcore import IotCoreBroker
logging.basicConfig(level=logging.ERROR)
logging.getLogger("rumqttd").setLevel(logging.CRITICAL)  # it reports each packet as an error
IotCoreBroker(config_path=sys.argv[1]).run_forever()
"""

_IOTCORE_LISTENER = """
[{version}.1]
name = "{version}"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[{version}.1.connections]
connection_timeout_ms = 60000
max_payload_size = 262144
max_inflight_count = 100
dynamic_filters = true
"""

_IOTCORE = """
id = 0
[router]
id = 0
max_connections = 20000
max_outgoing_packet_count = 200
# Everything is in memory, in a log for each topic filter: at most 4 x 4 MiB of each.
max_segment_size = 4194304
max_segment_count = 4
"""


class BrokerError(RuntimeError):
    """The broker could not be started; the message says why, and how to help."""


class EmbeddedBroker:
    """A running broker; ``start`` makes it. Stop it, or use it as a context manager."""

    def __init__(self, kind: Literal["mosquitto", "iotcore"], child: Child, ports: tuple[int, ...]) -> None:
        self.kind = kind
        self.host = HOST
        self.port = ports[0]
        self.port_v5 = ports[-1]
        """Where MQTT 5 is spoken: iotcore has a port of its own for that, and 3.1.1 on ``port``."""
        self.log = child.log
        self._child = child
        self._ports = ports

    @property
    def pid(self) -> int:
        """Process id; raise ``BrokerError`` when it is not running."""
        pid = self._child.pid
        if pid is None:
            raise BrokerError("the broker is not running")
        return pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._child.running

    def stop(self) -> None:
        """End it politely: Mosquitto saves its memory then. Nothing happens when it is not running."""
        self._child.terminate()
        if not self._child.wait(_STOP_S):
            self._child.kill()

    def kill(self) -> None:
        """SIGKILL: what it has not saved is lost."""
        self._child.kill()

    def reload(self) -> None:
        """Have it read its configuration, certificates and lists again (SIGHUP); it does so a moment later."""
        os.kill(self.pid, signal.SIGHUP)

    def restart(self) -> None:
        """Start it again on the same port, with the memory that it has saved; stop it first if it is running."""
        self.stop()
        self._begin()

    def _begin(self) -> None:
        self._child.start()
        deadline = time.monotonic() + _READY_S
        for port in self._ports:
            _wait_until_ready(self._child, self.kind, port, deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(
    kind: Kind,
    directory: Path,
    port: int | None = None,
    *,
    persistent: bool = True,
    extra: str = "",
    secured: Secured | None = None,
) -> EmbeddedBroker:
    """Start a broker that keeps its configuration, log and memory in ``directory``, and wait until it listens.

    ``port`` None: any free one. ``persistent`` and ``extra`` (lines of configuration) are for Mosquitto only, which
    saves its memory every second; iotcore has none. ``secured``: with mutual TLS and access control, as shipped
    (Mosquitto only). Raise ``BrokerError`` when the program is missing, the port is
    taken, or it does not come up. Call it from the main thread (see ``fedmq.processes.Child``).
    """
    chosen = _choose("mosquitto" if secured and kind == "auto" else kind)
    if secured and chosen != "mosquitto":
        raise BrokerError("only Mosquitto can be secured: iotcore has no access control")
    directory.mkdir(parents=True, exist_ok=True)
    for attempt in range(_ATTEMPTS):
        ports = _ports(chosen, port)
        child = _child(chosen, directory, ports, persistent=persistent, extra=extra, secured=secured)
        broker = EmbeddedBroker(chosen, child, ports)
        try:
            broker._begin()  # noqa: SLF001 - a function of the same module makes it
        except BrokerError:
            broker.kill()
            # Between our looking and its listening somebody else may have taken the port.
            lost_race = port is None and not all(_is_free(number) for number in ports)
            if not lost_race or attempt == _ATTEMPTS - 1:
                raise
        else:
            return broker
    raise AssertionError("unreachable")


def find_mosquitto() -> str | None:
    """Return the path of the program, None when there is none."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_ELSEWHERE)


def _choose(kind: Kind) -> Literal["mosquitto", "iotcore"]:
    has_mosquitto = find_mosquitto() is not None
    has_iotcore = importlib.util.find_spec("iotcore") is not None
    if kind == "mosquitto" and not has_mosquitto:
        raise BrokerError("there is no program 'mosquitto' here (Debian: apt install mosquitto)")
    if kind == "iotcore" and not has_iotcore:
        raise BrokerError("the package 'iotcore' is not installed (pip install 'fedmq[demo]')")
    if not has_mosquitto and not has_iotcore:
        raise BrokerError("no broker: install Mosquitto (apt install mosquitto) or iotcore (pip install 'fedmq[demo]')")
    if kind == "auto":
        return "mosquitto" if has_mosquitto else "iotcore"
    return kind


def _ports(kind: str, wanted: int | None) -> tuple[int, ...]:
    if wanted is not None and not _is_free(wanted):
        raise BrokerError(f"port {wanted} of {HOST} is taken")
    first = wanted if wanted is not None else free_port()
    return (first,) if kind == "mosquitto" else (first, free_port(first))


def free_port(*besides: int) -> int:
    """Return a port that nobody uses now, and that no outgoing connection will be given; raise ``BrokerError``."""
    for _ in range(1000):
        port = _LOWEST_PORT + secrets.randbelow(_HIGHEST_PORT - _LOWEST_PORT + 1)
        if port not in besides and _is_free(port):
            return port
    raise BrokerError(f"no port of {HOST} from {_LOWEST_PORT} to {_HIGHEST_PORT} is free")


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as brokers do: old connections do not count
        try:
            sock.bind((HOST, port))
            sock.listen(1)
        except OSError:
            return False
    return True


def _child(
    kind: str, directory: Path, ports: tuple[int, ...], *, persistent: bool, extra: str, secured: Secured | None
) -> Child:
    log = directory / f"{kind}.log"
    if kind == "iotcore":
        config = directory / "iotcore.toml"
        config.write_text(_IOTCORE + "".join(_iotcore_listeners(ports)), encoding="utf-8")
        # Isolated: a folder named iotcore in the current directory must not be taken for the package.
        return Child("iotcore", [sys.executable, "-I", "-c", _SERVE_IOTCORE, str(config)], log)
    config = directory / "mosquitto.conf"
    text = mosquitto_configuration(directory, ports[0], persistent=persistent, secured=secured)
    config.write_text(text + extra, encoding="utf-8")
    return Child("mosquitto", [find_mosquitto() or "mosquitto", "-c", str(config)], log)


def _iotcore_listeners(ports: tuple[int, ...]) -> list[str]:
    return [
        _IOTCORE_LISTENER.format(version=version, host=HOST, port=port)
        for version, port in zip(("v4", "v5"), ports, strict=True)
    ]


def mosquitto_configuration(directory: Path, port: int, *, persistent: bool, secured: Secured | None = None) -> str:
    """Return a Mosquitto configuration with the limits that we ship: a loopback listener for anybody, or secured."""
    if secured:
        shipped, lines = secured.write(HOST, port), []
    else:
        shipped = resources.files("broker_config").joinpath("limits.conf").read_text(encoding="utf-8")
        lines = [f"listener {port} {HOST}", "allow_anonymous true"]
    lines += [
        "log_dest stderr",
        "connection_messages true",
        # What a SIGKILL can forget is bounded by time, what saving costs too.
        "autosave_interval 1",
        f"persistence {'true' if persistent else 'false'}",
    ]
    if persistent:
        lines.append(f"persistence_location {directory.resolve()}/")
    if os.geteuid() == 0:
        lines.append("user root")  # it would become another user, who cannot write here
    return shipped + "\n# --- of this broker alone\n" + "\n".join(lines) + "\n"


def _wait_until_ready(child: Child, kind: str, port: int, deadline: float) -> None:
    while time.monotonic() < deadline:
        pid = child.pid
        if pid is None:
            raise BrokerError(f"{kind} ended at once; its last words:\n{log_tail(child.log)}")
        # Whoever answers on the port may be somebody else: look whose socket it is.
        if _listens(pid, port) and _accepts(port):
            return
        time.sleep(_POLL_S)
    raise BrokerError(f"{kind} does not listen on port {port} after {_READY_S:g} s:\n{log_tail(child.log)}")


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _listens(pid: int, port: int) -> bool:
    """Return whether the process has a listening IPv4 socket on the port (Linux: from /proc)."""
    listening = "0A"
    address = f":{port:04X}"
    try:
        rows = [row.split() for row in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
        inodes = {f"socket:[{row[9]}]" for row in rows if row[3] == listening and row[1].endswith(address)}
        return any(str(entry.readlink()) in inodes for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # a descriptor that was closed while we looked, or the whole process
        return False
