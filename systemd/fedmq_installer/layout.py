"""Where everything lies, and what belongs to which role."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class InstallError(Exception):
    """Something that the operator can mend; the text says how."""


@dataclass(frozen=True, slots=True)
class Role:
    """Something that a machine can be for a federation."""

    name: str
    extra: str
    """What pip is asked for beside fedmq itself."""
    units: tuple[str, ...]
    commands: tuple[str, ...]
    """Programs that get a link in /usr/local/bin."""
    needs_bytes: int
    """Free space that one version takes, with pip's temporary files, as measured on x86-64, and a third more."""


MIB = 1024 * 1024
AGENT = Role("agent", "", ("fedmq-agent.service", "fedmq-agent@.service"), ("fedmq-agent",), 250 * MIB)
AGGREGATOR = Role("aggregator", "aggregator", ("fedmq-aggregator.service",), ("fedmq-aggregator", "fedmq"), 300 * MIB)
BROKER = Role("broker", "", (), (), 0)
"""Mosquitto is Debian's; it gets a drop-in, and no program of ours."""

ROLES = {role.name: role for role in (AGENT, AGGREGATOR, BROKER)}
COMMON_UNITS = ("fedmq-failure@.service",)
USERS = ("fedmq", "fedmq-agent")

DROP_IN = "mosquitto-hardening.conf"
INCOMPLETE = ".fedmq-install-"
"""Begins the names of files that are not finished: of a run that was killed, and to be swept."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below ``root``, which is ``/`` but in tests and images."""

    root: Path

    def at(self, path: str) -> Path:
        """Return an absolute path of the machine."""
        return self.root / path.lstrip("/")

    @property
    def home(self) -> Path:
        """Everything that is neither configuration nor state."""
        return self.at("/opt/fedmq")

    @property
    def versions(self) -> Path:
        """A virtual environment each."""
        return self.home / "versions"

    @property
    def current(self) -> Path:
        """The link that the units go by."""
        return self.home / "venv"

    @property
    def previous(self) -> Path:
        """The version before, kept to go back to."""
        return self.home / "previous"

    @property
    def probation(self) -> Path:
        """Notes of an upgrade that is not decided yet."""
        return self.home / "probation.json"

    @property
    def units(self) -> Path:
        """Where an administrator's units are."""
        return self.at("/etc/systemd/system")

    @property
    def sysusers(self) -> Path:
        """Who the services are."""
        return self.at("/usr/lib/sysusers.d/fedmq.conf")

    @property
    def tmpfiles(self) -> Path:
        """The folders above those of the units."""
        return self.at("/usr/lib/tmpfiles.d/fedmq.conf")

    @property
    def configuration(self) -> Path:
        """The operator's."""
        return self.at("/etc/fedmq")

    @property
    def state(self) -> Path:
        """What the services have learned."""
        return self.at("/var/lib/fedmq")

    @property
    def commands(self) -> Path:
        """On everybody's PATH, sudo's too."""
        return self.at("/usr/local/bin")

    @property
    def drop_in(self) -> Path:
        """Mosquitto's hardening; ``fedmq provision install`` puts one more beside it, ``fedmq.conf``."""
        return self.units / "mosquitto.service.d" / "fedmq-hardening.conf"

    def roles(self) -> list[Role]:
        """Return what this machine is, as its units tell."""
        found = [role for role in ROLES.values() if role.units and (self.units / role.units[0]).exists()]
        return [*found, BROKER] if self.drop_in.exists() else found
