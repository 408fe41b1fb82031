"""A bridge: the broker of a site connects to the federation's hub, and devices of the site take part through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from broker_config import names
from broker_config.acl import RULES
from protocol.topics import Topics

QOS_0 = {"aggregator/metrics", "device/+/metrics"}
"""Figures: the next ones are better than old ones."""


def bridge_configuration(federation: str, name: str, folder: PurePosixPath, hub: str, port: int) -> str:
    """Return the file for ``conf.d`` of the site's broker. Every topic goes one way only, so nothing can go round.

    ``hub`` has to be a name or address in the certificate of the hub's broker.
    """
    root = Topics(names.checked(federation, "federation")).root
    if not hub or not all(character.isalnum() or character in ".-:_[]" for character in hub):
        raise ValueError(f"{hub!r} is neither a host name nor an address")
    lines = _TEXT.format(
        federation=federation,
        name=name,
        common_name=names.bridge(name),
        hub=f"[{hub}]" if ":" in hub and not hub.startswith("[") else hub,
        port=port,
        folder=folder,
    )
    return lines + "\n".join(_topics(root)) + "\n"


def _topics(root: str) -> Iterator[str]:
    yield "# From the devices of this site to the hub."
    yield from _direction(root, "write", "out")
    yield "# From the hub to the devices of this site."
    yield from _direction(root, "read", "in")


def _direction(root: str, access: str, way: str) -> Iterator[str]:
    for rule in RULES:
        if rule.bridge == access:
            yield f"topic {rule.topic} {way} {0 if rule.topic in QOS_0 else 1} {root}/ {root}/"


_TEXT = """\
# Bridge {name}: joins this site's broker to the hub of federation {federation}. For conf.d of the site's broker,
# which serves its devices with a configuration of its own. Made by fedmq.
# Mosquitto reads it at its start only: restart it after a change.

connection fedmq-{federation}-{name}
address {hub}:{port}

bridge_cafile {folder}/ca.crt
bridge_certfile {folder}/bridge-{name}.crt
bridge_keyfile {folder}/bridge-{name}.key
bridge_insecure false
bridge_tls_version tlsv1.2
bridge_protocol_version mqttv311

# By this name the site's own access control knows what the bridge publishes here; the hub goes by the certificate.
remote_username {common_name}
local_username {common_name}
remote_clientid {common_name}
local_clientid local:{common_name}

# Both ends keep what comes while the line is down, up to the limits of either broker.
cleansession false
local_cleansession false
# Wait 1 s before the first attempt, and up to 30 s, at random: the hub is not stormed when it comes back.
restart_timeout 1 30
keepalive_interval 60
# Tells this broker, not the hub, whether the line is up: $SYS/broker/connection/{common_name}/state.
notifications true
notifications_local_only true
# Lets the hub know that this is a bridge, so that it keeps the retain flag, and sends nothing back that came from here.
try_private true
# The hub's access control decides what is delivered; there is nothing to unsubscribe from.
bridge_attempt_unsubscribe false

"""
