"""What Mosquitto reads again when it is told to, and what it does with files that are broken."""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import broker_config
from fedmq.embedded_broker import HOST, BrokerError, EmbeddedBroker
from tests.support.federation import wait_until
from tests.support.patience import PATIENCE_S
from tests.support.secure import TOPICS, Guest, Keys, secure_broker

A, B = "press-07", "press-08"
DENIED = "Not authorized"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[EmbeddedBroker, Keys]]:
    with secure_broker(tmp_path) as both:
        yield both


def reload(broker: EmbeddedBroker, keys: Keys) -> None:
    """Tell it, and wait until it has: it answers with the ACL's warnings, after everything else was read."""
    before = broker.log.read_text().count("Reloading config.")
    broker.reload()
    wait_until(lambda: broker.log.read_text().count("Reloading config.") > before, "the reload")
    with Guest(broker.port, keys.context("a-witness")):  # let in, or else: it goes on in its loop
        pass


def is_let_in(broker: EmbeddedBroker, keys: Keys, name: str) -> bool:
    try:
        with Guest(broker.port, keys.context(name)) as guest:
            return bool(guest.flags[0] == "Success")
    except ssl.SSLError:
        return False


def refuses(broker: EmbeddedBroker, keys: Keys, name: str) -> bool:
    """Whether the certificate is refused, at TLS 1.2, where the refusal is part of the handshake."""
    context = keys.context(name)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        with Guest(broker.port, context):
            return False
    except ssl.SSLError:
        return True


def test_a_revocation_keeps_out_and_the_acl_silences_at_once(running: tuple[EmbeddedBroker, Keys]) -> None:
    broker, keys = running
    with Guest(broker.port, keys.context(A)) as stolen:
        keys.revoke(A)
        reload(broker, keys)
        assert refuses(broker, keys, A)
        # The connection that it has goes on: certificates are looked at in the handshake only ...
        assert stolen.publish(TOPICS.update(A)) != DENIED
        # ... and a denial in the ACL takes effect with the next message.
        files = broker_config.files("demo", directory=str(keys.folder), revoked=[A])
        (keys.folder / "acl").write_text(files["acl"])
        reload(broker, keys)
        assert stolen.publish(TOPICS.update(A)) == DENIED
        stolen.subscribe("#")
        with Guest(broker.port, keys.context(broker_config.AGGREGATOR)) as aggregator:
            for topic in (TOPICS.receipt(A), TOPICS.current_model, TOPICS.command_all):
                aggregator.publish(topic)
        assert stolen.publish(TOPICS.update(A)) == DENIED
        assert stolen.heard() == []


def test_a_restart_ends_the_connections_of_the_revoked(running: tuple[EmbeddedBroker, Keys]) -> None:
    broker, keys = running
    with Guest(broker.port, keys.context(A)) as stolen:
        keys.revoke(A)
        broker.restart()
        stolen.gone.get(timeout=PATIENCE_S)
        assert refuses(broker, keys, A)
        assert is_let_in(broker, keys, B)


def test_the_brokers_certificate_is_replaced_and_nobody_is_cut_off(running: tuple[EmbeddedBroker, Keys]) -> None:
    broker, keys = running
    with Guest(broker.port, keys.context(A)) as device:
        old = ssl.get_server_certificate((HOST, broker.port))
        keys.renew_broker()
        reload(broker, keys)
        assert ssl.get_server_certificate((HOST, broker.port)) != old
        assert device.publish(TOPICS.update(A)) != DENIED
        assert device.gone.empty()


def test_when_the_list_has_expired_nobody_new_gets_in(running: tuple[EmbeddedBroker, Keys]) -> None:
    broker, keys = running
    with Guest(broker.port, keys.context(A)) as device:
        keys.write_crl(next_update=keys.now - timedelta(hours=1))
        broker.reload()
        wait_until(lambda: refuses(broker, keys, B), "the refusal of everybody")
        assert device.publish(TOPICS.update(A)) != DENIED
        assert device.gone.empty()
    keys.write_crl()
    reload(broker, keys)
    assert is_let_in(broker, keys, B)


FAULTS = {
    "acl": ["nonsense\n", "pattern wrote fedmq/v1/demo/up/1/%u\n", "", None],
    "crl.pem": ["garbage", "", None],
    "broker.key": ["garbage", "", None],
    "broker.crt": ["garbage", "", None],
    "ca.crt": ["garbage", "", None],
}


def damage(path: Path, content: str | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_text(content)


def check_before_reload(folder: Path) -> list[str]:
    """Do what the drop-in does before it sends SIGHUP; return the commands that fail."""
    text = broker_config.files("demo", directory=str(folder))["mosquitto.service.conf"]
    commands = re.findall(r"^ExecReload=(/.+)$", text, flags=re.MULTILINE)
    assert commands[-1] == "/bin/kill -HUP $MAINPID"
    arguments = [shlex.split(command.replace("$$", "$")) for command in commands[:-1]]
    return [words[0] for words in arguments if subprocess.run(words, capture_output=True, check=False).returncode]


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, many in FAULTS.items() for content in many])
def test_a_broken_file_is_noticed_before_a_reload(
    running: tuple[EmbeddedBroker, Keys], name: str, content: str | None
) -> None:
    broker, keys = running
    assert check_before_reload(keys.folder) == []
    damage(keys.folder / name, content)
    assert check_before_reload(keys.folder) != []
    if (name, content) != ("acl", ""):  # an empty ACL is a legal one: nobody may do anything
        broker.stop()
        with contextlib.suppress(BrokerError):  # it listens for a moment before it looks at its key
            broker.restart()
        wait_until(lambda: not broker.running, "the broker's end")


def test_an_expired_list_is_noticed_before_a_reload(running: tuple[EmbeddedBroker, Keys]) -> None:
    _, keys = running
    keys.write_crl(next_update=keys.now - timedelta(hours=1))
    assert check_before_reload(keys.folder) != []


def test_why_reloading_has_to_be_checked(running: tuple[EmbeddedBroker, Keys]) -> None:
    """Mosquitto 2.0 goes on without an ACL, or a revocation list, that it cannot read: the drop-in's reason to be."""
    broker, keys = running
    if "version 2.0." not in broker.log.read_text():
        return
    keys.revoke(A)
    reload(broker, keys)
    (keys.folder / "crl.pem").write_text("garbage")
    (keys.folder / "acl").write_text("nonsense\n")
    reload(broker, keys)
    with Guest(broker.port, keys.context(A)) as stolen:
        assert stolen.publish(TOPICS.update(B)) != DENIED


@pytest.mark.parametrize("local_port", [None, 21883])
def test_mosquitto_takes_every_generated_file(tmp_path: Path, local_port: int | None) -> None:
    with secure_broker(tmp_path, monitors=("wall",), bridges=("north", "south"), local_port=local_port) as (broker, _):
        # Later on it complains of us, sooner or not: we looked whether it listens, without a handshake.
        text, running, _ = broker.log.read_text().partition(" running\n")
        assert running
        assert "rror" not in text.replace("log_type error", "")
        assert "Unknown" not in text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_that_is_taken_up_again_does_not_get_round_a_revocation(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """Who resumes a TLS session shows no certificate: a reload has to end the sessions from before it."""
    with secure_broker(tmp_path) as (broker, keys):
        context = keys.context("press-07")
        context.maximum_version = version

        def connected(before: ssl.SSLSession | None) -> ssl.SSLSocket:
            plain = socket.create_connection((HOST, broker.port), timeout=PATIENCE_S)
            secured = context.wrap_socket(plain, server_hostname=HOST, session=before)
            secured.sendall(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x")
            if not secured.recv(4):
                raise ConnectionResetError
            return secured

        with connected(None) as first:
            session = first.session
        with connected(session) as again:
            assert again.session_reused
        keys.revoke("press-07")
        broker.reload()
        wait_until(lambda: _is_refused(lambda: connected(session)), "the refusal of the resumed session")


def _is_refused(connect: Callable[[], ssl.SSLSocket]) -> bool:
    try:
        connect().close()
    except (ssl.SSLError, ConnectionError):
        return True
    return False
