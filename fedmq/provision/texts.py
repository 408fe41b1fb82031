"""The configuration files that a keystore makes: TOML for aggregator, devices and monitors. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmq.examples import AGENT_TOML, AGGREGATOR_TOML
from fedmq.provision.records import key_at
from protocol.bundles import identity_block
from protocol.toml_block import block, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmq.provision.records import Federation, FederationKey

DEVICE_STATE = "/var/lib/fedmq/agent"
DEVICE_DATA = "/var/lib/fedmq/samples.npz"
AGGREGATOR_STATE = "/var/lib/fedmq/aggregator"


def signing_key_name(key: FederationKey) -> str:
    """Return the name of a private signing key's file. It goes with the key: no file ever changes its content."""
    return f"signing-{key.id}.key"


def standby_name(key: FederationKey) -> str:
    """Return the name of the file with the public half of the next signing key."""
    return f"signing-{key.id}.pub"


def sealing_key_name(key: FederationKey) -> str:
    """Return the name of a sealing key's file."""
    return f"sealing-{key.id}.key"


def aggregator_block(signing: Sequence[FederationKey], sealing: Sequence[FederationKey]) -> str:
    """Return the part of aggregator.toml that changes when keys do."""
    signers = [key for place in ("current", "previous") if (key := key_at(signing, place))]
    openers = [key for place in ("current", "previous") if (key := key_at(sealing, place))]
    standby = key_at(signing, "next")
    lines = [
        "[broker.tls]",
        'ca = "ca.crt"',
        'certificate = "aggregator.crt"',
        'key = "aggregator.key"',
        "",
        "[security]",
        f"signing_keys = {_listed([signing_key_name(key) for key in signers])}",
        *([f"standby_signing_key = {quoted(standby_name(standby))}"] if standby else []),
        f"sealing_keys = {_listed([sealing_key_name(key) for key in openers])}",
    ]
    return block(*lines)


def aggregator_toml(federation: Federation, host: str, state_dir: str, made: str) -> str:
    """Return a new aggregator.toml; ``made`` is its block."""
    head = f"""\
# The aggregator of federation {federation.name}, made by fedmq provision. Adapt [model], [training] and [schedule].
#
#   fedmq-aggregator run --config aggregator.toml            starts it
#   fedmq-aggregator run --config aggregator.toml --check    only checks this file
#
# What is commented out is the default.

[aggregator]
federation = {quoted(federation.name)}
state_dir = {quoted(state_dir)}         # everything that must survive

[broker]
host = {quoted(host)}
port = {federation.port}

"""
    return f"{head}{made}\n{_from(AGGREGATOR_TOML, '[model]')}"


def agent_toml(federation: Federation, device: str, host: str, data: str) -> str:
    """Return a device's configuration, with the names that the files have in its bundle."""
    head = f"""\
# Device {device} of federation {federation.name}, made by fedmq provision. What is commented out is the default.

[device]
id = {quoted(device)}
federation = {quoted(federation.name)}
state_dir = {quoted(DEVICE_STATE)}         # updates that wait to be sent, and the model; must survive a power cut

[broker]
host = {quoted(host)}
port = {federation.port}

"""
    return head + f"{identity_block()}\n" + _from(AGENT_TOML, "[data]").replace('"samples.npz"', quoted(data), 1)


def monitor_toml(federation: Federation) -> str:
    """Return what a monitor has to know: where the broker is."""
    return f"[broker]\nhost = {quoted(federation.hosts[0])}\nport = {federation.port}\n"


def _from(text: str, table: str) -> str:
    return text[text.index(f"\n{table}") + 1 :]


def _listed(names: Sequence[str]) -> str:
    return "[" + ", ".join(quoted(name) for name in names) + "]"
