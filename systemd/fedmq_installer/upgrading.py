"""Changing versions under running services: the new one is on probation, and the old one comes back by itself."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass
from types import FrameType

from fedmq_installer.files import remove, write
from fedmq_installer.layout import InstallError, Role
from fedmq_installer.machine import Machine
from fedmq_installer.placing import Placing
from fedmq_installer.saying import say
from fedmq_installer.services import Patience, Services
from fedmq_installer.versions import Versions

RESUME_UNIT = "fedmq-resume.service"
"""There only during a probation: after a power cut in the middle of it, the next boot decides."""


@dataclass(frozen=True, slots=True)
class Probation:
    """What is on the disk while an upgrade is undecided."""

    before: str
    after: str
    running: list[str]
    """The services that ran before, and are to run afterwards; no others are started."""


class Upgrade:
    """One change of versions, from its beginning or from where a killed one left it."""

    def __init__(self, machine: Machine, patience: Patience) -> None:
        self._layout = machine.layout
        self._machine = machine
        self._patience = patience
        self.versions = Versions(machine)
        self.services = Services(machine)
        self.placing = Placing(machine)

    def to(self, version: str, roles: list[Role], *, running_roles: list[Role]) -> None:
        """Make this the current version; raise ``InstallError`` when it was no good and the one before is back."""
        before = self.versions.current()
        running = self.services.running(running_roles) if before not in (None, version) else []
        if before is None or not running:
            self._use(version, roles)
            self.versions.keep(before)
            return
        self._begin(Probation(before, version, running))
        self.decide()

    def pending(self) -> Probation | None:
        """Return the upgrade that is not decided yet, if there is one."""
        try:
            return Probation(**json.loads(self._layout.probation.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            remove(self._layout.probation)  # written in one step: this is nothing of ours
            return None

    def decide(self) -> None:
        """Put the new version to the test, and keep it or go back. May be killed, and begun again, at any moment."""
        probation = self.pending()
        if probation is None:
            self._forget()
            return
        trouble = self._tried(probation)
        if not trouble:
            self.versions.keep(probation.before)
            self._forget()
            say(f"version {probation.after}: {', '.join(probation.running)} healthy")
            return
        say(f"version {probation.after} is no good: {trouble}")
        for unit in probation.running:
            say(*self.services.last_lines(unit).splitlines(), indent=f"  {unit}: ")
        self._go_back(probation)
        raise InstallError(f"went back to version {probation.before}, because {trouble}")

    def abandon(self) -> None:
        """Forget an upgrade that is not decided: everything is being removed."""
        if self._layout.probation.exists() or (self._layout.units / RESUME_UNIT).exists():
            self._machine.systemctl("disable", "--now", RESUME_UNIT)
            self._forget()

    def _begin(self, probation: Probation) -> None:
        folder = self.versions.units_of(probation.before)
        write(self._layout.units / RESUME_UNIT, (folder / RESUME_UNIT).read_bytes())
        write(self._layout.probation, json.dumps(asdict(probation)).encode())
        self._machine.systemctl("daemon-reload", check=True)
        self._machine.systemctl("enable", RESUME_UNIT)

    def _tried(self, probation: Probation) -> str:
        if not self.versions.is_complete(probation.after):
            return "it is not there any more"
        seconds = f"{self._patience.patience_s:g} s"
        say(f"version {probation.after}: starting {', '.join(probation.running)}; healthy within {seconds}, or back")
        try:
            with deaf_to_hang_up():
                self._use(probation.after, self._layout.roles())
                self.services.restart(probation.running)
                return self.services.trouble(probation.running, self._patience)
        except KeyboardInterrupt:
            return "it was interrupted before it had proved itself"
        except (InstallError, OSError) as exc:
            return str(exc)

    def _go_back(self, probation: Probation) -> None:
        with deaf_to_hang_up():
            self._use(probation.before, self._layout.roles())
            self.services.restart(probation.running)
            self._forget()
            self.versions.keep(None)
            trouble = self.services.trouble(probation.running, self._patience)
        if trouble:
            raise InstallError(
                f"went back to version {probation.before}, and that is not well either: {trouble}. "
                "Look at journalctl -e; a store that the new version has changed is refused by the old one"
            )

    def _use(self, version: str, roles: list[Role]) -> None:
        self.versions.switch(version)
        self.placing.place(roles, self.versions.units_of(version))

    def _forget(self) -> None:
        self._machine.systemctl("disable", RESUME_UNIT)
        remove(self._layout.units / RESUME_UNIT)
        remove(self._layout.probation)
        self._machine.systemctl("daemon-reload")


class deaf_to_hang_up:  # noqa: N801 - used as a function
    """A line that drops is no reason to leave a board between two versions; being asked to end is one to go back."""

    def __enter__(self) -> None:
        """Ignore SIGHUP, and take SIGTERM for Ctrl-C."""
        self._before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, _interrupt)

    def __exit__(self, *_: object) -> None:
        """As it was."""
        signal.signal(signal.SIGHUP, self._before[0])
        signal.signal(signal.SIGTERM, self._before[1])


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
