"""Makes certificates with their records, and what is carried to their bearers. Pure: the clock is an argument."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from fedmq.provision.authority import (
    BACKDATED,
    Credential,
    Revoked,
    client_certificate,
    make_ca,
    make_crl,
    server_certificate,
)
from fedmq.provision.keys import federation_json
from fedmq.provision.names import Subject, common_name
from fedmq.provision.records import Certificate, Crl, Federation, FederationKey
from fedmq.provision.texts import agent_toml, monitor_toml
from protocol import bundles
from protocol.clock import utc

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def new_ca(federation: str, now: int, days: int) -> Credential:
    """Return a new authority."""
    not_before, not_after = _lifetime(now, days, None)
    return make_ca(federation, not_before=not_before, not_after=not_after)


def new_certificate(
    ca: Credential, subject: Subject, now: int, days: int, hosts: Sequence[str] = ()
) -> tuple[Certificate, Credential]:
    """Return a new certificate's record, which holds no key yet, and the credential; ``hosts`` make it a broker's.

    It ends with its authority at the latest.
    """
    not_before, not_after = _lifetime(now, days, ca)
    if hosts:
        made = server_certificate(ca, hosts, not_before=not_before, not_after=not_after)
    else:
        made = client_certificate(ca, common_name(subject), not_before=not_before, not_after=not_after)
    record = Certificate(
        serial=made.certificate.serial_number,
        subject=subject,
        issued=now,
        not_before=int(not_before.timestamp()),
        not_after=int(not_after.timestamp()),
        pem=made.certificate_pem,
    )
    return record, made


def new_crl(ca: Credential, certificates: Iterable[Certificate], number: int) -> Crl:
    """Return the list of those among the certificates that are revoked.

    It is good for as long as its authority: Mosquitto refuses everybody once it has expired, and a list that is copied
    by hand is as fresh as its copy, whatever date stands in it.
    """
    revoked = [Revoked(one.serial, utc(one.revoked)) for one in certificates if one.revoked is not None]
    ends = ca.certificate.not_valid_after_utc
    pem = make_crl(ca, revoked, issued=ca.certificate.not_valid_before_utc, next_update=ends, number=number)
    return Crl(pem=pem, number=number, next_update=int(ends.timestamp()))


def bundle(
    federation: Federation,
    signing: Sequence[FederationKey],
    subject: Subject,
    credential: Credential,
    *,
    host: str,
    data: str,
) -> bytes:
    """Return the file that brings a device or a monitor its identity."""
    if subject.role == "device":
        configuration = agent_toml(federation, subject.name, host, data)
    else:
        configuration = monitor_toml(federation)
    return bundles.encode(
        bundles.Bundle(
            role="device" if subject.role == "device" else "monitor",
            name=subject.name,
            federation=federation.name,
            host=host,
            port=federation.port,
            files={
                "certificate": credential.certificate_pem.decode(),
                "key": credential.key_pem.decode(),
                "ca": federation.ca.decode(),
                "federation": federation_json(federation.name, signing).decode(),
                "configuration": configuration,
            },
        )
    )


def _lifetime(now: int, days: int, ca: Credential | None) -> tuple[datetime, datetime]:
    moment = utc(now)
    begin, end = moment - BACKDATED, moment + timedelta(days=days)
    if ca is None:
        return begin, end
    return max(begin, ca.certificate.not_valid_before_utc), min(end, ca.certificate.not_valid_after_utc)
