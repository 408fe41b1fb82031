"""The command line of ``fedmq provision rotate``."""

from __future__ import annotations

from typing import Annotated

import typer

from fedmq.provision.options import (
    DATA,
    DEVICE_DAYS,
    KEYSTORE,
    SERVER_DAYS,
    At,
    Data,
    Days,
    End,
    Keystore,
    checked_hosts,
    group,
    run,
)

rotate_app = group("Replace a certificate or a key; the one before goes on working until its overlap is ended.")

Hosts = Annotated[list[str] | None, typer.Option("--broker", metavar="HOST", help="New names and addresses.")]
Port = Annotated[int | None, typer.Option(metavar="N", min=1, max=65535, help="A new port.")]


@rotate_app.command(short_help="The broker's certificate; also for other host names.")
def broker(
    hosts: Hosts = None,
    port: Port = None,
    days: Days = SERVER_DAYS,
    end: End = False,
    keystore: Keystore = KEYSTORE,
) -> None:
    """Make a new certificate for the broker, for other host names if any are given."""
    wanted = checked_hosts(hosts or [])
    run(lambda commands: commands.rotate_certificate(keystore, "broker", wanted, port, days=days, end=end))


@rotate_app.command(short_help="The aggregator's certificate.")
def aggregator(days: Days = SERVER_DAYS, end: End = False, keystore: Keystore = KEYSTORE) -> None:
    """Make a new certificate for the aggregator."""
    run(lambda commands: commands.rotate_certificate(keystore, "aggregator", (), None, days=days, end=end))


@rotate_app.command(short_help="The key that signs models and commands.")
def signing(end: End = False, keystore: Keystore = KEYSTORE) -> None:
    """Sign with the standby key, beside the one before, and make a new standby key."""
    run(lambda commands: commands.rotate_key(keystore, "signing", None, end=end))


@rotate_app.command(short_help="The key that devices seal updates to.")
def sealing(
    end: End = False,
    post_quantum: Annotated[
        bool | None, typer.Option("--post-quantum/--classic", help="Change to the other suite.", show_default=False)
    ] = None,
    keystore: Keystore = KEYSTORE,
) -> None:
    """Have devices seal to a new key; what is sealed to the one before still opens."""
    suite = {None: None, True: "mlkem768-x25519", False: "x25519"}[post_quantum]
    run(lambda commands: commands.rotate_key(keystore, "sealing", suite, end=end))


@rotate_app.command(short_help="Devices: new bundles.")
def device(  # noqa: PLR0917 - typer calls it, by name
    ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    days: Days = DEVICE_DAYS,
    data: Data = DATA,
    at: At = "",
    end: End = False,
    keystore: Keystore = KEYSTORE,
) -> None:
    """Make new bundles for devices that have one."""
    run(
        lambda commands: commands.rotate_bundles(
            keystore, [commands.Subject("device", id_) for id_ in ids], days=days, data=data, host=at, end=end
        )
    )


@rotate_app.command(short_help="A monitor: a new bundle.")
def monitor(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    days: Days = SERVER_DAYS,
    end: End = False,
    keystore: Keystore = KEYSTORE,
) -> None:
    """Make a new bundle for a monitor."""
    run(
        lambda commands: commands.rotate_bundles(
            keystore, [commands.Subject("monitor", name)], days=days, data="", host="", end=end
        )
    )
