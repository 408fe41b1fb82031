"""``fedmq provision list``: who has a certificate, until when, and which keys are in use. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from fedmq.provision.findings import SOON_DAYS
from fedmq.provision.records import DAY_S
from protocol.clock import utc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedmq.provision.records import Certificate, Federation, FederationKey

_STYLES = {"valid": "green", "expires soon": "yellow", "replaced": "dim"}
_ORDER = ("broker", "aggregator", "bridge", "monitor", "device")


def state_of(certificate: Certificate, now: int) -> str:
    """Return what a certificate is worth: valid, expires soon, expired, not yet valid, revoked or replaced."""
    if certificate.revoked is not None:
        return "revoked"
    if certificate.not_after < now:
        return "expired"
    if certificate.not_before > now:
        return "not yet valid"
    if not certificate.current:
        return "replaced"  # and good until it expires or is revoked
    return "expires soon" if certificate.not_after < now + SOON_DAYS * DAY_S else "valid"


def as_values(
    federation: Federation,
    certificates: Sequence[Certificate],
    keys: Sequence[FederationKey],
    bundles: Mapping[Certificate, str],
    now: int,
) -> dict[str, Any]:
    """Return everything, for ``--json``. Moments are ISO 8601."""
    return {
        "federation": federation.name,
        "hosts": list(federation.hosts),
        "port": federation.port,
        "certificates": [
            {
                "role": one.subject.role,
                "id": one.subject.name,
                "serial": one.serial_hex,
                "issued": _moment(one.issued),
                "expires": _moment(one.not_after),
                "state": state_of(one, now),
                "current": one.current,
                "revoked": None if one.revoked is None else _moment(one.revoked),
                "bundle": bundles.get(one),
            }
            for one in _ordered(certificates)
        ],
        "keys": [{"kind": key.kind, "id": key.id, "place": key.place, "made": _moment(key.made)} for key in keys],
    }


def certificate_table(certificates: Sequence[Certificate], bundles: Mapping[Certificate, str], now: int) -> Table:
    """Return the table of the certificates."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("role", "id", "state", "expires", "serial", "bundle"):
        table.add_column(name, overflow="fold", no_wrap=name in ("expires", "state"))
    for one in _ordered(certificates):
        state = state_of(one, now)
        style = _STYLES.get(state, "red")
        row = (one.subject.role, one.subject.name or "-", f"[{style}]{state}[/]", _day(one.not_after))
        table.add_row(*row, one.serial_hex[:8].lower(), bundles.get(one, "-"))
    return table


def key_lines(federation: Federation, keys: Sequence[FederationKey]) -> list[str]:
    """Return a line for every signing and sealing key."""
    meanings = {"current": "in use", "next": "standby, comes next", "previous": "before; overlap not ended"}
    return [
        f"{key.kind} key {key.id}  {meanings[key.place]}, made {_day(key.made)}"
        + (f", {federation.suite}" if key.kind == "sealing" and key.place == "current" else "")
        for key in keys
    ]


def _ordered(certificates: Sequence[Certificate]) -> list[Certificate]:
    return sorted(certificates, key=lambda one: (_ORDER.index(one.subject.role), one.subject.name, -one.current))


def _day(when: int) -> str:
    return utc(when).strftime("%Y-%m-%d")


def _moment(when: int) -> str:
    return utc(when).strftime("%Y-%m-%dT%H:%M:%SZ")
