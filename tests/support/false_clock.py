"""Processes whose wall clock is wrong until they are told, also for OpenSSL, which asks the system and not Python."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.federation import Federation

if TYPE_CHECKING:
    from collections.abc import Sequence

UNTIL_TOLD = """
import ctypes, os, runpy, ssl, sys, time
import _ssl

told, begins, begun, true_time = sys.argv[1], float(sys.argv[2]), time.monotonic(), time.time


def false_time():
    return true_time() if os.path.exists(told) else begins + time.monotonic() - begun


openssl = ctypes.CDLL(_ssl.__file__)
param_of = openssl.SSL_CTX_get0_param
param_of.argtypes, param_of.restype = [ctypes.c_void_p], ctypes.c_void_p
set_time = openssl.X509_VERIFY_PARAM_set_time
set_time.argtypes, set_time.restype = [ctypes.c_void_p, ctypes.c_long], None
true_wrap = ssl.SSLContext.wrap_bio


def false_wrap(self, *arguments, **options):
    # A context object is a Python object whose first field is OpenSSL's own; sessions take over its idea of the time.
    context = ctypes.c_void_p.from_address(id(self) + object.__basicsize__)
    set_time(param_of(context), int(false_time()))
    return true_wrap(self, *arguments, **options)


time.time, ssl.SSLContext.wrap_bio = false_time, false_wrap
sys.argv = sys.argv[3:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@dataclass
class Dated(Federation):
    """A federation over TLS, some of whose processes believe another date until ``set_clocks``."""

    tls: dict[str, str] = field(default_factory=dict)
    begins: float = 60.0
    """The wrong date, in seconds since 1970."""
    wrong: set[str] = field(default_factory=set)
    """Names of processes whose clock is wrong when they are started."""
    clock_wait_s: float = 600.0

    def set_clocks(self) -> None:
        """Jump to the true date, in all processes."""
        self._told.touch()

    @property
    def _told(self) -> Path:
        return self.directory / "clocks-are-set"

    def _tables(self) -> str:
        lines = [f'{name} = "{value}"' for name, value in self.tls.items()]
        return "\n".join(["[broker.tls]", *lines, "[clock]", f"wait_s = {self.clock_wait_s}", ""])

    def _aggregator_toml(self, name: str) -> str:
        return super()._aggregator_toml(name) + self._tables()

    def _agent_toml(self, name: str, data: Path, port: int, interval_s: float) -> str:
        return super()._agent_toml(name, data, port, interval_s) + self._tables()

    def _spawn(self, name: str, module: str, config: Path, within: Sequence[str]) -> subprocess.Popen[bytes]:
        if name not in self.wrong:
            return super()._spawn(name, module, config, within)
        python = [sys.executable, "-c", UNTIL_TOLD, str(self._told), str(self.begins), module]
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*python, "run", "--config", str(config)], stdout=log, stderr=log, env={**os.environ}
            )
        self.processes[name] = process
        return process
