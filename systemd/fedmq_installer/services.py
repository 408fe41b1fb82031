"""The services as systemd sees them: which run, how to start them anew, and whether they are well."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from fedmq_installer.layout import Role
from fedmq_installer.machine import Machine

LOOK_S = 0.5
RUNNING = {"active", "activating", "reloading"}


PATIENCE_S = 120.0
SETTLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a version may take to prove itself."""

    patience_s: float = PATIENCE_S
    """Until then all must be well..."""
    settle_s: float = SETTLE_S
    """... and have been for so long, each in one and the same start."""


@dataclass(slots=True)
class Watch:
    """Follows one service: since when it has been active in the same start."""

    unit: str
    start: str = ""
    since: float | None = None
    starts: set[str] = field(default_factory=set)

    def look(self, shown: dict[str, str], now: float) -> None:
        """Take in what systemd says now. Active means, for Type=notify, that it has said READY."""
        start, active = shown.get("InvocationID", ""), shown.get("ActiveState") == "active"
        self.starts |= {start} - {""}
        if not active:
            self.since = None
        elif self.since is None or start != self.start:
            self.since = now
        self.start = start


class Services:
    """Our services; with a root elsewhere there are none."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def loaded(self, role: Role) -> list[str]:
        """Return the services of a role that systemd knows of: running, failed, enabled; instances too."""
        if not role.units:
            return []  # no pattern is every pattern to systemctl
        patterns = [unit.replace("@.", "@*.") for unit in role.units]
        listed = [
            *self._names("list-units", "--all", *patterns),
            *self._names("list-unit-files", "--state=enabled", *patterns),
        ]
        return sorted({unit for unit in listed if "@." not in unit and unit.startswith("fedmq-")})

    def running(self, roles: list[Role]) -> list[str]:
        """Return the services that run, or are being started."""
        names = [unit for role in roles for unit in self.loaded(role)]
        return [unit for unit in names if self.show(unit).get("ActiveState") in RUNNING]

    def restart(self, units: list[str]) -> None:
        """Start them anew, and wait for nothing: that is the watch's."""
        if units:
            self._machine.systemctl("reset-failed", *units)
            self._machine.systemctl("restart", "--no-block", *units, check=True)

    def show(self, unit: str) -> dict[str, str]:
        """Return what systemd says of a service."""
        properties = "--property=ActiveState,SubState,InvocationID,Result,ExecMainStatus,StatusText"
        lines = self._machine.systemctl("show", properties, unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def trouble(self, units: list[str], patience: Patience) -> str:
        """Wait until all are healthy, and return ""; or what is wrong, when one has failed or time is up."""
        watches = [Watch(unit) for unit in units]
        deadline = time.monotonic() + patience.patience_s
        while watches:
            now = time.monotonic()
            for watch in watches:
                shown = self.show(watch.unit)
                watch.look(shown, now)
                if shown.get("ActiveState") == "failed":
                    return f"{watch.unit} has failed ({shown.get('Result')}, exit status {shown.get('ExecMainStatus')})"
            late = [watch for watch in watches if watch.since is None or now - watch.since < patience.settle_s]
            if not late:
                break
            if now > deadline:
                return self._told(late[0], patience)
            time.sleep(LOOK_S)
        return ""

    def _told(self, watch: Watch, patience: Patience) -> str:
        shown = self.show(watch.unit)
        state = f"{shown.get('ActiveState')} ({shown.get('SubState')})"
        return f"{watch.unit} is {state} after {patience.patience_s:g} s and {len(watch.starts)} starts"

    def last_lines(self, unit: str) -> str:
        """Return the end of a service's journal."""
        return self._machine.run("journalctl", "--no-pager", "--output=cat", "--lines=8", f"--unit={unit}")

    def _names(self, *arguments: str) -> list[str]:
        listed = self._machine.systemctl(*arguments, "--plain", "--no-legend", "--full")
        return [line.split()[0] for line in listed.splitlines() if line.strip()]
