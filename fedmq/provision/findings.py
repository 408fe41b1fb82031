"""What ``fedmq provision check`` looks for in the index. Pure: facts and a moment in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedmq.provision.names import Subject
from fedmq.provision.records import DAY_S, Certificate
from protocol.clock import moment, utc

if TYPE_CHECKING:
    from fedmq.provision.exports import Holdings

SOON_DAYS = 30
CLOCK_SLACK_S = 300
"""Clocks of two machines that work on one keystore."""
MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong or soon will be, and what to do."""

    what: str
    todo: str


def clock(latest_issue: int, now: int) -> Iterator[Finding]:
    """Tell when this machine's clock, or that at the last change, is off."""
    if latest_issue > now + CLOCK_SLACK_S:
        yield Finding(
            f"the newest certificate was made at {moment(latest_issue)}, and this machine's clock says {moment(now)}",
            "set the clock (timedatectl set-ntp true); if it was wrong then, rotate what was made then",
        )


def authority(holdings: Holdings, now: int) -> Iterator[Finding]:
    """Tell when the authority, or the list of revoked certificates, has expired or soon will."""
    ends = int(x509.load_pem_x509_certificate(holdings.federation.ca).not_valid_after_utc.timestamp())
    if ends < now + SOON_DAYS * DAY_S:
        yield Finding(
            f"the authority {_expiry(ends, now)}, and all certificates with it",
            "make a new keystore for the federation, and enroll all devices from it with --replace",
        )
    if holdings.crl.next_update < now:
        yield Finding(
            f"the list of revoked certificates expired on {_day(holdings.crl.next_update)}: nobody gets in",
            "it ends with its authority: make a new keystore",
        )


def expiries(certificates: Sequence[Certificate], now: int) -> Iterator[Finding]:
    """Tell of certificates in use that have expired, soon will, or are not valid yet; devices in groups."""
    in_use = [one for one in certificates if one.current and one.revoked is None]
    for one in in_use:
        if one.not_before > now:
            yield Finding(
                f"the certificate of {one.subject} is valid from {moment(one.not_before)} only; it is {moment(now)}",
                "set this machine's clock (timedatectl set-ntp true)",
            )
    due = [one for one in in_use if one.not_after < now + SOON_DAYS * DAY_S]
    for one in due:
        if one.subject.role != "device":
            yield Finding(f"the certificate of {one.subject} {_expiry(one.not_after, now)}", _renewal(one.subject))
    devices = [one for one in due if one.subject.role == "device"]
    gone = [one for one in devices if one.not_after < now]
    if gone:
        yield Finding(f"certificates of devices have expired: {_named(gone)}", _renewal(gone[0].subject))
    soon = [one for one in devices if one.not_after >= now]
    if soon:
        first = min(soon, key=lambda one: one.not_after)
        yield Finding(
            f"certificates of devices expire soon, the first on {_day(first.not_after)}: {_named(soon)}",
            _renewal(first.subject),
        )


def pairs(holdings: Holdings) -> Iterator[Finding]:
    """Tell when a key that the index holds is not that of its certificate."""
    sites = [one for site in holdings.sites for one in (site.bridge, site.broker)]
    for one in (holdings.broker, holdings.aggregator, *sites):
        try:
            key = serialization.load_pem_private_key(one.key or b"", password=None).public_key()
            fits = key == x509.load_pem_x509_certificate(one.pem).public_key()
        except (ValueError, TypeError):
            fits = False
        if not fits:
            yield Finding(f"the key of {one.subject} does not belong to its certificate", _renewal(one.subject))


def _renewal(subject: Subject) -> str:
    match subject.role:
        case "device":
            return "fedmq provision rotate device ID..., and enroll the new bundles"
        case "monitor":
            return f"fedmq provision rotate monitor {subject.name}"
        case "bridge" | "broker" if subject.name:
            return f"fedmq provision bridge {subject.name} --again, and copy sites/{subject.name} to its broker"
        case _:
            return f"fedmq provision rotate {subject.role}, and put it in place (sudo fedmq provision install)"


def _named(certificates: Sequence[Certificate]) -> str:
    names = ", ".join(one.subject.name for one in certificates[:MAX_NAMED])
    more = len(certificates) - MAX_NAMED
    return f"{names} and {more:,} more" if more > 0 else names


def _expiry(when: int, now: int) -> str:
    if when < now:
        return f"expired on {_day(when)}"
    return f"expires on {_day(when)}, in {(when - now) // DAY_S} days"


def _day(when: int) -> str:
    return utc(when).strftime("%Y-%m-%d")
