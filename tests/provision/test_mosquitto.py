"""A real Mosquitto, started with the files that ``fedmq provision`` wrote."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedmq.__main__ import app
from fedmq.embedded_broker import HOST, EmbeddedBroker, find_mosquitto
from fedmq.processes import Child
from protocol.topics import Topics
from tests.provision.desk import Desk
from tests.support.federation import wait_until
from tests.support.secure import Guest

TOPICS = Topics("plant")
DENIED = "Not authorized"


class Plant:
    """A keystore, and a broker that has its files where ``install`` puts them below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.desk = Desk(folder / "keystore")
        self.port = free_port()
        self.desk.init("--port", str(self.port))
        self.root = folder / "root"
        self.configuration = folder / "mosquitto.conf"
        self.install()
        binary = find_mosquitto()
        assert binary
        self.child = Child("mosquitto", [binary, "-c", str(self.configuration)], folder / "mosquitto.log")
        self.child.start()
        wait_until(self.listens, "the broker")

    def install(self) -> None:
        """Install the files, and move the paths in the configuration below the folder."""
        self.desk("install", "broker", "--root", str(self.root))
        text = (self.root / "etc/mosquitto/conf.d/fedmq.conf").read_text(encoding="utf-8")
        moved = text.replace(" /etc/", f" {self.root}/etc/")
        self.configuration.write_text(f"{moved}\nuser root\n", encoding="utf-8")

    def reload(self) -> None:
        before = self.log().count("Reloading config.")
        self.install()
        pid = self.child.pid
        assert pid
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: self.log().count("Reloading config.") > before, "the reload")
        with Guest(self.port, self.context("witness")):  # let in, or else: it goes on in its loop
            pass

    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(encoding="utf-8")

    def listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex((HOST, self.port)) == 0

    def context(self, name: str, folder: str = "bundles") -> ssl.SSLContext:
        """Return TLS as the bearer of the bundle speaks it; the bundle is remembered, also when it is revoked."""
        where = self.folder / "carried" / folder / name
        if not where.exists():
            self.desk.unpack(name, where, folder)
        context = ssl.create_default_context(cafile=str(where / "ca.crt"))
        context.load_cert_chain(where / "identity.crt", where / "identity.key")
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # here a refusal is part of the handshake
        return context

    def refuses(self, name: str) -> bool:
        try:
            with Guest(self.port, self.context(name)):
                return False
        except ssl.SSLError:
            return True


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    with ExitStack() as stack:
        made = Plant(tmp_path)
        stack.callback(made.child.kill)
        made.desk("device", "press-01", "press-02", "witness")
        yield made


def test_devices_come_in_and_a_revoked_one_is_shut_out_at_once(plant: Plant) -> None:
    with Guest(plant.port, plant.context("press-01")) as stolen, Guest(plant.port, plant.context("press-02")) as other:
        assert stolen.publish(TOPICS.device_state("press-01")) != DENIED
        assert stolen.publish(TOPICS.device_state("press-02")) == DENIED

        plant.desk("revoke", "press-01")
        plant.reload()

        assert plant.refuses("press-01")
        assert stolen.publish(TOPICS.device_state("press-01")) == DENIED
        assert other.publish(TOPICS.device_state("press-02")) != DENIED
    assert not plant.refuses("press-02")
    plant.desk("device", "press-01", "--again")
    plant.desk.unpack("press-01", plant.folder / "carried" / "bundles" / "press-01-again")
    plant.reload()
    with Guest(plant.port, plant.context("press-01-again")) as again:
        assert again.publish(TOPICS.device_state("press-01")) != DENIED


def test_the_overlap_of_a_device_ends_when_it_is_told_to(plant: Plant) -> None:
    plant.context("press-01")
    plant.desk("rotate", "device", "press-01")
    plant.desk.unpack("press-01", plant.folder / "carried" / "bundles" / "press-01-new")

    plant.reload()
    assert not plant.refuses("press-01")
    assert not plant.refuses("press-01-new")
    plant.desk("rotate", "device", "press-01", "--end-overlap")
    plant.reload()
    assert plant.refuses("press-01")
    with Guest(plant.port, plant.context("press-01-new")) as device:
        assert device.publish(TOPICS.device_state("press-01")) != DENIED


def test_check_looks_at_the_broker_itself(plant: Plant, tmp_path: Path) -> None:
    where = f"localhost:{plant.port}"
    assert "all is well" in plant.desk("check", "--connect", where)
    plant.desk("rotate", "broker", "--broker", "127.0.0.1")
    assert "has been replaced since" in plant.desk.findings("--connect", where)
    plant.reload()
    assert "is not good for localhost" in plant.desk.findings("--connect", where)
    assert "replaced since" not in plant.desk.findings("--connect", f"127.0.0.1:{plant.port}")
    plant.desk("rotate", "broker", "--broker", "localhost", "--broker", "127.0.0.1")
    plant.reload()

    other = Desk(tmp_path / "other")
    other.init()
    assert "of another authority" in other.findings("--connect", where)
    assert "refused" in plant.desk.findings("--connect", f"localhost:{free_port()}")

    plant.desk("rotate", "aggregator")
    plant.desk("rotate", "aggregator", "--end-overlap")  # the broker has not heard of it, and takes the new one
    assert "all is well" in plant.desk("check", "--connect", where)


def test_check_tells_of_a_port_without_tls(desk: Desk, broker: EmbeddedBroker) -> None:
    assert "does not speak TLS" in desk.findings("--connect", f"127.0.0.1:{broker.port}")


def test_a_monitor_watches_with_its_bundle(plant: Plant) -> None:
    plant.desk("monitor", "office")
    plant.reload()
    bundle = plant.desk.folder / "monitors" / "office.fedmq"
    state = b'{"device_id": "press-01", "state": "idle", "boot_id": "b", "version": 1}'
    with Guest(plant.port, plant.context("press-01")) as device:
        assert device.publish(TOPICS.device_state("press-01"), state, retain=True) != DENIED

    result = CliRunner().invoke(app, ["monitor", "--bundle", str(bundle), "--json"])
    assert result.exit_code == 0, result.output
    assert "plant" in result.stdout
    wrong = CliRunner().invoke(app, ["monitor", "--bundle", str(plant.desk.folder / "bundles" / "press-01.fedmq")])
    assert wrong.exit_code == 1
    assert "fedmq provision monitor NAME" in wrong.stderr
