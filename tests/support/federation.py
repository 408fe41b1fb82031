"""A federation of real processes for a test: one aggregator, some agents, and what their databases say afterwards."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from sklearn.datasets import load_digits

from tests.support.patience import PATIENCE_S

FALSE_CLOCK = """
import runpy, sys, time
begun = time.monotonic()
def false_time():
    passed = time.monotonic() - begun
    return passed + 86400.0 * (1, -1, 2)[int(passed) % 3] if passed > 1.0 else passed
time.time = false_time
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Begins in 1970, as a board without a battery does, and then jumps by days, forwards and backwards, each second."""


def wait_until(condition: Callable[[], bool], what: str | Callable[[], str], timeout_s: float = PATIENCE_S) -> None:
    """Return when the condition holds; processes cannot be waited for in any other way.

    ``what`` was waited for, or is asked in the end what it was and how things stand.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)


@dataclass
class Federation:
    """Configuration files, processes and logs under one directory; everything is killed at the end."""

    directory: Path
    port: int
    goal: int = 2
    interval_s: float = 1.0
    model: dict[str, Any] = field(default_factory=lambda: {"kind": "softmax", "inputs": 64, "outputs": 10})
    codec: str = "int8"
    keepalive_s: int = 60
    false_clock: bool = False
    cron: str = ""
    delta_codec: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the training plan."""
    step_intervals_s: Mapping[str, float] = field(default_factory=dict)
    """Devices that take so long for each step of a training."""
    more: str = ""
    """Further tables of the aggregator's configuration."""
    takeover_wait_s: float = 60.0
    reconnect_max_s: float = 0.5
    host: str = "127.0.0.1"
    aggregator_within: Sequence[str] = ()
    agents_within: Sequence[str] = ()
    """What to put before the commands, so that they run in another network (``tests.support.kernel_network``)."""
    aggregator_keys: Mapping[str, Any] = field(default_factory=dict)
    agent_keys: Mapping[str, Any] = field(default_factory=dict)
    """What the tables ``[security]`` say of keys."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        x, y = load_digits(return_X_y=True)
        self._x, self._y = (x / 16.0).astype(np.float32), y.astype(np.int64)
        np.savez(self.directory / "evaluation.npz", x=self._x[:360], y=self._y[:360])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    # -- starting and ending -----------------------------------------------------------------------------------

    def start_aggregator(self, name: str = "aggregator", state: str = "") -> subprocess.Popen[bytes]:
        config = self.directory / f"{name}.toml"
        config.write_text(self._aggregator_toml(state or name))
        return self._spawn(name, "aggregator", config, self.aggregator_within)

    def start_agent(
        self,
        number: int,
        *,
        port: int | None = None,
        interval_s: float = 0.05,
        within: Sequence[str] | None = None,
    ) -> subprocess.Popen[bytes]:
        name = f"device-{number}"
        config = self.directory / f"{name}.toml"
        data = self.directory / f"{name}.npz"
        if not data.exists():
            rows = slice(360 + number, None, 10)
            np.savez(data, x=self._x[rows], y=self._y[rows])
        config.write_text(self._agent_toml(name, data, port or self.port, interval_s))
        return self._spawn(name, "device_agent", config, self.agents_within if within is None else within)

    def start_agent_with(self, number: int, text: str) -> subprocess.Popen[bytes]:
        """Start an agent with a configuration of the test's own; its state is in ``device-N-state``."""
        config = self.directory / f"device-{number}.toml"
        config.write_text(text)
        return self._spawn(f"device-{number}", "device_agent", config, self.agents_within)

    def _spawn(self, name: str, module: str, config: Path, within: Sequence[str]) -> subprocess.Popen[bytes]:
        started = ["-c", FALSE_CLOCK] if self.false_clock else ["-m"]
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*within, sys.executable, *started, module, "run", "--config", str(config)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self.processes[name] = process
        return process

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def stop(self, name: str) -> int:
        """SIGTERM, as systemd does it; return the exit code."""
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(PATIENCE_S)

    def stop_all(self) -> None:
        """End the agents first, then the aggregator."""
        for name in sorted(self.processes, reverse=True):
            if self.processes[name].poll() is None:
                # Minus SIGTERM: a process that was started a moment ago may be asked before it has begun to listen.
                assert self.stop(name) in (0, -signal.SIGTERM), self.log(name)

    # -- what files say ------------------------------------------------------------------------------------------

    def _security_toml(self, keys: Mapping[str, Any]) -> str:
        lines = [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
        if self.host != "127.0.0.1":
            lines.append("insecure = true")
        return "\n".join(["[security]", *lines, ""]) if lines else ""

    def _aggregator_toml(self, name: str) -> str:
        model = "\n".join(f"{key} = {json.dumps(value)}" for key, value in self.model.items())
        plan = "\n".join(f"{key} = {json.dumps(value)}" for key, value in self.plan.items())
        return f"""
[aggregator]
federation = "test"
state_dir = "{self.directory / (name + "-state")}"
[broker]
host = "{self.host}"
port = {self.port}
keepalive_s = {self.keepalive_s}
reconnect_min_s = 0.05
reconnect_max_s = {self.reconnect_max_s}
[model]
{model}
[training]
epochs = 1
batch_size = 16
learning_rate = 0.1
{plan}
[participation]
codec = "{self.codec}"
[schedule]
goal = {self.goal}
interval_s = {self.interval_s}
cron = "{self.cron}"
[downlink]
delta_codec = "{self.delta_codec}"
[evaluation]
path = "{self.directory / "evaluation.npz"}"
[metrics]
interval_s = 0.5
{self._security_toml(self.aggregator_keys)}
{self.more}"""

    def _agent_toml(self, name: str, data: Path, port: int, interval_s: float) -> str:
        return f"""
[device]
id = "{name}"
federation = "test"
state_dir = "{self.directory / (name + "-state")}"
[broker]
host = "{self.host}"
port = {port}
keepalive_s = {self.keepalive_s}
reconnect_min_s = 0.05
reconnect_max_s = {self.reconnect_max_s}
takeover_wait_s = {self.takeover_wait_s}
[data]
path = "{data}"
[training]
min_interval_s = {interval_s}
step_interval_s = {self.step_intervals_s.get(name, 0.0)}
[outbox]
receipt_timeout_s = 1.0
resend_max_s = 4.0
[metrics]
interval_s = 0.5
{self._security_toml(self.agent_keys)}"""

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def query(self, sql: str, name: str = "aggregator") -> list[tuple[Any, ...]]:
        """Ask a process's database, running or not; nothing when it is not there yet."""
        file = "aggregator.sqlite" if name.startswith("aggregator") else "agent.sqlite"
        path = self.directory / f"{name}-state" / file
        if not path.exists():
            return []
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=PATIENCE_S)) as database:
                return database.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []

    def version(self) -> int:
        rows = self.query("SELECT max(version) FROM versions")
        return int(rows[0][0]) if rows and rows[0][0] is not None else -1

    def wait_for_version(self, version: int) -> None:
        wait_until(lambda: self.version() >= version, lambda: f"version {version}; the last is {self.version()}")

    def wait_for_versions_more(self, more: int) -> None:
        self.wait_for_version(self.version() + more)

    def contributors(self) -> set[str]:
        """Return the devices of which an update was accepted."""
        return {device for device, _, _ in self.accepted()}

    def wait_for_all(self, agents: int) -> None:
        """Return when every device has contributed: which of them come first is for the machine to say."""
        names = {f"device-{number}" for number in range(agents)}
        wait_until(lambda: names <= self.contributors(), lambda: f"all of {names}; there are {self.contributors()}")

    def accepted(self) -> list[tuple[str, str, int]]:
        columns = "SELECT device, incarnation, sequence FROM"
        return [(str(d), str(i), int(s)) for d, i, s in self.query(f"{columns} lineage UNION ALL {columns} journal")]

    def agent_counters(self, number: int) -> dict[str, Any]:
        """Return what a device has counted; nothing when it was stopped before it had anything to count."""
        rows = self.query("SELECT value FROM meta WHERE key = 'state'", f"device-{number}")
        counters: dict[str, Any] = json.loads(rows[0][0])["counters"] if rows else {}
        return counters

    def check(self, agents: int) -> None:
        """Nothing was lost and nothing counted twice, says every database."""
        accepted = self.accepted()
        assert accepted, "nothing was accepted at all"
        assert max(Counter(accepted).values()) == 1, "an update counted twice"
        versions = [row[0] for row in self.query("SELECT version FROM versions ORDER BY version")]
        assert versions == list(range(len(versions)))
        for number in range(agents):
            self._check_agent(number, {sequence for device, _, sequence in accepted if device == f"device-{number}"})

    def _check_agent(self, number: int, accepted: set[int]) -> None:
        counters = self.agent_counters(number)
        if not counters:
            assert not accepted, f"device-{number} knows nothing of what it sent"
            return
        waiting = {row[0] for row in self.query("SELECT sequence FROM outbox WHERE survey = ''", f"device-{number}")}
        told = counters["updates_accepted"] + counters["updates_duplicate"]
        refused = counters["updates_stale"] + counters["updates_rejected"]
        assert counters["updates_created"] == told + refused + counters["updates_dropped"] + len(waiting)
        # What is accepted and still waits was accepted, but its receipt has not come through yet.
        assert told == len(accepted - waiting)
        assert max(accepted | waiting, default=0) <= counters["updates_created"] + counters["reports_created"]
        self._check_reports(number, counters)

    def _check_reports(self, number: int, counters: dict[str, Any]) -> None:
        waiting = {row[0] for row in self.query("SELECT sequence FROM outbox WHERE survey <> ''", f"device-{number}")}
        told = counters["reports_accepted"] + counters["reports_duplicate"]
        refused = counters["reports_stale"] + counters["reports_rejected"]
        assert counters["reports_created"] == told + refused + counters["reports_dropped"] + len(waiting)
        answers = self.query("SELECT device, sequence FROM answers")
        answered = {sequence for device, sequence in answers if device == f"device-{number}"}
        assert told == len(answered - waiting)
