"""The certificates are what TLS takes them for: a real handshake says so."""

from __future__ import annotations

import ipaddress
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedmq.provision.authority import (
    Credential,
    Revoked,
    client_certificate,
    make_ca,
    make_crl,
    read_credential,
    server_certificate,
)
from fedmq.provision.files import TEMPORARY, sweep, write_pem, write_public, write_secret

NOW = datetime.now(UTC).replace(microsecond=0)
FROM, TO = NOW - timedelta(days=1), NOW + timedelta(days=30)


@pytest.fixture(scope="module")
def ca() -> Credential:
    return make_ca("site-a", not_before=FROM, not_after=TO)


def handshake(
    folder: Path, ca: Credential, server: Credential, client: Credential | None, name: str, *, crl: bytes = b""
) -> None:
    """Shake hands in memory; raise ``ssl.SSLError`` when either end refuses."""
    folder.mkdir(exist_ok=True)
    (folder / "ca.crt").write_bytes(ca.certificate_pem)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.maximum_version = ssl.TLSVersion.TLSv1_2  # here the server's verdict on the client is part of the handshake
    serving.load_cert_chain(*write_pem(folder, "server", server.certificate_pem, server.key_pem))
    serving.load_verify_locations(folder / "ca.crt")
    serving.verify_mode = ssl.CERT_REQUIRED
    if crl:
        (folder / "crl.pem").write_bytes(crl)
        serving.load_verify_locations(folder / "crl.pem")
        serving.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    asking = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python 3.13 does by default
    if client:
        asking.load_cert_chain(*write_pem(folder, "client", client.certificate_pem, client.key_pem))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        asking.wrap_bio(to_client, to_server, server_hostname=name),
        serving.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in tuple(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not ends


def test_both_ends_trust_each_other(tmp_path: Path, ca: Credential) -> None:
    server = server_certificate(ca, ["broker.plant", "10.1.2.3", "::1"], not_before=FROM, not_after=TO)
    client = client_certificate(ca, "press-07", not_before=FROM, not_after=TO)

    for name in ("broker.plant", "10.1.2.3", "::1"):
        handshake(tmp_path / name.replace(":", "_"), ca, server, client, name)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(tmp_path, ca, server, client, "other.plant")


def test_neither_end_plays_the_others_part(tmp_path: Path, ca: Credential) -> None:
    server = server_certificate(ca, ["localhost"], not_before=FROM, not_after=TO)
    client = client_certificate(ca, "localhost", not_before=FROM, not_after=TO)

    with pytest.raises(ssl.SSLError):
        handshake(tmp_path / "a", ca, client, client, "localhost")
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path / "b", ca, server, server, "localhost")
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path / "c", ca, server, None, "localhost")


def test_times_and_revocation_count(tmp_path: Path, ca: Credential) -> None:
    server = server_certificate(ca, ["localhost"], not_before=FROM, not_after=TO)
    client = client_certificate(ca, "press-07", not_before=FROM, not_after=TO)
    other = client_certificate(ca, "press-08", not_before=FROM, not_after=TO)
    expired = client_certificate(ca, "press-07", not_before=FROM, not_after=NOW - timedelta(hours=1))
    early = client_certificate(ca, "press-07", not_before=NOW + timedelta(hours=1), not_after=TO)
    crl = make_crl(ca, [Revoked(client.certificate.serial_number, NOW)], issued=FROM, next_update=TO)
    old_crl = make_crl(ca, [], issued=FROM, next_update=NOW - timedelta(hours=1))

    handshake(tmp_path / "fine", ca, server, other, "localhost", crl=crl)
    for folder, refused, crl_ in [("a", expired, b""), ("b", early, b""), ("c", client, crl), ("d", other, old_crl)]:
        with pytest.raises(ssl.SSLError):
            handshake(tmp_path / folder, ca, server, refused, "localhost", crl=crl_)


def test_what_stands_in_a_certificate(ca: Credential) -> None:
    server = server_certificate(ca, ["Broker.Plant", "10.1.2.3"], not_before=FROM, not_after=TO).certificate
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    device = client_certificate(ca, "role:aggregator", not_before=FROM, not_after=TO).certificate

    assert names.get_values_for_type(x509.DNSName) == ["broker.plant"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.1.2.3")]
    assert device.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "role:aggregator"
    assert isinstance(device.public_key(), ec.EllipticCurvePublicKey)
    assert device.not_valid_before_utc == FROM
    assert device.not_valid_after_utc == TO
    assert device.serial_number != server.serial_number
    server.verify_directly_issued_by(ca.certificate)


@pytest.mark.parametrize("host", ["", "a b", "10.0.0.256", "-a", "a..b", "bröker", "a" * 64, "*.plant", "a/b"])
def test_what_is_no_host_is_refused(ca: Credential, host: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor an IP address"):
        server_certificate(ca, [host], not_before=FROM, not_after=TO)


def test_names_have_a_length(ca: Credential) -> None:
    with pytest.raises(ValueError, match="65 characters"):
        client_certificate(ca, "x" * 65, not_before=FROM, not_after=TO)
    with pytest.raises(ValueError, match="at least one host"):
        server_certificate(ca, [], not_before=FROM, not_after=TO)
    long = ".".join(["a" * 60] * 3)
    assert server_certificate(ca, [long], not_before=FROM, not_after=TO).certificate.subject


def test_a_credential_is_read_back(ca: Credential) -> None:
    again = read_credential(ca.certificate_pem, ca.key_pem)
    assert again.certificate == ca.certificate
    other = client_certificate(ca, "x", not_before=FROM, not_after=TO)
    with pytest.raises(ValueError, match="does not belong"):
        read_credential(ca.certificate_pem, other.key_pem)


def test_files_are_whole_and_secret_ones_private(tmp_path: Path) -> None:
    write_secret(tmp_path / "key", b"old")
    write_secret(tmp_path / "key", b"new")
    write_public(tmp_path / "crt", b"public")
    (tmp_path / f"{TEMPORARY}left").write_bytes(b"half")
    sweep(tmp_path)

    assert (tmp_path / "key").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "crt").stat().st_mode) == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crt", "key"]
