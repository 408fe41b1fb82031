"""A federation's certificate authority: certificates and revocation lists (X.509, RFC 5280). Pure.

All keys are ECDSA on P-256, signatures are with SHA-256: what every TLS library of the last ten years takes, and small.
The times are arguments, so that a test can make a certificate that has expired or is not valid yet.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmq.provision.hosts import is_address, is_host

MAX_NAME = 64
"""Characters of a common name: ub-common-name of RFC 5280."""
BACKDATED = timedelta(days=365)
"""Certificates and lists are good from so long before they were made: boards wake up with the clock of the day on which
they were switched off, and brokers run on boards too. A private authority gives nothing away by this."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate, as PEM."""
        return certificate_pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        """The private key, as PEM (PKCS#8, not encrypted: keep it in a file that only its owner can read)."""
        return key_pem(self.key)


@dataclass(frozen=True, slots=True)
class Revoked:
    """A certificate that is no longer to be trusted, and since when."""

    serial: int
    when: datetime


def make_ca(federation: str, *, not_before: datetime, not_after: datetime) -> Credential:
    """Return a new authority for the federation: it signs itself, and it can sign no further authorities."""
    key = _new_key()
    subject = _name("fedmq CA", federation)
    builder = (
        _builder(subject, subject, key, not_before, not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return Credential(builder.sign(key, hashes.SHA256()), key)


def server_certificate(
    ca: Credential, hosts: Sequence[str], *, not_before: datetime, not_after: datetime
) -> Credential:
    """Return a broker's certificate; it is good for these DNS names and IP addresses, and no other.

    Raise ``ValueError`` for no host, and for one that is neither a name nor an address.
    """
    if not hosts:
        raise ValueError("a broker's certificate needs at least one host")
    names = [general_name(host) for host in hosts]
    common_name = hosts[0] if len(hosts[0]) <= MAX_NAME else "broker"
    alternatives = x509.SubjectAlternativeName(names)
    return _issue(
        ca, common_name, ExtendedKeyUsageOID.SERVER_AUTH, lifetime=(not_before, not_after), alternatives=alternatives
    )


def client_certificate(ca: Credential, name: str, *, not_before: datetime, not_after: datetime) -> Credential:
    """Return a client's certificate. ``name`` is its common name, by which the broker knows it: 1 to 64 characters."""
    if not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"{name[:80]!r} has {len(name)} characters; a certificate's name has 1 to {MAX_NAME}")
    return _issue(ca, name, ExtendedKeyUsageOID.CLIENT_AUTH, lifetime=(not_before, not_after))


def make_crl(
    ca: Credential, revoked: Iterable[Revoked], *, issued: datetime, next_update: datetime, number: int = 1
) -> bytes:
    """Return the list of revoked certificates as PEM; ``number`` grows with every list.

    A broker refuses *everybody* before ``issued`` and after ``next_update``.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.certificate.subject)
        .last_update(issued)
        .next_update(next_update)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority_key(ca), critical=False)
    )
    for entry in revoked:
        one = x509.RevokedCertificateBuilder().serial_number(entry.serial).revocation_date(entry.when)
        builder = builder.add_revoked_certificate(one.build())
    return builder.sign(ca.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return the certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the private key as PEM (PKCS#8, not encrypted)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_credential(certificate: bytes, key: bytes) -> Credential:
    """Return the credential of two PEM texts; raise ``ValueError`` when they are none, or do not belong together."""
    loaded = x509.load_pem_x509_certificate(certificate)
    private = serialization.load_pem_private_key(key, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not an elliptic curve key")  # noqa: TRY004 - callers look for one exception
    if private.public_key() != loaded.public_key():
        raise ValueError("the key does not belong to the certificate")
    return Credential(loaded, private)


def general_name(host: str) -> x509.GeneralName:
    """Return the host as a subject alternative name; raise ``ValueError`` when it is neither a name nor an address."""
    if is_address(host):
        return x509.IPAddress(ipaddress.ip_address(host))
    if not is_host(host):
        raise ValueError(f"{host[:80]!r} is neither a host name nor an IP address")
    return x509.DNSName(host.lower())


def _issue(
    ca: Credential,
    common_name: str,
    purpose: x509.ObjectIdentifier,
    *,
    lifetime: tuple[datetime, datetime],
    alternatives: x509.SubjectAlternativeName | None = None,
) -> Credential:
    key = _new_key()
    builder = (
        _builder(_name(common_name, _federation(ca)), ca.certificate.subject, key, *lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(_authority_key(ca), critical=False)
    )
    if alternatives is not None:
        builder = builder.add_extension(alternatives, critical=False)
    return Credential(builder.sign(ca.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str, federation: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _federation(ca: Credential) -> str:
    return str(ca.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)


def _authority_key(ca: Credential) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())
