"""Puts units, users, folders and links in place, and takes them away."""

from __future__ import annotations

import pwd
from pathlib import Path

from fedmq_installer.files import link, remove, remove_if_empty, sweep, write
from fedmq_installer.layout import COMMON_UNITS, DROP_IN, ROLES, USERS, Layout, Role
from fedmq_installer.machine import Machine

VENV = "/opt/fedmq/venv"
"""As the links name it: seen from the machine, wherever its root is now."""


class Placing:
    """Everything but the versions."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._layout: Layout = machine.layout

    def place(self, roles: list[Role], units: Path) -> None:
        """Put in place what these roles need, from a version's folder of units. Repeating it does no harm."""
        names = [name for role in roles for name in role.units]
        if names:
            self._place_users(units)
            for name in [*COMMON_UNITS, *names]:
                write(self._layout.units / name, (units / name).read_bytes())
        for role in roles:
            for command in role.commands:
                self._link_command(command)
        self._machine.systemctl("daemon-reload", check=True)

    def place_drop_in(self, units: Path) -> bool:
        """Put Mosquitto's hardening in place; return whether it has changed."""
        changed = write(self._layout.drop_in, (units / DROP_IN).read_bytes())
        self._machine.systemctl("daemon-reload", check=True)
        return changed

    def displace(self, roles: list[Role]) -> list[Path]:
        """Take away what no other role needs, in an order that leaves nothing when it is cut and done again."""
        gone = [self._layout.units / name for role in roles for name in role.units]
        gone += [path for role in roles for name in role.commands if self._is_ours(path := self._command(name))]
        if ROLES["broker"] in roles:
            gone.append(self._layout.drop_in)
        if not any(role.units for role in self._layout.roles() if role not in roles):
            gone += [self._layout.units / name for name in COMMON_UNITS]
            gone += [self._layout.sysusers, self._layout.tmpfiles, self._layout.home]
        removed = [path for path in gone if remove(path)]
        for folder in (self._layout.units, self._layout.drop_in.parent, self._layout.commands):
            sweep(folder)
        for folder in (self._layout.drop_in.parent, self._layout.sysusers.parent, self._layout.tmpfiles.parent):
            sweep(folder)
        self._machine.systemctl("daemon-reload")
        self._remove_what_is_empty()
        return removed

    def purge(self, roles: list[Role]) -> list[Path]:
        """Remove state and configuration of these roles; the users too, when nobody is left."""
        gone = [path for role in roles for path in self._belongings(role) if remove(path)]
        if self._is_nobody():
            gone += [path for path in (self._layout.configuration, self._layout.state) if remove(path)]
        self._machine.systemctl("daemon-reload")
        self._remove_what_is_empty()
        return gone

    def _is_nobody(self) -> bool:
        return not any(role.units for role in self._layout.roles())

    def _remove_what_is_empty(self) -> None:
        """Remove folders of ours that hold nothing, and the users when there is nothing left that they own."""
        remove_if_empty(self._layout.drop_in.parent)
        if self._is_nobody():
            folders = (self._layout.configuration, self._layout.state)
            for folder in folders:
                remove_if_empty(folder)
            if not any(folder.exists() for folder in folders):
                self._remove_users()

    def _belongings(self, role: Role) -> list[Path]:
        configuration, state, units = self._layout.configuration, self._layout.state, self._layout.units
        if role.name == "aggregator":
            return [configuration / "aggregator", state / "aggregator", *units.glob("fedmq-aggregator.service.d")]
        if role.name == "agent":
            instances = [path.parent for path in configuration.glob("*/agent.toml")]
            own = [configuration / "agent.toml", *configuration.glob("identity-*")]
            return [*instances, *own, *state.glob("agent*"), *units.glob("fedmq-agent*.service.d")]
        etc = self._layout.at("/etc/mosquitto")
        return [etc / "fedmq", etc / "conf.d" / "fedmq.conf", self._layout.drop_in.with_name("fedmq.conf")]

    def _place_users(self, units: Path) -> None:
        write(self._layout.sysusers, (units / "fedmq.sysusers").read_bytes())
        write(self._layout.tmpfiles, (units / "fedmq.tmpfiles").read_bytes())
        self._machine.run("systemd-sysusers", str(self._layout.sysusers), check=True)
        self._machine.run("systemd-tmpfiles", "--create", str(self._layout.tmpfiles), check=True)

    def _remove_users(self) -> None:
        if not self._machine.real:
            return
        for user in USERS:
            try:
                pwd.getpwnam(user)
            except KeyError:
                continue
            self._machine.run("userdel", user, check=True)

    def _command(self, name: str) -> Path:
        return self._layout.commands / name

    def _link_command(self, name: str) -> None:
        path = self._command(name)
        if self._is_ours(path) or not (path.exists() or path.is_symlink()):
            link(path, f"{VENV}/bin/{name}")

    def _is_ours(self, path: Path) -> bool:
        return path.is_symlink() and str(path.readlink()).startswith(f"{VENV}/")
