"""Real processes of a benchmark: started with a log file, watched through /proc, always ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Program:
    """A child process; what it prints goes to ``log``."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(arguments), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise ``RuntimeError`` with the end of the log when the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise RuntimeError(f"{self._process.args!r} ended with {code}:\n{self.log_end()}")

    def log_end(self, characters: int = 2000) -> str:
        """Return the end of what the process printed."""
        return self.log.read_text(errors="replace")[-characters:]

    def cpu_s(self) -> float:
        """Return the processor time used so far, all threads, user and system (10 ms steps)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def rss_bytes(self) -> int:
        """Return the resident memory."""
        return self._status("VmRSS")

    def peak_rss_bytes(self) -> int:
        """Return the largest resident memory so far."""
        return self._status("VmHWM")

    def wake_ups(self) -> int:
        """Return how often one of the threads has gone to sleep so far, and so has been awake."""
        found = 0
        for status in Path(f"/proc/{self.pid}").glob("task/*/status"):
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            found += int(lines["voluntary_ctxt_switches"])
        return found

    def written(self) -> tuple[int, int]:
        """Return the bytes handed to files so far, and those of the blocks that this changed (0 on a RAM disk)."""
        lines = dict(line.split(": ") for line in Path(f"/proc/{self.pid}/io").read_text().splitlines())
        return int(lines["wchar"]), int(lines["write_bytes"])

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"process {self.pid} is gone:\n{self.log_end()}")

    def wait(self, timeout_s: float) -> None:
        """Return when the process has ended well; raise when it fails or takes longer."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as exc:
            raise TimeoutError(f"{self._process.args!r} does not end:\n{self.log_end()}") from exc
        if code:
            raise RuntimeError(f"{self._process.args!r} ended with {code}:\n{self.log_end()}")

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the process: SIGTERM, then SIGKILL when it does not listen."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass(frozen=True, slots=True)
class Broker:
    """A running Mosquitto on the loopback interface."""

    port: int
    program: Program


_LIMITS = Path(__file__).resolve().parent.parent.parent / "broker_config" / "limits.conf"
_MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence_location {directory}/
log_dest stderr
log_type error
log_type warning
"""


@contextmanager
def mosquitto(directory: Path) -> Iterator[Broker]:
    """Run a real Mosquitto with the limits that fedmq ships, on a free port, until the block ends."""
    binary = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        sys.exit("these benchmarks need mosquitto: apt-get install mosquitto")
    port = free_port()
    configuration = directory / f"mosquitto-{port}.conf"
    # Run by root it would become the user mosquitto, who may not read a private temporary directory.
    user = "user root\n" if os.geteuid() == 0 else ""
    head = _MOSQUITTO.format(port=port, directory=directory)
    configuration.write_text(head + user + _LIMITS.read_text())
    with Program([binary, "-c", str(configuration)], directory / f"mosquitto-{port}.log") as program:
        wait_for_port(port, program)
        yield Broker(port, program)


def free_port() -> int:
    """Return a TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, program: Program, timeout_s: float = 10.0) -> None:
    """Return when somebody listens on the port; raise when the program ended or the time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        program.check()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise TimeoutError(f"nobody listens on port {port}:\n{program.log_end()}")


def command(name: str) -> str:
    """Return the path of one of fedmq's commands: the one beside this interpreter."""
    return str(Path(sys.executable).parent / name)


_CHOOSING_KERNELS = (
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"),
    *("MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"),
)


def one_thread() -> dict[str, str]:
    """Return the environment with one BLAS thread, for baselines: more only get in each other's way here.

    Every library takes the kernels that it finds best for the processor: what makes runs alike on different machines
    (continuous integration may set such a thing) would hold back the one that it knows, and not the other.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _CHOOSING_KERNELS}
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
