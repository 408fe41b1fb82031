"""What each command does, from checks to the words at the end."""

from __future__ import annotations

from fedmq_installer.layout import AGENT, AGGREGATOR, BROKER, InstallError, Role
from fedmq_installer.machine import Machine
from fedmq_installer.placing import Placing
from fedmq_installer.saying import say
from fedmq_installer.services import Patience, Services
from fedmq_installer.source import SYSTEMD, Source
from fedmq_installer.upgrading import Upgrade
from fedmq_installer.versions import Versions


def install(machine: Machine, role: Role, source: Source, patience: Patience) -> None:
    """Install a role, or bring it to the version of the source."""
    machine.check()
    if role is BROKER:
        install_broker(machine)
        return
    with machine.locked():
        _settle(machine, patience)
        present = machine.layout.roles()
        _deploy(machine, {*present, role}, source, patience)
        say(*_next_steps(machine, role))


def upgrade(machine: Machine, source: Source, patience: Patience) -> None:
    """Bring what is installed to the version of the source."""
    machine.check()
    with machine.locked():
        _settle(machine, patience)
        present = machine.layout.roles()
        if not present:
            raise InstallError("nothing is installed here: install agent, aggregator or broker first")
        if BROKER in present:
            _place_drop_in(machine)
        if present != [BROKER]:
            _deploy(machine, set(present), source, patience)


def undo(machine: Machine, patience: Patience) -> None:
    """Go back to the version before; another time, forth again. It is on probation as after an upgrade."""
    machine.check()
    with machine.locked():
        _settle(machine, patience)
        work = Upgrade(machine, patience)
        before = work.versions.previous()
        if before is None:
            raise InstallError("there is no version before the current one: nothing was upgraded, or by itself undone")
        roles = [role for role in machine.layout.roles() if role is not BROKER]
        work.to(before, roles, running_roles=roles)
        say(f"version {before} is the current one again; another undo takes {work.versions.previous()}")


def resume(machine: Machine, patience: Patience) -> None:
    """Decide about an upgrade that was interrupted."""
    machine.check()
    with machine.locked():
        Upgrade(machine, patience).decide()


def install_broker(machine: Machine) -> None:
    """Put Mosquitto's drop-in in place."""
    layout = machine.layout
    if machine.real and not layout.at("/usr/sbin/mosquitto").exists():
        raise InstallError("there is no Mosquitto on this machine: apt install mosquitto")
    with machine.locked():
        _place_drop_in(machine)
    if layout.at("/etc/mosquitto/conf.d/fedmq.conf").exists():
        say("the federation's configuration is there. Next:", "  sudo systemctl restart mosquitto")
    else:
        say(
            "Mosquitto has no configuration of a federation yet. Next, on the machine with the keystore:",
            "  fedmq provision init NAME --broker HOST      # once; see docs/security.md",
            "  sudo fedmq provision install broker",
            "and on this one:",
            "  sudo systemctl restart mosquitto",
        )


def uninstall(machine: Machine, roles: list[Role], *, purge: bool) -> None:
    """Remove these roles, or all; state and configuration only with ``purge``. What is gone already is no fault."""
    machine.check()
    roles = roles or [AGENT, AGGREGATOR, BROKER]
    with machine.locked():
        services, placing = Services(machine), Placing(machine)
        units = [unit for role in roles for unit in services.loaded(role)]
        Upgrade(machine, Patience()).abandon()
        if units:
            machine.systemctl("disable", "--now", *units)
            machine.systemctl("reset-failed", *units)
        removed = placing.displace(roles)
        if purge:
            removed += placing.purge(roles)
    say(*(f"removed {path}" for path in removed) if removed else ("nothing of it was installed",))
    if BROKER in roles and machine.layout.drop_in in removed:
        say("Mosquitto goes on as it was started: sudo systemctl restart mosquitto")
    left = [path for path in (machine.layout.configuration, machine.layout.state) if path.exists()]
    if left and not purge:
        say(f"kept, with the users that own it: {', '.join(map(str, left))}; --purge removes that, too")


def status(machine: Machine) -> None:
    """Say what is installed."""
    versions, services, roles = Versions(machine), Services(machine), machine.layout.roles()
    say(f"roles     {', '.join(role.name for role in roles) or 'none'}")
    say(f"version   {versions.current() or '-'}", f"previous  {versions.previous() or '-'}")
    for unit in [unit for role in roles for unit in services.loaded(role)]:
        shown = services.show(unit)
        say(f"{unit}: {shown.get('ActiveState', '?')}; {shown.get('StatusText') or 'says nothing'}")
    if Upgrade(machine, Patience()).pending():
        say("an upgrade is undecided: another run of this program is at work, or was killed (install resume)")


def _settle(machine: Machine, patience: Patience) -> None:
    undecided = Upgrade(machine, patience)
    if undecided.pending():
        say("an upgrade was interrupted; that is decided first")
        undecided.decide()


def _deploy(machine: Machine, roles: set[Role], source: Source, patience: Patience) -> None:
    ordered = [role for role in (AGENT, AGGREGATOR) if role in roles]
    machine.check_python()
    source.check()
    versions, work = Versions(machine), Upgrade(machine, patience)
    extra = ",".join(role.extra for role in ordered if role.extra)
    version = source.version_id(extra, machine.python)
    if not versions.is_complete(version):
        machine.check_space(max(role.needs_bytes for role in ordered))
        say(f"making version {version} in {machine.layout.versions} (minutes on a small board)")
        versions.build(source, extra)
    if version == versions.current():
        say(f"version {version} is the current one")
    work.to(version, ordered, running_roles=machine.layout.roles())
    say(f"installed: version {version}, for {' and '.join(role.name for role in ordered)}")


def _place_drop_in(machine: Machine) -> None:
    changed = Placing(machine).place_drop_in(SYSTEMD)
    news = "written; it counts from the next start of Mosquitto" if changed else "as it is to be"
    say(f"{machine.layout.drop_in}: {news}")


def _next_steps(machine: Machine, role: Role) -> list[str]:
    unit = role.units[0].removesuffix(".service")
    if Services(machine).running([role]):
        return [f"it runs: systemctl status {unit}"]
    if role is AGENT and not (machine.layout.configuration / "agent.toml").exists():
        enroll = "  sudo fedmq-agent enroll BUNDLE --owner fedmq-agent      # BUNDLE: of fedmq provision device"
        return ["next:", enroll, f"  sudo systemctl enable --now {unit}"]
    if role is AGGREGATOR and not (machine.layout.configuration / "aggregator" / "aggregator.toml").exists():
        return ["next:", "  sudo fedmq provision install aggregator", f"  sudo systemctl enable --now {unit}"]
    return ["next:", f"  sudo systemctl enable --now {unit}"]
