"""A keystore, and a real Mosquitto that runs with the files that were made of it."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from pathlib import Path

from fedmq.embedded_broker import HOST, find_mosquitto
from fedmq.processes import Child
from tests.provision.desk import Desk
from tests.support.federation import wait_until
from tests.support.secure import Guest


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
