"""Every way in which TLS says no: which side, why, and what to do, in one line; and it heals by itself."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from cryptography.hazmat.primitives import serialization as s

from fedmq.embedded_broker import start
from protocol.link import LinkDown
from tests.support.certificates import DAY, Authority
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmq.embedded_broker import EmbeddedBroker
    from tests.support.links import Links

BOTH_VERSIONS = pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"], indirect=True)


ONLY_TLS_1_2 = """openssl_conf = openssl_init
[openssl_init]
ssl_conf = ssl_sect
[ssl_sect]
system_default = system_default_sect
[system_default_sect]
MaxProtocol = TLSv1.2
"""


@pytest.fixture
def version(request: pytest.FixtureRequest) -> str:
    """The only version of TLS that ``broker`` speaks."""
    return getattr(request, "param", "tlsv1.3")


@pytest.fixture
def broker(tmp_path: Path, ours: Authority, version: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedBroker]:
    """A Mosquitto with a list of one revoked certificate, that of "stolen"."""
    if version == "tlsv1.2":  # Mosquitto can be told the oldest version only
        configuration = tmp_path / "openssl.cnf"
        configuration.write_text(ONLY_TLS_1_2)
        monkeypatch.setenv("OPENSSL_CONF", str(configuration))
    ours.client("stolen")
    lines = ours.listener(f"crlfile {ours.revoke('stolen')}", f"tls_version {version}")
    with start("mosquitto", tmp_path / "strict", extra=lines) as running:
        yield running


def down(links: Links, port: int, tls: dict[str, str], host: str = "127.0.0.1") -> LinkDown:
    """Return what is told of the first attempt: of the only one, so that nothing of it is about the retry."""
    peer = links(port, settings={"tls": tls, "host": host, "reconnect_min_s": 60.0, "reconnect_max_s": 60.0})
    told = peer.inbox.wait(LinkDown)
    assert "\n" not in told.reason
    assert "PRIVATE" not in told.reason
    return told


# -- the broker does not like ours -----------------------------------------------------------------------------------


@BOTH_VERSIONS
def test_no_certificate(broker: EmbeddedBroker, ours: Authority, links: Links) -> None:
    told = down(links, broker.port, {"ca": str(ours.ca)})
    assert told.kind == "refused-certificate"
    assert "there is none; set certificate and key in [broker.tls]" in told.reason


@BOTH_VERSIONS
def test_a_certificate_of_another_authority(
    broker: EmbeddedBroker, ours: Authority, theirs: Authority, links: Links
) -> None:
    told = down(links, broker.port, {**theirs.client(), "ca": str(ours.ca)})
    assert told.kind == "refused-certificate"
    assert "an authority that the broker does not know" in told.reason


@BOTH_VERSIONS
def test_a_certificate_that_vouches_for_itself(
    broker: EmbeddedBroker, ours: Authority, theirs: Authority, links: Links
) -> None:
    key = theirs.folder / "ca.key"
    key.touch(0o600)
    key.write_bytes(theirs.credential.key_pem)
    told = down(links, broker.port, {"ca": str(ours.ca), "certificate": str(theirs.ca), "key": str(key)})
    assert told.kind == "refused-certificate"
    assert "an authority that the broker does not know" in told.reason


@BOTH_VERSIONS
def test_an_expired_certificate(broker: EmbeddedBroker, ours: Authority, links: Links) -> None:
    told = down(links, broker.port, ours.client("old", since=-9 * DAY, until=-DAY))
    assert told.kind == "refused-certificate"
    assert "it has expired" in told.reason


@BOTH_VERSIONS
def test_a_certificate_of_tomorrow(broker: EmbeddedBroker, ours: Authority, links: Links) -> None:
    told = down(links, broker.port, ours.client("young", since=DAY))
    assert told.kind == "refused-certificate"
    assert "not valid yet by the broker's clock" in told.reason


@BOTH_VERSIONS
def test_a_revoked_certificate(broker: EmbeddedBroker, ours: Authority, links: Links) -> None:
    stolen = {"ca": str(ours.ca), "certificate": f"{ours.folder}/stolen.crt", "key": f"{ours.folder}/stolen.key"}
    told = down(links, broker.port, stolen)
    assert told.kind == "refused-certificate"
    assert "it was revoked" in told.reason


@BOTH_VERSIONS
def test_a_certificate_for_servers(broker: EmbeddedBroker, ours: Authority, links: Links) -> None:
    ours.server(name="server")
    told = down(
        links,
        broker.port,
        {"ca": str(ours.ca), "certificate": f"{ours.folder}/server.crt", "key": f"{ours.folder}/server.key"},
    )
    assert told.kind == "refused-certificate"


# -- we do not like the broker's -------------------------------------------------------------------------------------


def test_a_broker_of_another_federation(
    broker: EmbeddedBroker, ours: Authority, theirs: Authority, links: Links
) -> None:
    told = down(links, broker.port, {**ours.client(), "ca": str(theirs.ca)})
    assert told.kind == "untrusted-broker"
    assert f"comes from 'fedmq CA', which is not in {theirs.ca}" in told.reason


def test_another_name_than_the_one_that_was_asked_for(broker: EmbeddedBroker, ours: Authority, links: Links) -> None:
    told = down(links, broker.port, {**ours.client(), "server_name": "broker.example.com"})
    assert told.kind == "untrusted-broker"
    assert "is for '127.0.0.1', 'localhost', not for 'broker.example.com'" in told.reason
    told = down(links, broker.port, ours.client(), host="127.0.0.2")
    assert told.kind == "unreachable"  # it listens on one address only


def test_the_name_is_the_host_unless_another_one_is_set(broker: EmbeddedBroker, ours: Authority, links: Links) -> None:
    links(broker.port, "one", settings={"tls": ours.client(), "host": "localhost"}).up()
    links(broker.port, "two", settings={"tls": {**ours.client(), "server_name": "localhost"}}).up()


@pytest.mark.parametrize(
    ("lifetime", "kind", "words"),
    [
        ((-9 * DAY, -DAY), "untrusted-broker", ["has expired (on ", "renew it", "set this clock"]),
        ((DAY, 9 * DAY), "wrong-clock", ["not valid before ", "the clock here says ", "comes by itself"]),
    ],
    ids=["expired", "not yet valid"],
)
def test_a_broker_out_of_its_time(  # noqa: PLR0917 - fixtures
    tmp_path: Path, ours: Authority, links: Links, lifetime: tuple[timedelta, timedelta], kind: str, words: list[str]
) -> None:
    ours.server(name="timed", since=lifetime[0], until=lifetime[1])
    with start("mosquitto", tmp_path / "timed", extra=ours.listener(name="timed")) as running:
        told = down(links, running.port, ours.client())
    assert told.kind == kind
    assert all(word in told.reason for word in words), told.reason


def test_a_client_cannot_pose_as_the_broker(tmp_path: Path, ours: Authority, links: Links) -> None:
    ours.client("127.0.0.1")
    with start("mosquitto", tmp_path / "posing", extra=ours.listener(name="127.0.0.1")) as running:
        told = down(links, running.port, ours.client())
    assert told.kind == "untrusted-broker"
    assert "not for servers" in told.reason


def test_an_authority_of_the_same_name_with_another_key(
    tmp_path: Path, broker: EmbeddedBroker, ours: Authority, links: Links
) -> None:
    again = Authority(tmp_path / "again")
    told = down(links, broker.port, {**ours.client(), "ca": str(again.ca)})
    assert told.kind == "untrusted-broker"
    assert "made anew, or somebody is in between" in told.reason or "is not in" in told.reason


# -- no TLS ------------------------------------------------------------------------------------------------------------


def test_a_port_without_tls(mosquitto: EmbeddedBroker, ours: Authority, links: Links) -> None:
    told = down(links, mosquitto.port, ours.client())
    assert told.kind == "no-tls"
    assert "is broker.port its port for MQTT without TLS?" in told.reason


@pytest.mark.parametrize("protocol", ["auto", "5", "3.1.1"])
def test_a_port_that_wants_tls(tls_broker: EmbeddedBroker, links: Links, protocol: str) -> None:
    told = links(tls_broker.port, settings={"protocol": protocol}).inbox.wait(LinkDown)
    assert "if this port is one for TLS, [broker.tls] is missing" in told.reason


@pytest.mark.parametrize("version", ["tlsv1.2"], indirect=True)
def test_a_broker_that_is_too_old(broker: EmbeddedBroker, ours: Authority, links: Links) -> None:
    told = down(links, broker.port, {**ours.client(), "minimum": "1.3"})
    assert told.kind == "no-tls"
    assert "no common version of TLS: we speak 1.3 or newer" in told.reason
    assert "lower broker.tls.minimum" in told.reason


def test_a_broker_that_knows_tls_1_1_only(ours: Authority, links: Links) -> None:
    with Listener(server_context(ours, ssl.TLSVersion.TLSv1_1)) as listener:
        told = down(links, listener.port, ours.client())
    assert told.kind == "no-tls"
    assert "no common version of TLS: we speak 1.2 or newer" in told.reason


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x02\x00\x00", b"\x00" * 40])
def test_what_answers_is_no_tls(ours: Authority, links: Links, answer: bytes) -> None:
    with Listener(None, answer) as listener:
        told = down(links, listener.port, ours.client())
    assert told.kind == "no-tls"
    assert "does not speak TLS: is broker.port right?" in told.reason


# -- our own files -----------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_used_are_named_with_the_cure(ours: Authority, theirs: Authority, links: Links) -> None:
    mine, other = ours.client(), theirs.client()
    Path(ours.folder, "open.key").write_bytes(Path(mine["key"]).read_bytes())
    Path(ours.folder, "junk").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for change, words in [
        ({"ca": "/none"}, "broker.tls.ca /none: cannot be read: No such file"),
        ({"ca": f"{ours.folder}/junk"}, "holds no certificate in PEM form"),
        ({"key": other["key"]}, "is not the key of the certificate"),
        ({"key": f"{ours.folder}/open.key"}, f"chmod 600 {ours.folder}/open.key"),
        ({"key": mine["certificate"]}, "others than its owner can get at it"),
        ({"certificate": f"{ours.folder}/junk"}, "no certificate and key in PEM form"),
        ({"server_name": ".example.com"}, "is no name that a certificate could have"),
    ]:
        with Listener(None) as listener:
            told = down(links, listener.port, {**mine, **change})
        assert told.kind == "configuration"
        assert words in told.reason


def test_an_encrypted_key_asks_nobody_for_a_password(ours: Authority, links: Links) -> None:
    mine = ours.client()
    key = s.load_pem_private_key(Path(mine["key"]).read_bytes(), None)
    secret = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"hush"))
    Path(mine["key"]).write_bytes(secret)
    with Listener(None) as listener:
        told = down(links, listener.port, mine)
    assert told.kind == "configuration"
    assert "is encrypted" in told.reason


def test_what_is_mended_works_without_a_restart(broker: EmbeddedBroker, ours: Authority, links: Links) -> None:
    mine = ours.client()
    Path(mine["key"]).chmod(0o644)
    peer = links(broker.port, settings={"tls": mine})
    assert peer.inbox.wait(LinkDown).kind == "configuration"
    Path(mine["key"]).chmod(0o600)
    peer.up()


# -- servers that Mosquitto would not be -----------------------------------------------------------------------------


def server_context(authority: Authority, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.folder / "broker.crt", authority.folder / "broker.key")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


class Listener:
    """Takes connections; shakes hands with a context, or else reads the first words, answers, and hangs up."""

    def __init__(self, context: ssl.SSLContext | None, answer: bytes = b"") -> None:
        self._context = context
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(PATIENCE_S)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _address = self._socket.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(10.0)
                    if self._context is not None:
                        self._context.wrap_socket(connection, server_side=True)
                    else:
                        connection.recv(65536)
                        connection.sendall(self._answer)
