"""A look at certificate and key before they are needed: for ``--check``, which has time to read certificates."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from protocol.adapters.secret_files import path_of, read_public
from protocol.adapters.tls import CA, CERTIFICATE, make_context
from protocol.clock import utc
from protocol.settings import ConfigurationError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from protocol.link import TlsSettings

SOON = timedelta(days=30)
"""A certificate with less left is worth a note."""


def check_tls(settings: TlsSettings | None, now: float, name: str = "") -> list[str]:
    """Return what is worth knowing of the files; raise ``ConfigurationError`` with all that makes them useless.

    ``name`` is whom the certificate ought to be of; ``now`` is in seconds since 1970.
    """
    if settings is None:
        return []
    make_context(settings)
    when = utc(now)
    faults: list[str] = []
    notes: list[str] = []
    for certificate in _certificates(settings.ca, CA):
        found = _out_of_time(certificate, when)
        (faults if found else notes).extend(
            f"{CA} {path_of(settings.ca, CA)}: {text}" for text in ([found] if found else _soon(certificate, when))
        )
    if settings.certificate:
        own = _certificates(settings.certificate, CERTIFICATE)[0]
        file = f"{CERTIFICATE} {path_of(settings.certificate, CERTIFICATE)}"
        found = _out_of_time(own, when)
        if found:
            faults.append(f"{file}: {found}")
        notes += [f"{file}: {text}" for text in (*_soon(own, when), *_another(own, name))]
    if faults:
        raise ConfigurationError(*faults)
    return notes


def _certificates(name: str, what: str) -> list[Certificate]:
    from cryptography import x509  # noqa: PLC0415 - 7 MB, for --check only

    try:
        return x509.load_pem_x509_certificates(read_public(name, what))
    except ValueError as exc:
        if isinstance(exc, ConfigurationError):
            raise
        raise ConfigurationError(f"{what} {path_of(name, what)}: holds no certificate in PEM form") from exc


def _out_of_time(certificate: Certificate, now: datetime) -> str:
    if now < certificate.not_valid_before_utc:
        return (
            f"is not valid before {_day(certificate.not_valid_before_utc)}, and the clock here says {_day(now)}: set "
            "the clock"
        )
    if now > certificate.not_valid_after_utc:
        return (
            f"has expired on {_day(certificate.not_valid_after_utc)} (the clock here says {_day(now)}): ask for "
            "another one (fedmq provision)"
        )
    return ""


def _soon(certificate: Certificate, now: datetime) -> list[str]:
    left = certificate.not_valid_after_utc - now
    return [f"expires in {left.days} days"] if timedelta() <= left < SOON else []


def _another(certificate: Certificate, name: str) -> list[str]:
    from cryptography.x509.oid import NameOID  # noqa: PLC0415 - as above

    names = [str(part.value) for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not name or name in names:
        return []
    return [f"is of {', '.join(map(repr, names)) or 'nobody'}, not of {name!r}: a broker that goes by names refuses it"]


def _day(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"
