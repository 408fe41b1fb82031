"""Options that several commands of ``fedmq provision`` share, and how each of them is run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, TypeAlias

import typer

from fedmq.provision.hosts import is_host

DEVICE_DAYS = 5 * 365
SERVER_DAYS = 2 * 365
CA_DAYS = 20 * 365

Keystore: TypeAlias = Annotated[
    Path, typer.Option("--keystore", envvar="FEDMQ_KEYSTORE", metavar="DIR", help="The federation's keystore.")
]
Days: TypeAlias = Annotated[int, typer.Option(metavar="N", min=1, max=36500, help="How long certificates are good.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Again: TypeAlias = Annotated[bool, typer.Option("--again", help="Also for those who were revoked.")]
Data: TypeAlias = Annotated[str, typer.Option(metavar="FILE", help="Where devices have their examples (.npz, .csv).")]
Root: TypeAlias = Annotated[Path, typer.Option(metavar="DIR", help="Install below this folder, as for an image.")]
End: TypeAlias = Annotated[bool, typer.Option("--end-overlap", help="Make no new one; end the one before.")]
At: TypeAlias = Annotated[str, typer.Option("--broker", metavar="HOST", help="Their broker, if it is a site's.")]

KEYSTORE = Path("keystore")
ROOT = Path("/")
DATA = "/var/lib/fedmq/samples.npz"


def run(work: Callable[[ModuleType], int | None]) -> None:
    """Call ``work`` with the module that does it, and end as it says; a failure is told in a line."""
    from fedmq.provision import commands  # noqa: PLC0415 - help and mistakes do without cryptography

    try:
        code = work(commands)
    except commands.FAILURES as exc:
        print(f"fedmq: {exc}", file=sys.stderr)  # noqa: T201 - a command line talks
        raise typer.Exit(1) from exc
    if code:
        raise typer.Exit(code)


def group(text: str) -> typer.Typer:
    """Return a group of commands that behaves as ``fedmq`` itself."""
    return typer.Typer(
        help=text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def checked_hosts(hosts: list[str]) -> list[str]:
    """Return host names and addresses; raise ``typer.BadParameter``."""
    for host in hosts:
        if not is_host(host):
            raise typer.BadParameter(
                f"{host!r} is neither a host name nor an IP address (and the port is --port)", param_hint="--broker"
            )
    return list(dict.fromkeys(host.lower() for host in hosts))
