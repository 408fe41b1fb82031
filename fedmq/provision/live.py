"""A look at a broker that is running: shakes hands as the aggregator would, and says nothing after that."""

from __future__ import annotations

import socket
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from fedmq.provision.files import write_pem
from fedmq.provision.findings import Finding

if TYPE_CHECKING:
    from fedmq.provision.exports import Holdings

CONNECT_S = 10.0
VERDICT_S = 1.0
"""With TLS 1.3 a broker's refusal comes after the handshake; a broker that takes us says nothing until we speak."""

TLS_PORT = "is this the broker's port for TLS (8883)?"

_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = {62, 64}
_OTHER_AUTHORITY = {18, 19, 20, 21}
"""Numbers of OpenSSL's verdicts (X509_V_ERR_...)."""


def broker_findings(holdings: Holdings, host: str, port: int) -> list[Finding]:
    """Return what is wrong with the broker at this address; nothing when the aggregator could connect to it."""
    where = f"{host}:{port}"
    try:
        raw = socket.create_connection((host, port), timeout=CONNECT_S)
    except TimeoutError:
        return [Finding(f"{where} does not answer", "is this the broker's address, and does no firewall stop it?")]
    except OSError as exc:
        return [Finding(f"{where}: {exc.strerror or exc}", "is the broker running, and is this its address?")]
    with raw:
        return _judged(holdings, raw, host, where)


def _judged(holdings: Holdings, raw: socket.socket, host: str, where: str) -> list[Finding]:
    try:
        return _shake_hands(holdings, raw, host, where)
    except ssl.SSLCertVerificationError as exc:
        return [_verdict(holdings, exc, host, where)]
    except ssl.SSLError as exc:
        return [_refusal(exc, where)]
    except OSError as exc:
        return [Finding(f"{where} does not speak TLS: {exc.strerror or exc}", TLS_PORT)]


def _shake_hands(holdings: Holdings, raw: socket.socket, host: str, where: str) -> list[Finding]:
    with _context(holdings).wrap_socket(raw, server_hostname=host) as secured:
        shown = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
        secured.settimeout(VERDICT_S)
        try:
            closed = not secured.recv(1)
        except TimeoutError:
            closed = False
    found = []
    if closed:
        found.append(Finding(f"{where} ends the connection at once", "look into the broker's log"))
    if shown.serial_number != holdings.broker.serial:
        found.append(
            Finding(
                f"{where} shows a certificate that has been replaced since",
                "put the new one in place (sudo fedmq provision install), and reload it: systemctl reload mosquitto",
            )
        )
    return found


def _context(holdings: Holdings) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=holdings.federation.ca.decode())
    with tempfile.TemporaryDirectory(prefix="fedmq-check-") as folder:
        aggregator = holdings.aggregator
        context.load_cert_chain(*write_pem(Path(folder), "aggregator", aggregator.pem, aggregator.key or b""))
    return context


def _verdict(holdings: Holdings, exc: ssl.SSLCertVerificationError, host: str, where: str) -> Finding:
    hosts = ", ".join(holdings.federation.hosts)
    if exc.verify_code in _OTHER_NAME:
        return Finding(
            f"{where} shows a certificate that is not good for {host}; the keystore's is good for {hosts}",
            f"use one of these names, or fedmq provision rotate broker --broker {host}",
        )
    if exc.verify_code == _EXPIRED:
        return Finding(
            f"the certificate that {where} shows has expired, or this machine's clock is ahead",
            "compare the clocks (date); then fedmq provision rotate broker, and put it in place",
        )
    if exc.verify_code == _NOT_YET_VALID:
        return Finding(
            f"the certificate that {where} shows is not valid yet by this machine's clock",
            "set the clock (timedatectl set-ntp true)",
        )
    if exc.verify_code in _OTHER_AUTHORITY:
        return Finding(
            f"{where} shows a certificate of another authority",
            "is this this federation's broker? If so, put the folder broker/ of this keystore in place",
        )
    return Finding(f"{where}: {exc.verify_message}", "put the folder broker/ of this keystore in place")


def _refusal(exc: ssl.SSLError, where: str) -> Finding:
    reason = (exc.reason or str(exc)).lower().replace("_", " ")
    if "alert" in reason:
        return Finding(
            f"{where} refuses the aggregator's certificate: {reason}",
            "put the folder broker/ of this keystore in place: its ca.crt and crl.pem, and look at the broker's clock",
        )
    return Finding(f"{where} does not speak TLS: {reason}", TLS_PORT)
