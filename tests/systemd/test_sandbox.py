"""Whether the programs live with what the units forbid them: under the real filters for system calls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedmq.embedded_broker import EmbeddedBroker
from tests.integration.test_signed_and_sealed import Keys
from tests.support.certificates import Authority
from tests.support.federation import Federation
from tests.support.patience import PATIENCE_S
from tests.support.sandbox import allowed, settings

ROOT = Path(__file__).parent.parent.parent
SANDBOX = ROOT / "tests" / "support" / "sandbox.py"
UNITS = {name: ROOT / "systemd" / f"fedmq-{name}.service" for name in ("agent", "aggregator")}


class Confined(Federation):
    """All processes within the filters of their units, over TLS, signed and sealed."""

    tls: Mapping[str, str]

    def _security_toml(self, keys: Mapping[str, Any]) -> str:
        table = "".join(f"{name} = '{value}'\n" for name, value in self.tls.items())
        return super()._security_toml(keys) + f"[broker.tls]\n{table}"


def within(unit: Path, *command: str) -> list[str]:
    return [sys.executable, str(SANDBOX), str(unit), *command]


def test_a_whole_federation_lives_with_the_filters(tmp_path: Path, ours: Authority, tls_broker: EmbeddedBroker) -> None:
    keys = Keys(tmp_path)
    federation = Confined(tmp_path, tls_broker.port, model={"kind": "mlp", "inputs": 64, "hidden": [64], "outputs": 10})
    federation.tls = ours.client()
    federation.aggregator_keys = keys.aggregator("k1")
    federation.agent_keys = {"federation_keys": "federation.json"}
    federation.aggregator_within = within(UNITS["aggregator"])
    federation.agents_within = within(UNITS["agent"])
    federation.host = "localhost"  # so that a name is looked up
    with federation:
        federation.start_aggregator()
        for number in range(2):
            federation.start_agent(number)
        federation.wait_for_version(3)
        for process in federation.processes.values():
            assert "\nSeccomp:\t2\n" in Path(f"/proc/{process.pid}/status").read_text()  # 2: there is a filter
        status = subprocess.run(
            ["fedmq-aggregator", "status", "--config", str(tmp_path / "aggregator.toml"), "--json"],
            executable=str(Path(sys.executable).parent / "fedmq-aggregator"),
            capture_output=True,
            check=True,
        )
        assert b'"running": true' in status.stdout  # its own socket works, too
        federation.kill("device-0")
        federation.start_agent(0)  # on the store and the model that it left
        federation.wait_for_versions_more(2)
        federation.stop_all()
        federation.check(2)
        for name in federation.processes:
            assert "Operation not permitted" not in federation.log(name), federation.log(name)
            assert "Traceback" not in federation.log(name), federation.log(name)


@pytest.mark.parametrize(
    "attempt",
    [
        "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "import os; os.chown('/proc/self/nothing', 0, 0)",
        "import os; os.nice(-5)",
        "import os; os.setuid(0)",
    ],
)
@pytest.mark.parametrize("unit", ["agent", "aggregator"])
def test_the_filters_are_real(unit: str, attempt: str) -> None:
    found = subprocess.run(
        within(UNITS[unit], sys.executable, "-c", attempt),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "PermissionError: [Errno 1]" in found.stderr, found.stderr


def test_exceptions_are_taken_out_of_the_sets() -> None:
    calls = allowed(settings(UNITS["agent"])["SystemCallFilter"])
    assert {"read", "futex", "epoll_wait", "sendto", "eventfd2", "fsync"} <= calls
    assert not {"mount", "ptrace", "setpriority", "mlock", "add_key", "io_uring_setup", "reboot", "init_module"} & calls


def test_a_name_is_looked_up_without_netlink(tmp_path: Path) -> None:
    lookup = "import socket; print(socket.getaddrinfo('localhost', 8883, type=socket.SOCK_STREAM)[0][4][1])"
    found = subprocess.run(
        within(UNITS["agent"], sys.executable, "-c", lookup), capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert found.stdout == "8883\n"
