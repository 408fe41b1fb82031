"""The command ``systemd/install``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedmq_installer import acting
from fedmq_installer.layout import ROLES, InstallError, Layout
from fedmq_installer.machine import Machine
from fedmq_installer.saying import complain
from fedmq_installer.services import PATIENCE_S, SETTLE_S, Patience
from fedmq_installer.source import Source

EXIT_OK = 0
EXIT_FAILED = 1

EPILOG = """\
Programs go to /opt/fedmq, configuration to /etc/fedmq, state to /var/lib/fedmq. Each command may be repeated, and
killed at any moment: the next run finishes, or undoes, what it finds. No service is started that did not run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 2 for wrong arguments, 1 for everything else that went wrong."""
    options = _parser().parse_args(arguments)
    machine = Machine(Layout(options.root), sys.executable)
    try:
        _carry_out(machine, options)
    except InstallError as exc:
        complain(str(exc))
        return EXIT_FAILED
    except OSError as exc:
        complain(f"{exc.strerror}: {exc.filename}" if exc.filename else str(exc))
        return EXIT_FAILED
    except KeyboardInterrupt:
        complain("interrupted; the next run finishes, or undoes, what was begun")
        return EXIT_FAILED
    return EXIT_OK


def _carry_out(machine: Machine, options: argparse.Namespace) -> None:
    command: str = options.command
    if command in ROLES:
        acting.install(machine, ROLES[command], _source(options), _patience(options))
    elif command == "upgrade":
        acting.upgrade(machine, _source(options), _patience(options))
    elif command == "undo":
        acting.undo(machine, _patience(options))
    elif command == "resume":
        acting.resume(machine, _patience(options))
    elif command == "uninstall":
        acting.uninstall(machine, [ROLES[name] for name in dict.fromkeys(options.roles)], purge=options.purge)
    else:
        acting.status(machine)


def _source(options: argparse.Namespace) -> Source:
    return Source(options.wheels, build=options.build, system_packages=options.system_packages)


def _patience(options: argparse.Namespace) -> Patience:
    return Patience(options.patience, min(options.settle, options.patience))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="install",
        description="Install fedmq as services of this machine (Debian 12, Raspberry Pi OS; run it with sudo).",
        epilog=EPILOG,
    )
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("agent", "install what a device needs"),
        ("aggregator", "install the aggregator, and the operator's command fedmq"),
        ("broker", "harden Debian's Mosquitto, and raise its limits"),
        ("upgrade", "bring what is installed to this release; back by itself when that is not healthy"),
        ("undo", "go back to the version before, whose environment is still there; once more, and forth again"),
        ("resume", "decide about an upgrade that was interrupted (the next boot does so, too)"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(wheels=None, build=False, system_packages=False, patience=PATIENCE_S, settle=SETTLE_S)
        if name not in ("broker", "undo", "resume"):
            _add_source(command)
        if name != "broker":
            _add_patience(command)
    uninstall = commands.add_parser("uninstall", help="remove it", description="Remove roles, or everything.")
    uninstall.add_argument("roles", nargs="*", choices=[*ROLES, []], metavar="ROLE", help="agent, aggregator, broker")
    uninstall.add_argument("--purge", action="store_true", help="configuration, keys and state, too")
    commands.add_parser("status", help="say what is installed", description="Say what is installed.")
    return parser


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument("--wheels", type=Path, metavar="DIR", help="a folder of wheels instead of the package index")
    command.add_argument(
        "--build", action="store_true", help="compile what has no wheel for this machine (needs a compiler, and time)"
    )
    command.add_argument(
        "--system-packages",
        action="store_true",
        help="use the machine's own Python packages where they are new enough (python3-numpy on 32-bit ARM)",
    )


def _add_patience(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--patience", type=float, default=PATIENCE_S, metavar="S", help="seconds until all must be healthy; 120"
    )
    command.add_argument(
        "--settle", type=float, default=SETTLE_S, metavar="S", help="seconds to stay so, unrestarted; 30"
    )


if __name__ == "__main__":
    sys.exit(main())
