"""The command line of ``fedmq provision``: what may be said, and no more. ``commands`` does it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import typer

from fedmq.arguments import broker_address, federation_name
from fedmq.provision.cli_rotate import rotate_app
from fedmq.provision.options import (
    CA_DAYS,
    DATA,
    DEVICE_DAYS,
    KEYSTORE,
    ROOT,
    SERVER_DAYS,
    Again,
    AsJson,
    At,
    Data,
    Days,
    Keystore,
    Root,
    checked_hosts,
    group,
    run,
)

DEFAULT_PORT = 8883

provision_app = group("Identities and keys of a federation: who may take part, and who no longer may.")
provision_app.add_typer(rotate_app, name="rotate", short_help="Replace a certificate or a key, with an overlap.")

Install = Annotated[bool, typer.Option("--install", help="Put the files in place on this machine, as root.")]


@provision_app.command(short_help="Make the keystore of a federation.")
def init(  # noqa: PLR0917 - typer calls it, by name
    federation: Annotated[str, typer.Argument(metavar="FEDERATION")],
    broker: Annotated[list[str], typer.Option(metavar="HOST", help="The broker's name or address; the first is used.")],
    port: Annotated[int, typer.Option(metavar="N", min=1, max=65535)] = DEFAULT_PORT,
    post_quantum: Annotated[bool, typer.Option("--post-quantum", help="Seal with ML-KEM-768 and X25519.")] = False,
    ca_days: Annotated[int, typer.Option(metavar="N", min=1, max=36500, help="Days the authority is good.")] = CA_DAYS,
    days: Days = SERVER_DAYS,
    install: Install = False,
    root: Root = ROOT,
    keystore: Keystore = KEYSTORE,
) -> None:
    """Make an authority, certificates of broker and aggregator, keys, and the files that they need."""
    name, hosts = federation_name(federation, "FEDERATION"), tuple(checked_hosts(broker))

    def work(commands: ModuleType) -> None:
        plan = commands.operations.Plan(
            federation=name,
            hosts=hosts,
            port=port,
            suite="mlkem768-x25519" if post_quantum else "x25519",
            ca_days=ca_days,
            days=days,
        )
        commands.init(keystore, plan, install=root if install else None)

    run(work)


@provision_app.command(short_help="Make bundles for devices.")
def device(  # noqa: PLR0917 - typer calls it, by name
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also those in its column 'id'.")] = None,
    days: Days = DEVICE_DAYS,
    data: Data = DATA,
    at: At = "",
    again: Again = False,
    as_json: AsJson = False,
    keystore: Keystore = KEYSTORE,
) -> None:
    """Make one bundle for each device: a file to carry there, for fedmq-agent enroll."""
    host = checked_hosts([at])[0] if at else ""
    run(
        lambda commands: commands.devices(
            keystore, ids or [], csv, days=days, data=data, host=host, again=again, as_json=as_json
        )
    )


@provision_app.command(short_help="Make a bundle for somebody who only watches.")
def monitor(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    days: Days = SERVER_DAYS,
    again: Again = False,
    keystore: Keystore = KEYSTORE,
) -> None:
    """Make a bundle for fedmq monitor: it may read states and metrics, and nothing else."""
    run(lambda commands: commands.monitor(keystore, name, days=days, again=again))


@provision_app.command(short_help="Make the files of a site's broker.")
def bridge(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    broker: Annotated[list[str], typer.Option(metavar="HOST", help="Name or address of the site's broker.")],
    days: Days = SERVER_DAYS,
    again: Annotated[bool, typer.Option("--again", help="New certificates, also if it was revoked.")] = False,
    keystore: Keystore = KEYSTORE,
) -> None:
    """Make the files of a site's broker, which a bridge joins to the federation's."""
    hosts = checked_hosts(broker)
    run(lambda commands: commands.bridge(keystore, name, hosts, days=days, again=again))


@provision_app.command(short_help="Trust somebody no more.")
def revoke(
    names: Annotated[list[str], typer.Argument(metavar="ID...", help="A device's id, monitor:NAME or bridge:NAME.")],
    install: Install = False,
    root: Root = ROOT,
    keystore: Keystore = KEYSTORE,
) -> None:
    """Revoke all certificates of a device, a monitor or a bridge."""
    run(lambda commands: commands.revoke(keystore, names, install=root if install else None))


@provision_app.command("list", short_help="Who has a certificate, and until when.")
def show(
    older: Annotated[bool, typer.Option("--all", help="Also certificates that have been replaced.")] = False,
    as_json: AsJson = False,
    keystore: Keystore = KEYSTORE,
) -> None:
    """List certificates and keys."""
    run(lambda commands: commands.show_list(keystore, older=older, as_json=as_json))


@provision_app.command(short_help="Find what is wrong, or soon will be.")
def check(
    connect: Annotated[str, typer.Option(metavar="HOST:PORT", help="Also look at the broker there.")] = "",
    repair: Annotated[bool, typer.Option("--repair", help="First make the keystore's files again.")] = False,
    as_json: AsJson = False,
    keystore: Keystore = KEYSTORE,
) -> None:
    """Look for expired certificates, wrong names, loose file modes, a wrong clock, half-made files."""
    address = broker_address(connect, "--connect", DEFAULT_PORT) if connect else None
    where = (address.host, address.port) if address else None
    run(lambda commands: commands.check(keystore, where, repair=repair, as_json=as_json))


@provision_app.command(short_help="Put the files in place on this machine, as root.")
def install(
    what: Annotated[Literal["broker", "aggregator"] | None, typer.Argument(metavar="[broker|aggregator]")] = None,
    owner: Annotated[str, typer.Option(metavar="USER", help="Who runs the aggregator, and owns its files.")] = "",
    root: Root = ROOT,
    keystore: Keystore = KEYSTORE,
) -> None:
    """Put the files of broker and aggregator where Debian's Mosquitto and the aggregator look for them."""
    wanted = {what} if what else {"broker", "aggregator"}
    run(lambda commands: commands.put_in_place(keystore, wanted, root, owner))
