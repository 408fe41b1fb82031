"""Two ends of a line whose packets the kernel itself loses, delays or throws away: network namespaces and nftables.

Nothing outside the namespaces is touched; their addresses mean nothing to the rest of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fedmq.embedded_broker import find_mosquitto
from fedmq.processes import Child
from tests.support.federation import wait_until

SITE_ADDRESS = "10.77.0.1"
FIELD_ADDRESS = "10.77.0.2"
BROKER_PORT = 1883

NEEDED = {"nft": "nftables", "ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
"""Programs, and the Debian packages that they come from."""

_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"

_WAYS = (("--net",), ("--user", "--map-root-user", "--net"))
"""As root, and else as the root of a user namespace of one's own."""

# Packets are lost where they arrive: a sender whose own kernel refuses them would be told so.
_RULES = """
table inet weather {
  counter arrived { }
  counter lost { }
  chain cut { type filter hook input priority -1; policy accept; }
  chain rain { type filter hook input priority 0; policy accept;
    iifname != "line" accept
    counter name arrived
    numgen random mod 100 < %d counter name lost drop
  }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
    """What one end's kernel counted."""

    arrived: int
    lost: int
    """Of those that arrived: dropped before anybody saw them."""


class Namespace:
    """A network of its own, held open by a process that ends with us; ``within`` runs commands in it."""

    def __init__(self, keeper: subprocess.Popen[bytes], *, has_users: bool) -> None:
        self._keeper = keeper
        users = ("--user", "--preserve-credentials") if has_users else ()
        self.has_users = has_users
        self.pid = keeper.pid
        self.within = (_program("nsenter"), "--target", str(keeper.pid), *users, "--net")

    @classmethod
    def make(cls, within: Sequence[str], options: Sequence[str]) -> Self:
        """Raise ``OSError`` with the kernel's words when it is not permitted."""
        # ``cat`` waits on a pipe of which only we hold the other end: whichever way we end, it does too.
        command = [*within, _program("unshare"), *options, "sh", "-c", "echo ready; exec cat"]
        keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        if keeper.stdout.readline() != b"ready\n":
            raise OSError(keeper.stderr.read().decode().strip())
        return cls(keeper, has_users="--user" in options or "--user" in within)

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command here and return what it says; raise ``AssertionError`` with its complaint when it fails."""
        done = subprocess.run(
            [*self.within, _program(command[0]), *command[1:]], input=stdin, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
        return done.stdout

    def close(self) -> None:
        """The kernel removes the namespace, and the line to it, with its last process."""
        self._keeper.kill()
        self._keeper.wait()
        for pipe in (self._keeper.stdin, self._keeper.stdout, self._keeper.stderr):
            if pipe is not None:
                pipe.close()


class KernelNetwork:
    """``site`` (broker and aggregator) and ``field`` (devices), joined by one line."""

    def __init__(self) -> None:
        _refuse_without_programs()
        self.site = _first_namespace()
        # Beside the first one, and under the same root: a line can join them.
        self.field = Namespace.make(self.site.within, ["--net"])
        self.site.run("ip", "link", "add", "line", "type", "veth", "peer", "name", "line", "netns", str(self.field.pid))
        for end, address in ((self.site, SITE_ADDRESS), (self.field, FIELD_ADDRESS)):
            end.run("ip", "link", "set", "lo", "up")
            end.run("ip", "address", "add", f"{address}/24", "dev", "line")
            end.run("ip", "link", "set", "line", "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.field.close()
        self.site.close()

    def lose(self, percent: int) -> None:
        """From now on so many of a hundred packets are lost, at random, in each direction; count them."""
        for end in (self.site, self.field):
            end.run("nft", "-f", "-", stdin=_RULES % percent)

    def counted(self) -> tuple[Packets, Packets]:
        """Return what arrived and was lost at the site and in the field, since ``lose``."""
        return _packets(self.site), _packets(self.field)

    def cut(self) -> None:
        """Lose everything, silently: both ends still believe in their connections. ``lose`` has to come first."""
        for end in (self.site, self.field):
            end.run("nft", "add rule inet weather cut iifname line counter name lost drop")

    def mend(self) -> None:
        """Undo ``cut``."""
        for end in (self.site, self.field):
            end.run("nft", "flush chain inet weather cut")

    def slow(self, bytes_per_s: int) -> None:
        """A token bucket at each end; what waits for longer than five seconds is dropped."""
        for end in (self.site, self.field):
            limit = f"root tbf rate {8 * bytes_per_s}bit burst 1600 latency 5s"
            end.run("tc", "qdisc", "replace", "dev", "line", *limit.split())

    @contextlib.contextmanager
    def mosquitto(self, directory: Path) -> Iterator[Child]:
        """Run a Mosquitto at the site."""
        program = find_mosquitto()
        assert program is not None, "there is no program 'mosquitto' here (Debian: apt install mosquitto)"
        directory.mkdir()
        config = directory / "mosquitto.conf"
        # In a user namespace there is only root to become.
        config.write_text(f"listener {BROKER_PORT} {SITE_ADDRESS}\nallow_anonymous true\nuser root\nlog_dest stderr\n")
        broker = Child("mosquitto", [*self.site.within, program, "-c", str(config)], directory / "mosquitto.log")
        broker.start()
        try:
            wait_until(lambda: _listens(broker), f"Mosquitto to listen: {broker.log.read_text()}")
            yield broker
        finally:
            broker.kill()


def _refuse_without_programs() -> None:
    missing = sorted({package for name, package in NEEDED.items() if shutil.which(name, path=_PATH) is None})
    assert not missing, f"a program is missing; Debian: apt install {' '.join(missing)} (scripts/setup dev does it)"


def _program(name: str) -> str:
    return shutil.which(name, path=_PATH) or name


def _first_namespace() -> Namespace:
    refusals = []
    for options in _WAYS:
        try:
            return Namespace.make((), options)
        except OSError as refusal:
            refusals.append(f"unshare {' '.join(options)}: {refusal}")
    raise AssertionError(
        "this test needs network namespaces of its own, and may not make them: run it as root with CAP_SYS_ADMIN, "
        "or permit user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone). "
        + "; ".join(refusals)
    )


def _packets(end: Namespace) -> Packets:
    listed = json.loads(end.run("nft", "--json", "list", "counters"))["nftables"]
    found = {entry["counter"]["name"]: entry["counter"]["packets"] for entry in listed if "counter" in entry}
    return Packets(arrived=found["arrived"], lost=found["lost"])


def _listens(broker: Child) -> bool:
    """Look into the table of the network that the process is in, not of ours."""
    broker.check()
    listening, port = " 0A ", f":{BROKER_PORT:04X} "
    rows = Path(f"/proc/{broker.pid}/net/tcp").read_text(encoding="ascii").splitlines()
    return any(port in row and listening in row for row in rows)
