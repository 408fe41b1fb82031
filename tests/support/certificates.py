"""Certificates for tests, over ``fedmq.provision.authority``, and brokers that want them. A plugin: see conftest.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from fedmq.embedded_broker import EmbeddedBroker, start
from fedmq.provision import authority
from fedmq.provision.files import write_pem, write_public
from tests.support.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = timedelta(days=1)
BROKER = "broker"


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class Authority:
    """A federation's authority in a folder: ``ca.crt``, and what it issues next to it."""

    def __init__(self, folder: Path, federation: str = "demo") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.credential = authority.make_ca(federation, not_before=now() - DAY, not_after=now() + 3650 * DAY)
        self.serials: dict[str, int] = {}
        self.ca = folder / "ca.crt"
        write_public(self.ca, self.credential.certificate_pem)

    def server(self, *hosts: str, name: str = BROKER, since: timedelta = -DAY, until: timedelta = 365 * DAY) -> None:
        """Write a broker's certificate and key as NAME.crt and NAME.key; times are relative to now."""
        issued = authority.server_certificate(
            self.credential, hosts or ("127.0.0.1", "localhost"), not_before=now() + since, not_after=now() + until
        )
        write_pem(self.folder, name, issued.certificate_pem, issued.key_pem)

    def client(
        self, common_name: str = "tester", *, since: timedelta = -DAY, until: timedelta = 365 * DAY
    ) -> dict[str, str]:
        """Write a client's certificate and key, and return ``[broker.tls]`` for it."""
        issued = authority.client_certificate(
            self.credential, common_name, not_before=now() + since, not_after=now() + until
        )
        self.serials[common_name] = issued.certificate.serial_number
        file = common_name.replace(":", "-")
        certificate, key = write_pem(self.folder, file, issued.certificate_pem, issued.key_pem)
        return {"ca": str(self.ca), "certificate": str(certificate), "key": str(key)}

    def revoke(self, *common_names: str) -> Path:
        """Write the list of revoked certificates and return its path."""
        revoked = [authority.Revoked(self.serials[name], now() - DAY) for name in common_names]
        path = self.folder / "crl.pem"
        write_public(
            path, authority.make_crl(self.credential, revoked, issued=now() - DAY, next_update=now() + 30 * DAY)
        )
        return path

    def listener(self, *lines: str, name: str = BROKER) -> str:
        """Return the lines that make Mosquitto's listener one for TLS with this authority's clients."""
        own = [f"cafile {self.ca}", f"certfile {self.folder / name}.crt", f"keyfile {self.folder / name}.key"]
        return "\n".join([*own, "require_certificate true", *lines]) + "\n"


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    """The authority of our federation, with a certificate for the broker on 127.0.0.1."""
    made = Authority(tmp_path / "ours")
    made.server()
    return made


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    """The authority of another federation."""
    made = Authority(tmp_path / "theirs", "other")
    made.server()
    return made


@pytest.fixture
def me(ours: Authority) -> dict[str, Any]:
    """The settings of a link with a certificate of ours."""
    return {"tls": ours.client()}


@pytest.fixture
def tls_broker(tmp_path: Path, ours: Authority) -> Iterator[EmbeddedBroker]:
    """A Mosquitto that speaks TLS with clients that have a certificate of ours, and with nobody else."""
    with start("mosquitto", tmp_path / "tls-mosquitto", extra=ours.listener()) as broker:
        yield broker


@pytest.fixture
def tls_proxy(tls_broker: EmbeddedBroker) -> Iterator[FaultProxy]:
    """A fault proxy in front of ``tls_broker``."""
    with FaultProxy(tls_broker.port) as running:
        yield running
