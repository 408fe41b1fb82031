"""Who is not let in, what the client is told, and what the broker's log says."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import pytest

from fedmq.embedded_broker import HOST, EmbeddedBroker
from fedmq.provision.authority import Credential, client_certificate, make_ca, server_certificate
from tests.support.federation import wait_until
from tests.support.patience import PATIENCE_S
from tests.support.secure import DAY, FEDERATION, Guest, Keys

OF_TLS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
UNVERIFIED = "certificate verify failed"


def expired(keys: Keys) -> Credential:
    return client_certificate(keys.ca, "press-07", not_before=keys.now - 3 * DAY, not_after=keys.now - DAY)


def not_yet_valid(keys: Keys) -> Credential:
    return client_certificate(keys.ca, "press-07", not_before=keys.now + DAY, not_after=keys.now + 3 * DAY)


def of_another_authority(keys: Keys) -> Credential:
    other = make_ca(FEDERATION, not_before=keys.now - DAY, not_after=keys.now + DAY)
    return client_certificate(other, "press-07", not_before=keys.now - DAY, not_after=keys.now + DAY)


def self_signed(keys: Keys) -> Credential:
    return make_ca(FEDERATION, not_before=keys.now - DAY, not_after=keys.now + DAY)


def for_servers(keys: Keys) -> Credential:
    return server_certificate(keys.ca, ["press-07"], not_before=keys.now - DAY, not_after=keys.now + DAY)


def revoked(keys: Keys) -> Credential:
    return keys.client("stolen")


BAD: list[tuple[Callable[[Keys], Credential], str]] = [
    (expired, "certificate expired"),
    (not_yet_valid, "bad certificate"),
    (of_another_authority, "unknown ca"),
    (self_signed, "unknown ca"),
    (for_servers, "unsupported certificate"),
    (revoked, "certificate revoked"),
]


@pytest.fixture(scope="module")
def broker(secured: tuple[EmbeddedBroker, Keys]) -> tuple[EmbeddedBroker, Keys]:
    broker, keys = secured
    keys.revoke("stolen")
    broker.restart()
    return secured


def alert(broker: EmbeddedBroker, context: ssl.SSLContext) -> str:
    """Shake hands, say nothing, and return the broker's TLS alert in plain words.

    With TLS 1.3 the alert comes after the client's side of the handshake. A client that has sent its CONNECT by then
    may see no more than a reset: the broker closes with the CONNECT unread.
    """
    with socket.create_connection((HOST, broker.port), timeout=PATIENCE_S) as sock:
        try:
            with context.wrap_socket(sock, server_hostname=HOST) as tls:
                answer = tls.recv(100)
        except ssl.SSLError as exc:
            return str(exc.reason).lower().replace("_", " ")
    return f"let in: {answer!r}"


def logged(broker: EmbeddedBroker, before: int, text: str) -> None:
    wait_until(lambda: text in broker.log.read_text()[before:], f"{text!r} in the broker's log")


@pytest.mark.parametrize("version", OF_TLS)
@pytest.mark.parametrize(("make", "told"), BAD)
def test_a_bad_certificate_is_refused_and_both_ends_say_why(
    broker: tuple[EmbeddedBroker, Keys], make: Callable[[Keys], Credential], told: str, version: ssl.TLSVersion
) -> None:
    mosquitto, keys = broker
    keys.put("bad", make(keys))
    context = ssl.create_default_context(cafile=str(keys.folder / "ca.crt"))
    context.load_cert_chain(*keys.paths("bad"))
    context.minimum_version = context.maximum_version = version
    before = len(mosquitto.log.read_text())
    assert told in alert(mosquitto, context)
    logged(mosquitto, before, UNVERIFIED)
    assert "New client connected" not in mosquitto.log.read_text()[before:]


@pytest.mark.parametrize("version", OF_TLS)
def test_no_certificate_is_refused(broker: tuple[EmbeddedBroker, Keys], version: ssl.TLSVersion) -> None:
    mosquitto, keys = broker
    context = keys.context(None)
    context.minimum_version = context.maximum_version = version
    before = len(mosquitto.log.read_text())
    assert alert(mosquitto, context) in {"sslv3 alert handshake failure", "tlsv13 alert certificate required"}
    logged(mosquitto, before, "peer did not return a certificate")


@pytest.mark.parametrize("version", OF_TLS)
def test_a_good_certificate_is_let_in_by_either_version(
    broker: tuple[EmbeddedBroker, Keys], version: ssl.TLSVersion
) -> None:
    mosquitto, keys = broker
    context = keys.context("press-08")
    context.minimum_version = context.maximum_version = version
    with Guest(mosquitto.port, context) as guest:
        assert guest.flags == ("Success", False)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_1_1_is_refused(broker: tuple[EmbeddedBroker, Keys]) -> None:
    mosquitto, keys = broker
    context = keys.context("press-08")
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else our own library would not even ask
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    before = len(mosquitto.log.read_text())
    assert "protocol version" in alert(mosquitto, context)
    logged(mosquitto, before, "unsupported protocol")


def test_a_weak_cipher_is_refused(broker: tuple[EmbeddedBroker, Keys]) -> None:
    mosquitto, keys = broker
    context = keys.context("press-08")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
    before = len(mosquitto.log.read_text())
    assert "handshake failure" in alert(mosquitto, context)
    logged(mosquitto, before, "no shared cipher")


def test_mqtt_without_tls_is_refused(broker: tuple[EmbeddedBroker, Keys]) -> None:
    mosquitto, _ = broker
    before = len(mosquitto.log.read_text())
    with socket.create_connection((HOST, mosquitto.port), timeout=PATIENCE_S) as sock:
        sock.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04evil")
        try:
            answer = sock.recv(100)
        except ConnectionResetError:
            answer = b""
        assert answer[:1] in (b"", b"\x15")  # a TLS alert (record type 21) at most, and the end
    logged(mosquitto, before, "wrong version number")


def test_the_log_has_no_secrets(broker: tuple[EmbeddedBroker, Keys]) -> None:
    mosquitto, keys = broker
    with Guest(mosquitto.port, keys.context("press-08")) as guest:
        guest.publish("fedmq/v1/demo/device/press-08/state", b"a payload")
    text = mosquitto.log.read_text()
    assert "press-08" in text
    assert "a payload" not in text
    assert "PRIVATE" not in text
