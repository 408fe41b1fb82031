"""The command ``fedmq-agent``. argparse, not typer: every import is memory on the board."""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from device_agent.adapters.late_imports import postponed

with postponed():
    from pathlib import Path

    from device_agent.settings import AgentSettings
    from protocol.adapters.configuration import ConfigurationError, load
    from protocol.adapters.logs import FORMATS, say_why, set_up_log
    from protocol.adapters.output import quiet_without_reader
    from protocol.adapters.pins import read_pins

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_UNUSABLE = 1
EXIT_DAMAGED = 75
"""EX_TEMPFAIL: another start, as systemd's Restart= makes it, heals this."""


@quiet_without_reader
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "enroll":
        from device_agent.adapters.cli import enroll  # noqa: PLC0415 - as below

        return enroll(options.bundle, options.to, data=options.data, owner=options.owner, replace=options.replace)
    if options.command == "last-words":
        return _last_words(options)
    try:
        settings = _settings(options)
        pins = _pins(settings) if options.command == "run" else ()
        if options.command == "run":
            _look_at_certificates(settings, check=options.check)
            if options.check:
                from device_agent.adapters.cli import say_sources  # noqa: PLC0415 - for --check only

                say_sources(settings)
    except ConfigurationError as exc:
        say_why("fedmq-agent", str(exc))
        return EXIT_USAGE
    if options.command == "run":
        return _run(settings, pins, options)
    from device_agent.adapters.cli import outbox, status  # noqa: PLC0415 - the running agent does without

    return (status if options.command == "status" else outbox)(settings, as_json=options.json)


def _run(settings: AgentSettings, pins: tuple[bytes, ...], options: argparse.Namespace) -> int:
    if options.check:
        from device_agent.adapters.cli import say_readings  # noqa: PLC0415 - for --check only

        print(f"{options.config}: fine")  # noqa: T201 - a command line talks
        say_readings(settings)
        return EXIT_OK
    os.umask(0o077)  # what the agent learned and holds is nobody else's, whoever made the folder
    set_up_log(options.log_level, options.log_format)
    with postponed():
        from device_agent.adapters.store import StoreCorruptError, StoreError  # noqa: PLC0415 - --check needs no store
        from device_agent.service import Service  # noqa: PLC0415 - paho is slow to import, and --check needs no link

    try:
        return Service(settings, pins).run()
    except StoreCorruptError as exc:
        say_why("fedmq-agent", str(exc))
        return EXIT_DAMAGED
    except (StoreError, ConfigurationError) as exc:
        say_why("fedmq-agent", str(exc))
        return EXIT_UNUSABLE


def _last_words(options: argparse.Namespace) -> int:
    from device_agent.adapters.telling_last import tell  # noqa: PLC0415 - the running agent does without

    set_up_log("info", "auto")
    return tell(options.unit, options.config)


def _settings(options: argparse.Namespace) -> AgentSettings:
    path: Path = options.config
    settings = load(path, AgentSettings)
    suffix = Path(settings.data.path).suffix.lower()
    if settings.data.path and suffix not in (".npz", ".csv"):
        raise ConfigurationError(f"{path}: data.path is {settings.data.path!r}; allowed is a file .npz or .csv")
    return settings


def _look_at_certificates(settings: AgentSettings, *, check: bool) -> None:
    tls = settings.broker.tls
    if tls is None:
        return
    if not check:
        # Dates are left to the handshake: at the start a board's clock may be years off.
        from protocol.adapters.tls import make_context  # noqa: PLC0415 - not without TLS

        make_context(tls)
        return
    from protocol.adapters.tls_check import check_tls  # noqa: PLC0415 - for --check only

    for note in check_tls(tls, time.time(), settings.device.id):
        print(f"{note} (only a note)", file=sys.stderr)  # noqa: T201 - a command line talks


def _pins(settings: AgentSettings) -> tuple[bytes, ...]:
    return read_pins(settings.security.federation_keys, settings.device.federation)


class _Parser(argparse.ArgumentParser):
    def __init__(self, *, prog: str, description: str) -> None:
        # Told no width, argparse has shutil find out the terminal's, also when there is no help to show: 0.5 MB.
        formatter = partial(argparse.HelpFormatter, width=100)
        super().__init__(prog=prog, description=description, formatter_class=formatter)


def _parser() -> argparse.ArgumentParser:
    # To translate "usage", argparse has gettext read the table of all locales: half a megabyte, and no translation.
    vars(argparse)["_"] = str
    parser = _Parser(prog="fedmq-agent", description="The agent on a device of a fedmq federation.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = _command(commands, "run", "run the agent until SIGTERM")
    run.add_argument("--check", action="store_true", help="only check the configuration")
    run.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    run.add_argument("--log-format", choices=FORMATS, default="auto", help="auto: the journal's, where it listens")
    for name, text in (
        ("status", "show what the agent holds, also while it runs"),
        ("outbox", "list the updates that wait for a receipt"),
    ):
        command = _command(commands, name, text)
        command.add_argument("--json", action="store_true", help="as one JSON object")
    _add_enroll(commands)
    _add_last_words(commands)
    return parser


def _add_enroll(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "take on the identity in a bundle of fedmq provision"
    enroll = commands.add_parser("enroll", help=text, description=text)
    enroll.add_argument("bundle", type=Path, metavar="BUNDLE", help="the file ID.fedmq")
    enroll.add_argument("--to", type=Path, metavar="DIR", default=Path("/etc/fedmq"), help="where to; /etc/fedmq")
    enroll.add_argument("--data", metavar="FILE", help="the device's examples, .npz or .csv")
    enroll.add_argument("--owner", metavar="USER", help="who runs the agent, and is to own its key")
    enroll.add_argument("--replace", action="store_true", help="even if this is another device so far")


def _add_last_words(commands: argparse._SubParsersAction[_Parser]) -> None:
    text = "tell the federation that systemd has given up an agent (for the failure unit)"
    command = commands.add_parser("last-words", help=text, description=text)
    command.add_argument(
        "--unit", required=True, metavar="UNIT", help="fedmq-agent.service, or fedmq-agent@NAME.service"
    )
    command.add_argument("--config", type=Path, metavar="FILE", help="agent.toml, where it is not that unit's")


def _command(commands: argparse._SubParsersAction[_Parser], name: str, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")
    return command


if __name__ == "__main__":
    sys.exit(main())
