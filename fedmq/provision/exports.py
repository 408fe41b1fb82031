"""The files that a keystore shows: what broker, aggregator and sites need, made of the index alone. Pure.

They can be made again at any time, so a process that was killed while it wrote them has lost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import broker_config
from fedmq.provision.keys import federation_json, public_pem
from fedmq.provision.records import key_at
from fedmq.provision.texts import sealing_key_name, signing_key_name, standby_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fedmq.provision.records import Certificate, Crl, Federation, FederationKey

BROKER_FOLDER = "broker"
AGGREGATOR_FOLDER = "aggregator"
SITES_FOLDER = "sites"

GENERATED = ("signing-*.key", "signing-*.pub", "sealing-*.key")
"""Files of the aggregator's folder that come and go; whatever else lies there belongs to its owner."""


@dataclass(frozen=True, slots=True)
class Content:
    """What belongs into a file, and whether others than its owner may read it."""

    data: bytes
    secret: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A broker that devices of a place connect to, and that is joined to the federation's by a bridge."""

    name: str
    bridge: Certificate
    broker: Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What the files are made of."""

    federation: Federation
    broker: Certificate
    aggregator: Certificate
    signing: Sequence[FederationKey]
    sealing: Sequence[FederationKey]
    crl: Crl
    monitors: Sequence[str]
    sites: Sequence[Site]
    revoked: Sequence[str]
    """Common names of which no certificate is trusted any more."""


def broker_files(holdings: Holdings, directory: str = broker_config.DIRECTORY) -> dict[str, Content]:
    """Return the files of the broker, whose configuration looks for them in ``directory``."""
    texts = broker_config.files(
        holdings.federation.name,
        monitors=holdings.monitors,
        bridges=[site.name for site in holdings.sites],
        revoked=holdings.revoked,
        directory=directory,
        port=holdings.federation.port,
    )
    return {**_texts(texts), **_common(holdings), **_pair("broker", holdings.broker)}


def site_files(holdings: Holdings, site: Site, directory: str = broker_config.DIRECTORY) -> dict[str, Content]:
    """Return the files of a site's broker."""
    texts = broker_config.site_files(
        holdings.federation.name,
        site.name,
        hub=holdings.federation.hosts[0],
        hub_port=holdings.federation.port,
        monitors=holdings.monitors,
        revoked=holdings.revoked,
        directory=directory,
        port=holdings.federation.port,
    )
    pairs = {**_pair("broker", site.broker), **_pair(f"bridge-{site.name}", site.bridge)}
    return {**_texts(texts), **_common(holdings), **pairs}


def aggregator_files(holdings: Holdings) -> dict[str, Content]:
    """Return the files of the aggregator, but its configuration."""
    return {
        "ca.crt": Content(holdings.federation.ca),
        "federation.json": Content(federation_json(holdings.federation.name, holdings.signing)),
        **_pair("aggregator", holdings.aggregator),
        **dict(_keys(holdings)),
    }


def all_files(holdings: Holdings) -> dict[str, Content]:
    """Return all of them, by their paths in the keystore."""
    folders: dict[str, Mapping[str, Content]] = {
        BROKER_FOLDER: broker_files(holdings),
        AGGREGATOR_FOLDER: aggregator_files(holdings),
        **{f"{SITES_FOLDER}/{site.name}": site_files(holdings, site) for site in holdings.sites},
    }
    files = {f"{folder}/{name}": content for folder, made in folders.items() for name, content in made.items()}
    return {"ca.crt": Content(holdings.federation.ca), **files}


def _texts(texts: Mapping[str, str]) -> dict[str, Content]:
    return {name: Content(text.encode()) for name, text in texts.items()}


def _common(holdings: Holdings) -> dict[str, Content]:
    return {"ca.crt": Content(holdings.federation.ca), "crl.pem": Content(holdings.crl.pem)}


def _pair(name: str, certificate: Certificate) -> dict[str, Content]:
    # The key first, and its certificate at once after it: files are written in this order.
    return {
        f"{name}.key": Content(certificate.key or b"", secret=True),
        f"{name}.crt": Content(certificate.pem),
    }


def _keys(holdings: Holdings) -> Iterator[tuple[str, Content]]:
    for place in ("current", "previous"):
        if signing := key_at(holdings.signing, place):
            yield signing_key_name(signing), Content(signing.private, secret=True)
        if sealing := key_at(holdings.sealing, place):
            yield sealing_key_name(sealing), Content(sealing.private, secret=True)
    if standby := key_at(holdings.signing, "next"):
        yield standby_name(standby), Content(public_pem(standby))
