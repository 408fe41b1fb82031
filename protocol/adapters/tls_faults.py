"""What went wrong with TLS, in words: which of the two sides does not like what, and what to do about it."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from protocol.clock import moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from protocol.link import DownKind, TlsSettings

_MAX_NAMES = 5
_MAX_NAME = 80

# X509_V_ERR_* of OpenSSL's x509_vfy.h: what our own check of the broker's certificate found.
_SIGNATURE_FAILURE = 7
_NOT_YET_VALID = 9
_EXPIRED = 10
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21}
_REVOKED = 23
_WRONG_PURPOSE = 26
_WRONG_NAME = {62, 64}

_ANOTHER = "ask for another one (fedmq provision)"

_ALERTS = {
    "SSLV3_ALERT_CERTIFICATE_REVOKED": f"it was revoked; {_ANOTHER}",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": f"it has expired (or the broker's clock is fast); {_ANOTHER}",
    "TLSV1_ALERT_UNKNOWN_CA": "it comes from an authority that the broker does not know; take one of its federation",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "there is none; set certificate and key in [broker.tls]",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it is damaged, or not valid yet by the broker's clock; check file and clocks",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it is of a kind that the broker does not take, perhaps not a client's",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not say why; the broker's log does",
    "TLSV1_ALERT_ACCESS_DENIED": "its owner may not connect; see the broker's configuration",
    "TLSV1_ALERT_DECRYPT_ERROR": "its signature is wrong; do certificate and key belong together?",
}
"""What the broker says of our certificate (RFC 8446, section 6.2)."""

_NO_COMMON_VERSION = {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE"}
_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNEXPECTED_MESSAGE", "RECORD_TOO_LARGE"}
_RECORDS = {b"", b"\x15", b"\x16"}
"""How a TLS server may begin: not at all, with an alert, or with the handshake."""
_NO_COMMON_CIPHER = {"SSLV3_ALERT_HANDSHAKE_FAILURE", "NO_SHARED_CIPHER", "NO_CIPHERS_AVAILABLE"}


@dataclass(frozen=True, slots=True)
class TlsFault:
    """One line for people, and a word for programs."""

    reason: str
    kind: DownKind


def explain(
    exc: Exception, settings: TlsSettings, expected: str, shown: Mapping[str, Any], *, first: bytes
) -> TlsFault:
    """Return what the exception of a session means.

    ``shown`` is the broker's certificate as ``getpeercert`` has it, if known; ``first`` the byte that it began with.
    """
    if isinstance(exc, ssl.SSLCertVerificationError):
        return _untrusted(exc, settings, expected, shown)
    if not isinstance(exc, OSError):  # a fault of ours
        return TlsFault(f"fault: {type(exc).__name__}: {exc}"[:200], "fault")
    reason = (exc.reason or "") if isinstance(exc, ssl.SSLError) else ""
    if reason in _ALERTS:
        return TlsFault(f"the broker refused our certificate: {_ALERTS[reason]}", "refused-certificate")
    if reason in _NO_COMMON_CIPHER and not settings.certificate:
        return TlsFault(
            f"the broker refused our certificate: {_ALERTS['TLSV13_ALERT_CERTIFICATE_REQUIRED']}", "refused-certificate"
        )
    return TlsFault(_disagreement(exc, reason, settings, first), "no-tls")


def _disagreement(exc: OSError, reason: str, settings: TlsSettings, first: bytes) -> str:
    if reason in _NO_COMMON_VERSION:
        return (
            f"no common version of TLS: we speak {settings.minimum} or newer, the broker older ones only; update the "
            "broker" + (", or lower broker.tls.minimum" if settings.minimum != "1.2" else "")
        )
    if reason in _NO_COMMON_CIPHER:
        return "the broker and we have no cipher in common, or it does not take our kind of certificate; see its log"
    if reason in _NOT_TLS or first not in _RECORDS:
        return "what answered does not speak TLS: is broker.port right? (MQTT with TLS is usually on 8883)"
    if isinstance(exc, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)):
        if first:
            return "the broker broke off the TLS handshake without saying why; see its log"
        return (
            "the broker hung up at our first words of TLS: is broker.port its port for MQTT without TLS? "
            "(with TLS it is usually 8883)"
        )
    return f"TLS failed: {reason.lower().replace('_', ' ') or exc.strerror or type(exc).__name__}"


def _untrusted(
    exc: ssl.SSLCertVerificationError, settings: TlsSettings, expected: str, shown: Mapping[str, Any]
) -> TlsFault:
    code, clock = exc.verify_code, moment(time.time())
    match code:
        case _ if code == _NOT_YET_VALID:
            return TlsFault(
                f"the broker's certificate is not valid before {_when(shown, 'notBefore')}, and the clock here says "
                f"{clock}: set this clock (by NTP, or date -s); the connection then comes by itself",
                "wrong-clock",
            )
        case _ if code == _EXPIRED:
            text = (
                f"the broker's certificate, or its authority's, has expired (on {_when(shown, 'notAfter')}; the clock "
                f"here says {clock}): renew it (fedmq provision rotate broker), or set this clock"
            )
        case _ if code in _WRONG_NAME:
            text = (
                f"the broker's certificate is for {_names(shown)}, not for {expected[:_MAX_NAME]!r}: connect to a name "
                "of its own, set broker.tls.server_name, or give it a certificate for this name"
            )
        case _ if code in _UNKNOWN_ISSUER:
            text = (
                f"the broker's certificate comes from {_issuer(shown)}, which is not in {settings.ca}: this is "
                "another federation's broker, or broker.tls.ca is not its authority's certificate"
            )
        case _ if code == _SIGNATURE_FAILURE:
            text = (
                f"the broker's certificate is not signed by the authority in {settings.ca}, though it bears its name: "
                "the authority was made anew, or somebody is in between"
            )
        case _ if code == _WRONG_PURPOSE:
            text = "the broker shows a certificate that is not for servers: a client's, perhaps; give it its own"
        case _ if code == _REVOKED:
            text = "the broker's certificate was revoked: renew it (fedmq provision rotate broker)"
        case _:
            text = f"the broker's certificate cannot be trusted: {exc.verify_message}"
    return TlsFault(text, "untrusted-broker")


def _when(shown: Mapping[str, Any], key: str) -> str:
    try:
        return moment(ssl.cert_time_to_seconds(shown[key]))
    except (KeyError, ValueError, TypeError):
        return "an unknown date"


def _names(shown: Mapping[str, Any]) -> str:
    names = [
        repr(str(value)[:_MAX_NAME]) for kind, value in shown.get("subjectAltName", ()) if kind in {"DNS", "IP Address"}
    ]
    if not names:
        return "no name at all (subjectAltName)"
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _issuer(shown: Mapping[str, Any]) -> str:
    for attribute, value in _attributes(shown.get("issuer", ())):
        if attribute == "commonName":
            return f"{str(value)[:_MAX_NAME]!r}"
    return "an authority"


def _attributes(name: Any) -> Iterator[tuple[str, object]]:  # noqa: ANN401 - nested tuples, as the ssl module has them
    for part in name:
        yield from part
